"""Floating-point images are in [0, 1]: others, of 0 to 255 or normalised already, are refused rather than cut off.

What resizing overshoots by, as bicubic does at an edge, is cut off without a word.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["RangeWatch", "check_range"]

LOW, HIGH = -0.5, 1.5


def check_range(images: Tensor, advice: str, wait: bool = False) -> None:
    """Raise `ValueError` unless floating-point ``images`` (B, C, H, W) on a CPU are about in [0, 1]; it ends with ``advice``.

    Those on a GPU are looked at where the caller will ``wait`` for it, those in a program that is traced never.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not images.is_floating_point() or images.numel() == 0 or traced:
        return
    if images.device.type != "cpu" and not wait:
        return
    try:
        low, high = (bound.item() for bound in images.detach().aminmax())
    except RuntimeError:  # torch.func.vmap shows no values
        return
    if low != low:
        rows = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"images {str(rows[:8])[1:-1]} hold NaN: expected floating point in [0, 1]; look at what reads them"
        )
    _refuse(low, high, advice)


def _refuse(low: float, high: float, advice: str) -> None:
    if not (low >= LOW and high <= HIGH):
        raise ValueError(
            f"images hold values from {low:.3g} to {high:.3g}: expected floating point in [0, 1], or uint8; divide pixels of 0 "
            f"to 255 by 255, or give them as uint8{advice}"
        )


class RangeWatch:
    """``check_range`` on every device: of images on a GPU the range arrives behind the work, and a later call refuses it.

    On a CPU every batch is looked at before it is used. On a GPU nothing waits: the two numbers are copied while the host goes
    on, and a call that finds them there looks at them and sends for the next.
    """

    def __init__(self) -> None:
        self._coming: tuple[Tensor, torch.cuda.Event] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RangeWatch, ()  # a copy begins anew: what is under way on a GPU cannot be copied

    def __call__(self, images: Tensor, advice: str) -> None:
        check_range(images, advice)
        if not images.is_cuda or not images.is_floating_point() or images.numel() == 0:
            return
        if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
            return
        if self._coming is not None and self._coming[1].query():
            low, high = self._coming[0].tolist()
            self._coming = None
            _refuse(low, high, advice)
        if self._coming is None:
            bounds = torch.stack(images.detach().aminmax()).float().to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._coming = bounds, event
