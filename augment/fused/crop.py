"""Crop, resize and flip many images at once, each with its own box.

Three forms of one meaning: half-pixel centres, bilinear weights cut off at the border of the crop, the filter widened
by the scale where a crop shrinks and antialiasing is on. They differ in what they are fast at.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_by_grid", "crop_by_interpolation", "crop_by_taps", "crop_on_cpu"]

# Pixels up to which sampling at normalised coordinates keeps to 1e-5 of the exact value.
_SMALL = 40


def crop_on_cpu(
    images: Annotated[Tensor, "uint8|float B C H W"],
    rows: Annotated[Tensor, "int64 N"],
    boxes: Annotated[Tensor, "int64 N 4"],
    size: int,
    flip: Annotated[Tensor, "bool N"],
    antialias: bool,
) -> Annotated[Tensor, "float N C {size} {size}"]:
    """The crops of ``images[rows]`` (N, C, S, S), in the form that suits their size."""
    height, width = images.shape[-2:]
    if max(height, width) <= _SMALL and not (antialias and max(height, width) > size):
        xs, ys = _coordinates(boxes, flip, height, width, size, images.dtype)
        return crop_by_grid(images.index_select(0, rows), xs, ys)
    dtype = images.dtype if images.is_floating_point() else torch.float32
    crops = torch.empty(len(rows), images.shape[1], size, size, dtype=dtype)
    drawn = zip(crops, rows.tolist(), boxes.tolist(), flip.tolist(), strict=True)
    for crop, row, box, mirror in drawn:
        # A tensor that is freed at once leaves its memory, still in the cache, to the next one.
        crop.copy_(crop_by_interpolation(images[row], box, size, mirror, antialias)[0])
    return crops


def crop_by_interpolation(
    image: Annotated[Tensor, "uint8|float C H W"], box: list[int], size: int, flip: bool, antialias: bool
) -> Annotated[Tensor, "float 1 C {size} {size}"]:
    """One crop of one image (C, H, W) by torch's own resize: (1, C, S, S). The fastest for large views on a CPU."""
    top, left, height, width = box
    crop = _unit(image[None, :, top : top + height, left : left + width])
    if (height, width) == (size, size):
        view = crop
    else:
        view = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
    return view.flip(-1) if flip else view


def crop_by_grid(
    images: Annotated[Tensor, "uint8|float N C H W"],
    xs: Annotated[Tensor, "float N S"],
    ys: Annotated[Tensor, "float N S"],
) -> Annotated[Tensor, "float N C S S"]:
    """Small images (N, C, H, W) sampled, not antialiased, at the crossings of xs and ys (N, S): (N, C, S, S)."""
    shape = (*ys.shape, xs.shape[1])
    grid = torch.stack((xs[:, None].expand(shape), ys[:, :, None].expand(shape)), dim=-1)
    return F.grid_sample(_unit(images), grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_by_taps(
    images: Annotated[Tensor, "uint8|float B C H W"],
    rows: Annotated[Tensor, "int64 N"],
    boxes: Annotated[Tensor, "int64 N 4"],
    size: int,
    flip: Annotated[Tensor, "bool N"],
    antialias: bool,
) -> Annotated[Tensor, "float N C {size} {size}"]:
    """Crops of ``images[rows]`` by gathering, for every output pixel, the few input pixels it depends on: (N, C, S, S).

    Nothing but gathers and sums: no precision switch of matrix products touches it, and it compiles into few kernels.
    """
    channels, height, width = images.shape[1:]
    dtype = images.dtype if images.is_floating_point() else torch.float32
    ys, down = _taps(boxes[:, 0], boxes[:, 2], height, size, antialias, dtype)  # (K, N, S)
    xs, across = _taps(boxes[:, 1], boxes[:, 3], width, size, antialias, dtype)
    flipped = flip[:, None]
    xs = torch.where(flipped, xs.flip(-1), xs)
    across = torch.where(flipped, across.flip(-1), across)
    if not images.is_floating_point():
        down = down / 255
    plane = torch.arange(channels, device=images.device)[:, None]
    source = rows[:, None, None]
    half = torch.zeros((), dtype=dtype, device=images.device)
    for y, weight in zip(ys, down, strict=True):  # rows of pixels: (N, C, S, W)
        half = half + images[source, plane, y[:, None]] * weight[:, None, :, None]
    shape = (len(rows), channels, size, size)
    views = torch.zeros((), dtype=dtype, device=images.device)
    for x, weight in zip(xs, across, strict=True):  # pixels of these rows: (N, C, S, S)
        views = views + half.gather(-1, x[:, None, None].expand(shape)) * weight[:, None, None]
    return views


def _unit(images: Tensor) -> Tensor:
    """Floating point in [0, 1]."""
    return images if images.is_floating_point() else images.float().mul_(1 / 255)


def _positions(extent: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where the centres of the output pixels lie, in pixels from the start of the crop (N, S), and the scale (N, 1)."""
    scale = (extent.to(dtype) / size)[:, None]
    outputs = torch.arange(size, device=extent.device, dtype=dtype)
    return scale * (outputs + 0.5) - 0.5, scale


def _coordinates(
    boxes: Tensor, flip: Tensor, height: int, width: int, size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """xs and ys (N, S): where the output pixels lie in the image, from -1 at its first border to 1 at its last."""
    dtype = dtype if dtype.is_floating_point else torch.float32
    axes = []
    for axis, pixels in ((1, width), (0, height)):
        start, extent = boxes[:, axis], boxes[:, axis + 2]
        last = (extent - 1)[:, None].to(dtype)
        centres = torch.minimum(_positions(extent, size, dtype)[0].clamp(min=0), last)
        axes.append((2 * (centres + start[:, None]) + 1) / pixels - 1)
    xs, ys = axes
    return torch.where(flip[:, None], xs.flip(-1), xs), ys


def _taps(
    start: Tensor, extent: Tensor, pixels: int, size: int, antialias: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(K, N, S) each: the input pixels that count in an output pixel, and how much."""
    centres, scale = _positions(extent, size, dtype)
    width = scale.clamp(min=1) if antialias else torch.ones_like(scale)
    # The inside of a triangle of half-width w holds at most ceil(2 w) pixel centres; no crop is wider than the image.
    count = math.ceil(2 * max(1.0, pixels / size)) if antialias else 2
    offsets = torch.arange(count, device=start.device)[:, None, None]
    inputs = torch.ceil(centres - width).long() + offsets  # (K, N, S)
    weights = (1 - (inputs - centres).abs() / width).clamp(min=0)
    last = extent[:, None] - 1
    weights = weights * ((inputs >= 0) & (inputs <= last))
    return torch.minimum(inputs.clamp(min=0), last) + start[:, None], weights / weights.sum(0)
