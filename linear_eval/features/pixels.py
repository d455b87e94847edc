"""The baseline that needs no encoder: an image's own pixels as its features."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linear_eval.features.extract import Features, extract_features
from linear_eval.features.images import SizedImages
from simclr.data.near_copies import fingerprints

__all__ = ["CHEAP", "RawPixels", "affordable_size", "pixel_features", "without_fingerprints"]


class RawPixels(nn.Module):
    """The encoder that does nothing: pixels in [0, 1], averaged down to at most ``bound`` x ``bound``, as one row.

    The bound keeps the features of large images (150,528 at 224 px) comparable in width with an encoder's.
    """

    def __init__(self, bound: int = 32) -> None:
        super().__init__()
        self.bound = bound
        self.with_fingerprints = False
        """Whether each row ends with the image's fingerprint, see ``without_fingerprints``."""

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (B, C h w) float32 of images (B, C, H, W)."""
        rows = self._pixels(images)
        return torch.cat([rows, fingerprints(images).float()], 1) if self.with_fingerprints else rows

    def _pixels(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        height, width = (min(side, self.bound) for side in pixels.shape[-2:])
        if (height, width) != tuple(pixels.shape[-2:]):
            pixels = F.adaptive_avg_pool2d(pixels, (height, width))
        return pixels.flatten(1)


def without_fingerprints(features: Features, channels: int) -> tuple[Features, Tensor]:
    """Pixels of N images that were read with their fingerprints, and the fingerprints (N, P) float16 of the labelled ones."""
    width = features.x.shape[1] - 1024 - 64 * channels
    return replace(features, x=features.x[:, :width].contiguous()), features.x[features.y >= 0, width:].half()


CHEAP = 1 << 22
"""Values of all training images together up to which a probe of them takes a second or so, however wide."""

LEAST = 8
"""Pixels a side that are left in any case."""


def affordable_size(bound: int, shape: tuple[int, int, int], width: int, images: int) -> int:
    """Pixels a side, at most ``bound``, at which a probe of raw pixels costs no more than that of an encoder.

    A probe's time grows faster than its features: 3,072 of 32 x 32 in colour took sixty times as long as 507 of 13 x 13,
    and recognised no more (``docs/decisions.md``, 2026-11-25). Small sets keep their size.

    Args:
        bound: most that is wanted.
        shape: (C, H, W) of the images.
        width: features of the encoder.
        images: training images.

    >>> affordable_size(32, (3, 32, 32), 512, 50_000), affordable_size(32, (3, 16, 16), 128, 1_438)
    (13, 32)
    """
    channels, *sides = shape
    height, across = (min(side, bound) for side in sides)
    if channels * height * across <= width or images * channels * height * across <= CHEAP:
        return bound
    return min(bound, max(LEAST, int((width / channels) ** 0.5)))


def pixel_features(dataset: SizedImages, size: int = 32, *, batch_size: int = 256, workers: int = 0) -> Features:
    """The baseline of no encoder at all, see ``RawPixels``: images larger than ``size`` are averaged down to it."""
    return extract_features(RawPixels(size), dataset, batch_size, "cpu", workers=workers)
