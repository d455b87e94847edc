"""The deterministic way from an image to what an encoder sees: resize, make it square, normalise."""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from augment.pixel_range import check_range

__all__ = ["Fit", "preprocess"]

Fit = Literal["crop", "pad", "stretch"]


def preprocess(
    images: Annotated[Tensor, "uint8|float B C H W"],
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fit: Fit = "crop",
) -> Annotated[Tensor, "float32 B C {size} {size}"]:
    """Make images square, of ``size`` pixels, and normalise them.

    Resized bilinear, with the filter widened where the image shrinks (antialias), as torchvision's ``Resize`` on
    tensors. Images that are ``size`` x ``size`` already keep their values.

    Args:
        images: (B, C, H, W), uint8 or floating point in [0, 1], any C.
        size: S, in pixels.
        mean: subtracted from every channel, in [0, 1] units: one value a channel or one for all. None leaves it out.
        std: divides every channel; given together with ``mean``.
        fit: ``crop``: the shorter side becomes ``size``, of which the central square is taken (torchvision's
            ``CenterCrop``). ``pad``: the longer side becomes ``size``, and what is missing of the square is black, before
            the normalisation. ``stretch``: both sides become ``size``.

    Returns:
        (B, C, S, S) float32.

    Raises:
        ValueError: the shape, the size, ``fit``, or the number of values in ``mean`` and ``std`` is wrong; on a CPU, where
            looking costs nothing, also floating point far outside [0, 1] or NaN.
        TypeError: the images are neither uint8 nor floating point.

    Example:
        >>> preprocess(torch.randint(256, (2, 3, 40, 60), dtype=torch.uint8), size=32).shape
        torch.Size([2, 3, 32, 32])
    """
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images have the shape {tuple(images.shape)}: expected (B, C, H, W)")
    if images.dtype == torch.uint8:
        pixels = images.float() / 255
    elif images.is_floating_point():
        check_range(images, ". Mean and deviation are applied here: mean=, std=")
        pixels = images.float()
    else:
        raise TypeError(f"images are {images.dtype}: expected uint8, or floating point in [0, 1]")
    if size < 1:
        raise ValueError(f"size is {size}: expected at least 1 pixel")
    if fit not in get_args(Fit):
        raise ValueError(f"fit is {fit!r}: expected one of {', '.join(map(repr, get_args(Fit)))}")
    pixels = _square(pixels, size, fit)
    if (mean is None) != (std is None):
        raise ValueError(f"mean is {mean!r} and std is {std!r}: give both or neither")
    if mean is not None and std is not None:
        pixels = (pixels - _per_channel("mean", mean, pixels)) / _per_channel("std", std, pixels)
    return pixels.contiguous()


def _square(pixels: Tensor, size: int, fit: Fit) -> Tensor:
    height, width = pixels.shape[-2:]
    if fit == "stretch":
        return _resized(pixels, (size, size))
    if fit == "pad":
        scale = size / max(height, width)
        pixels = _resized(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))
        below, beside = size - pixels.shape[-2], size - pixels.shape[-1]
        return F.pad(pixels, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
    if min(height, width) != size:
        shape = (size, size * width // height) if height <= width else (size * height // width, size)
        pixels = _resized(pixels, shape)
        height, width = shape
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[..., top : top + size, left : left + size]


def _resized(pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == shape:
        return pixels
    pixels = F.interpolate(pixels, shape, mode="bilinear", align_corners=False, antialias=True)
    return pixels.clamp(0, 1)  # the filter's weights add up to one only within rounding


def _per_channel(name: str, values: Sequence[float], pixels: Tensor) -> Tensor:
    channels = pixels.shape[1]
    if len(values) not in (1, channels):
        raise ValueError(f"{name} has {len(values)} values: expected 1 or {channels}, the images' channels")
    # Columns filled on the device: a tensor made from a list would be copied from the host and wait for it.
    columns = [torch.full((1, 1, 1, 1), float(value), device=pixels.device) for value in values]
    return torch.cat(columns, dim=1)
