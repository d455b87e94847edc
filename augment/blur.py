"""Gaussian blur of many images at once, each with its own standard deviation."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gaussian_blur"]


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Images (N, C, S, S) blurred with ``sigma`` (N,) each, 2 * radius + 1 taps; a sigma of 0 changes nothing."""
    offsets = torch.arange(radius + 1, device=images.device, dtype=images.dtype)
    # The clamp stands for sigma = 0: every tap but the central one underflows to exactly 0.
    taps = torch.exp(-0.5 * (offsets / sigma[:, None].to(images.dtype).clamp(min=1e-3)) ** 2)  # (N, r + 1)
    taps = taps / (2 * taps.sum(-1, keepdim=True) - 1)
    taps = taps[:, :, None, None, None]
    for axis, padding in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        size = images.shape[axis]
        padded = F.pad(images, padding, mode="reflect")
        images = images * taps[:, 0]
        for offset in range(1, radius + 1):
            pair = padded.narrow(axis, radius - offset, size) + padded.narrow(axis, radius + offset, size)
            images.addcmul_(pair, taps[:, offset])
    return images
