"""Images of any shape -> squares of one size: the middle, the whole on black, or stretched."""

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["Fit", "square_of", "to_square", "whole_of"]

Fit = Literal["crop", "pad", "stretch"]

_MODEST = 4
"""A picture up to so many squares large is scaled as a whole."""


def to_square(pixels: Tensor, size: int, fit: Fit = "crop") -> Tensor:
    """uint8 (C, H, W) -> uint8 (C, size, size), antialiased bilinear.

    ``crop`` brings the shorter side to ``size`` and takes the centre square; ``pad`` brings the longer side to ``size``
    and centres it on black; ``stretch`` brings both sides to ``size``. What is size x size already is not changed. Memory and
    time are bounded by those of ``pixels`` and of the result, whatever the shape.

    >>> to_square(torch.full((4, 6, 3), 9, dtype=torch.uint8), 4, "pad")[0].tolist()
    [[0, 9, 9, 0], [0, 9, 9, 0], [0, 9, 9, 0], [0, 9, 9, 0]]
    """
    if pixels.shape[1:] == (size, size):
        return pixels
    return square_of(pixels.permute(1, 2, 0).numpy(), size, fit)


def square_of(picture: Image.Image | np.ndarray, size: int, fit: Fit) -> Tensor:
    """A picture of Pillow's, gray or RGB, or an array uint8 (H, W, C), as ``to_square`` does it."""
    if isinstance(picture, np.ndarray):
        if picture.shape[2] != 3:  # Pillow has no mode for so many, or one in which it takes a band for opacity
            bands = [Image.fromarray(np.ascontiguousarray(band)) for band in picture.transpose(2, 0, 1)]
            return torch.cat([square_of(band, size, fit) for band in bands])
        picture = Image.fromarray(np.ascontiguousarray(picture))
    width, height = picture.size
    if (width, height) != (size, size):
        if fit == "crop":
            scale = size / min(width, height)
            scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        elif fit == "pad":
            scale = size / max(width, height)
            scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        else:
            scaled = (size, size)
        pixels = _middle(picture, scaled, size)
        if pixels.shape[:2] != (size, size):  # padded
            top, left = (size - scaled[1]) // 2, (size - scaled[0]) // 2
            whole = np.zeros((size, size, *pixels.shape[2:]), dtype=np.uint8)
            whole[top : top + scaled[1], left : left + scaled[0]] = pixels
            pixels = whole
    else:
        pixels = np.asarray(picture)
    return _bands_first(pixels)


def whole_of(picture: Image.Image | np.ndarray, size: int, longest: int) -> Tensor:
    """A picture with its shape kept: uint8 (C, H, W), the shorter side ``size``, the longer at most ``longest`` times that.

    What is longer still loses its ends. The middle is what ``square_of`` makes of it by ``crop``.
    """
    if isinstance(picture, np.ndarray):
        if picture.shape[2] != 3:
            bands = [Image.fromarray(np.ascontiguousarray(band)) for band in picture.transpose(2, 0, 1)]
            return torch.cat([whole_of(band, size, longest) for band in bands])
        picture = Image.fromarray(np.ascontiguousarray(picture))
    width, height = picture.size
    most = longest * min(width, height)
    kept = (min(width, most), min(height, most))
    if kept != picture.size:
        left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
        picture = picture.crop((left, top, left + kept[0], top + kept[1]))
    scale = size / min(width, height)
    scaled = (max(size, round(kept[0] * scale)), max(size, round(kept[1] * scale)))
    if scaled != kept:
        picture = picture.resize(scaled, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _bands_first(np.asarray(picture))


def _bands_first(pixels: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) as a tensor (C, H, W) that owns its memory."""
    # One copy, by NumPy: of a small image each further call of torch costs more than the copy itself.
    return torch.from_numpy(np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C"))


def _middle(picture: Image.Image, scaled: tuple[int, int], size: int) -> np.ndarray:
    """The middle, ``size`` or less a side, of the picture as it would be ``scaled``."""
    wanted = (min(size, scaled[0]), min(size, scaled[1]))
    left, top = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
    if scaled[0] * scaled[1] <= _MODEST * size * size:
        whole = np.asarray(picture.resize(scaled, Image.Resampling.BILINEAR, reducing_gap=2.0))
        return whole[top : top + wanted[1], left : left + wanted[0]]
    # Of a strip the whole would not fit into memory. The same in another order, which a rounding may set apart by one level:
    # whole blocks are averaged, as reducing_gap does, and the filter makes the middle alone.
    blocks = (max(1, int(picture.width / scaled[0] / 2)), max(1, int(picture.height / scaled[1] / 2)))
    across, down = (
        picture.width / blocks[0] / scaled[0],
        picture.height / blocks[1] / scaled[1],
    )  # source pixels a pixel
    if blocks != (1, 1):
        picture = picture.reduce(blocks)
    right, bottom = (left + wanted[0]) * across, (top + wanted[1]) * down
    box = (left * across, top * down, min(right, picture.width), min(bottom, picture.height))
    return np.asarray(picture.resize(wanted, Image.Resampling.BILINEAR, box))
