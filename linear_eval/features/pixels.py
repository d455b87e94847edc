"""The baseline that needs no encoder: an image's own pixels as its features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linear_eval.features.extract import Features, extract_features
from linear_eval.features.images import SizedImages

__all__ = ["RawPixels", "pixel_features"]


class RawPixels(nn.Module):
    """The encoder that does nothing: pixels in [0, 1], averaged down to at most ``bound`` x ``bound``, as one row.

    The bound keeps the features of large images (150,528 at 224 px) comparable in width with an encoder's.
    """

    def __init__(self, bound: int = 32) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        height, width = (min(side, self.bound) for side in pixels.shape[-2:])
        if (height, width) != tuple(pixels.shape[-2:]):
            pixels = F.adaptive_avg_pool2d(pixels, (height, width))
        return pixels.flatten(1)


def pixel_features(dataset: SizedImages, size: int = 32, *, batch_size: int = 256, workers: int = 0) -> Features:
    """The baseline of no encoder at all, see ``RawPixels``: images larger than ``size`` are averaged down to it."""
    return extract_features(RawPixels(size), dataset, batch_size, "cpu", workers=workers)
