"""Boxes of random crops: torchvision's ``RandomResizedCrop`` for many images at once, of one size or each of its own."""

import math
from typing import Annotated

import torch
from torch import Tensor

from augment.config import AugmentConfig

__all__ = ["CROP_DRAWS", "DRAWS", "crop_boxes", "crop_uniforms"]

_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many

CROP_DRAWS = 2 * _TRIES + 2
"""Uniform numbers that the box of a crop takes: they are the first of those drawn for a view."""

DRAWS = CROP_DRAWS + 20
"""Uniform numbers drawn for a view in all, whatever is switched on."""


def crop_uniforms(config: AugmentConfig, batch: int, seed: int) -> Annotated[Tensor, "float32 K V B"]:
    """The numbers from which ``crop_boxes`` makes the boxes of a batch, (22, V, B) on the CPU.

    They are those that ``ViewGenerator.sample`` draws on a CPU under the same seed, so that whoever decodes an image knows its
    crops without having seen any other.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((DRAWS, config.views, batch), generator=generator)[:CROP_DRAWS]


def crop_boxes(
    config: AugmentConfig,
    uniforms: Annotated[Tensor, "float32 K V B"],
    height: int | Annotated[Tensor, "int64 B"],
    width: int | Annotated[Tensor, "int64 B"],
) -> Annotated[Tensor, "int64 V B 4"]:
    """Boxes (V, B, 4), top, left, height and width in pixels, of images of one size, or with heights and widths (B,).

    The distribution is that of torchvision's ``RandomResizedCrop.get_params``: its ten tries, all drawn at once, the first that
    fits selected, else a central box.
    """
    area = height * width * _between(uniforms[:_TRIES], *config.crop_scale)  # (T, V, B)
    low, high = config.crop_ratio
    ratio = torch.exp(_between(uniforms[_TRIES : 2 * _TRIES], math.log(low), math.log(high)))
    crop_width = torch.round(torch.sqrt(area * ratio))
    crop_height = torch.round(torch.sqrt(area / ratio))
    fits = (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
    tries = torch.arange(_TRIES, device=fits.device)[:, None, None]
    first = torch.where(fits, tries, _TRIES).amin(0, keepdim=True)  # (1, V, B), the number of tries if none fits

    central_height, central_width = _central_crop(height, width, low, high)
    found = first < _TRIES
    pick = first.clamp(max=_TRIES - 1)
    crop_height = torch.where(found, crop_height.gather(0, pick), central_height)[0]  # (V, B)
    crop_width = torch.where(found, crop_width.gather(0, pick), central_width)[0]

    free_height, free_width = height - crop_height, width - crop_width
    # floor(u * (free + 1)) is uniform on 0 .. free; the minimum guards the product's rounding up to free + 1.
    top = torch.minimum(torch.floor(uniforms[2 * _TRIES] * (free_height + 1)), free_height)
    left = torch.minimum(torch.floor(uniforms[2 * _TRIES + 1] * (free_width + 1)), free_width)
    top = torch.where(found[0], top, (height - central_height) // 2)
    left = torch.where(found[0], left, (width - central_width) // 2)
    return torch.stack((top, left, crop_height, crop_width), dim=-1).long()


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _central_crop(
    height: int | Tensor, width: int | Tensor, low: float, high: float
) -> tuple[int, int] | tuple[Tensor, Tensor]:
    """Height and width of the largest box whose ratio is the allowed one closest to the image's."""
    if isinstance(height, Tensor) or isinstance(width, Tensor):
        high_side, wide_side = (torch.as_tensor(side).double() for side in (height, width))
        ratio = wide_side / high_side
        flat = torch.minimum(torch.round(wide_side / low), high_side)
        narrow = torch.minimum(torch.round(high_side * high), wide_side)
        return (
            torch.where(ratio < low, flat, high_side).float(),
            torch.where(ratio > high, narrow, wide_side).float(),
        )
    if width / height < low:
        return min(round(width / low), height), width
    if width / height > high:
        return height, min(round(height * high), width)
    return height, width
