"""Augmentation of the user's own, before or after ours: any function of a batch, Kornia's modules among them."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["After", "Before", "OwnOperation", "seeded"]

Operation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Before:
    """``simclr.pretrain(augment=Before(f))``: f acts on the whole images, before their views are cropped out.

    f is called once a step with this process's images (B, C, H, W), floating point in [0, 1] and on the device, and gives as
    many of the same shape. Crops are then cut from squares of ``data.size``, not from the pictures' own pixels.
    """

    operation: Operation


@dataclass(frozen=True)
class After:
    """``simclr.pretrain(augment=After(f))``: f acts on the finished views, before mean and deviation are applied.

    f is called once a step with this process's views (V * B, C, S, S), floating point in [0, 1] and on the device, the first
    views of all images first, and gives as many of the same shape.
    """

    operation: Operation


class OwnOperation(nn.Module):
    """A function of a batch, held to its promise: the same shape, floating point. No gradient goes through it.

    >>> OwnOperation(torch.flip)(torch.zeros(2, 3, 4, 4))
    Traceback (most recent call last):
        ...
    TypeError: flip() missing 1 required positional arguments: "dims"

    Raises:
        ValueError: what it gives is no tensor of the same shape.
    """

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in, as many out; uint8 comes as floating point in [0, 1]."""
        if not images.is_floating_point():
            images = images.float() / 255
        with torch.autocast(images.device.type, enabled=False):
            made = self.operation(images)
        if not isinstance(made, Tensor) or made.shape != images.shape or not made.is_floating_point():
            found = f"{made.dtype} of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            name = getattr(self.operation, "__name__", type(self.operation).__name__)
            raise ValueError(
                f"the augmentation {name} made {found} of images of shape {tuple(images.shape)}; expected as many of the same "
                "shape, floating point in [0, 1]"
            )
        return made.to(images.dtype)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, what is drawn from the generators of Python, NumPy and torch depends on ``seed`` alone; outside nothing changes."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # which most libraries still draw from
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
