"""A batch of images and a seed in, views out: what the training loop calls."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from augment.config import AugmentConfig
from augment.parameters import ViewParameters
from augment.reference import apply_reference
from augment.sampling import sample_parameters

__all__ = ["ViewGenerator"]

Backend = Literal["fused", "reference"]


class ViewGenerator(nn.Module):
    """Draws the parameters of views (``sample``) and applies them (``apply``); a call does both.

    Args:
        config: what is drawn, and from which ranges.
        backend: "reference" applies Kornia's operations one after the other.

    Shapes:
        images (B, C, H, W), uint8 or floating point in [0, 1], C = 1 or 3 -> views (V, B, C, S, S) float32.

    Example:
        >>> generator = ViewGenerator(AugmentConfig(size=32, views=2))
        >>> images = torch.randint(256, (4, 3, 48, 64), dtype=torch.uint8)
        >>> generator(images, seed=0).shape
        torch.Size([2, 4, 3, 32, 32])
        >>> torch.equal(generator(images, seed=0), generator(images, seed=0))
        True
    """

    def __init__(self, config: AugmentConfig, backend: Backend = "reference") -> None:
        super().__init__()
        if backend not in ("reference",):
            raise ValueError(f"backend is {backend!r}: expected 'reference'")
        self.config = config
        self.backend = backend

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}, config={self.config}"

    def forward(self, images: Tensor, seed: int | None = None) -> Tensor:
        """Views (V, B, C, S, S) of images (B, C, H, W). The same seed gives the same views; ``None`` draws afresh."""
        _check_images(images, self.config)
        height, width = images.shape[-2:]
        return self.apply(images, self.sample(len(images), (height, width), seed, images.device))

    def sample(
        self,
        batch: int,
        image_size: tuple[int, int],
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> ViewParameters:
        """Draw the parameters of ``batch`` images of ``image_size`` (height, width): all the randomness there is.

        Several processes that share a batch draw it whole under one seed and take their own images with ``rows``: the
        views then do not depend on how many processes there are.
        """
        return sample_parameters(self.config, batch, image_size, seed, device)

    def apply(self, images: Tensor | Callable[[nn.Module], None], parameters: ViewParameters | None = None) -> Any:
        """Apply drawn parameters to images (B, C, H, W): deterministic, (V, B, C, S, S).

        ``nn.Module.apply(fn)`` shares the name; called with a function alone, this is that method.

        Raises:
            ValueError: the parameters were drawn for another number or size of images.
        """
        if parameters is None:
            if isinstance(images, Tensor):
                raise TypeError("parameters are missing: draw them with sample(), or call the generator itself")
            return super().apply(images)
        if not isinstance(images, Tensor):
            raise TypeError(f"images are {type(images).__name__}: expected a tensor (B, C, H, W)")
        _check_images(images, self.config)
        _check_parameters(images, parameters)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return apply_reference(images.float(), parameters, self.config)


def _check_images(images: Tensor, config: AugmentConfig) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have the shape {tuple(images.shape)}: expected (B, C, H, W) with C = 1 or 3")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}: expected uint8, or floating point in [0, 1]")
    if config.mean is not None and len(config.mean) not in (1, images.shape[1]):
        raise ValueError(
            f"mean has {len(config.mean)} values and the images {images.shape[1]} channel: set one of each"
        )


def _check_parameters(images: Tensor, parameters: ViewParameters) -> None:
    if parameters.batch != len(images) or parameters.image_size != tuple(images.shape[-2:]):
        raise ValueError(
            f"parameters were drawn for {parameters.batch} images of {parameters.image_size}, but got {len(images)} of "
            f"{tuple(images.shape[-2:])}: sample() with this batch and image size, or take rows() of the global batch"
        )
    if parameters.device != images.device:
        raise ValueError(
            f"parameters are on {parameters.device} and images on {images.device}: move one of them with .to()"
        )
