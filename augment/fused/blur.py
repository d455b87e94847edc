"""Gaussian blur of images, each with its own standard deviation, borders reflected."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blur_one", "gaussian_blur", "reach"]


def reach(sigma: float, radius: int) -> int:
    """How many taps on either side count. The first left out weighs below 1e-7 of the sum where sigma is 2 or less."""
    return min(radius, math.ceil(5 * sigma))


def gaussian_blur(
    images: Annotated[Tensor, "float N C S S"], sigma: Annotated[Tensor, "float N"], radius: int
) -> Annotated[Tensor, "float N C S S"]:
    """Images (N, C, S, S) blurred with ``sigma`` (N,) each, 2 * radius + 1 taps; a sigma of 0 changes nothing."""
    offsets = torch.arange(radius + 1, device=images.device, dtype=images.dtype)
    # The clamp stands for sigma = 0: every tap but the central one underflows to exactly 0.
    taps = torch.exp(-0.5 * (offsets / sigma[:, None].to(images.dtype).clamp(min=1e-3)) ** 2)  # (N, r + 1)
    taps = taps / (2 * taps.sum(-1, keepdim=True) - 1)
    taps = taps[:, :, None, None, None]
    for axis in (-1, -2):
        padded, size = _reflected(images, axis, radius), images.shape[axis]
        images = images * taps[:, 0]
        for offset in range(1, radius + 1):
            pair = padded.narrow(axis, radius - offset, size) + padded.narrow(axis, radius + offset, size)
            images.addcmul_(pair, taps[:, offset])
    return images


def blur_one(
    images: Annotated[Tensor, "float ... S S"], sigma: float, radius: int
) -> Annotated[Tensor, "float ... S S"]:
    """The same with one ``sigma`` > 0, known on the host, for all images: fewer passes over memory."""
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    total = 2 * sum(weights) - 1
    for axis in (-1, -2):
        padded, size = _reflected(images, axis, radius), images.shape[axis]
        images = images * (weights[0] / total)
        for offset in range(1, radius + 1):
            for start in (radius - offset, radius + offset):
                images.add_(padded.narrow(axis, start, size), alpha=weights[offset] / total)
    return images


def _reflected(images: Tensor, axis: int, radius: int) -> Tensor:
    return F.pad(images, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
