"""The colour operations in the fewest passes over memory: batched, a factor an image, no data-dependent branches.

Images are (N, C, H, W) floating point in [0, 1], factors (N,). The meaning is torchvision's ColorJitter, as in
``augment/reference.py``, which these forms are tested against.
"""

import torch
from torch import Tensor

__all__ = ["adjust_brightness", "adjust_contrast", "adjust_saturation", "luma", "shift_hue", "solarize"]

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601


def luma(images: Tensor) -> Tensor:
    """(N, 1, H, W): the gray image; a one-channel image is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """``factor * x``, clamped."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """``mean + factor * (x - mean)``, clamped, about the mean gray value of each image."""
    factor = factor[:, None, None, None]
    mean = images.mean((-2, -1), keepdim=True)
    if images.shape[1] == 3:
        mean = luma(mean)  # luma is linear: the mean of the gray image is the luma of the mean colour
    return (images * factor).add_(mean * (1 - factor)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """``gray + factor * (x - gray)``, clamped; a one-channel image stays as it is."""
    if images.shape[1] == 1:
        return images
    factor = factor[:, None, None, None]
    return (images * factor).add_(luma(images).mul_(1 - factor)).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """The colours turned by ``turns`` of the HSV colour circle; a one-channel image stays as it is.

    Exact, and free of branches. With V = max, m = min and C = V - m of a pixel, its circular distance from red, in
    sixths of a turn, is d = (G + B - R + V - 2m) / C in every sextant, and its hue is d where G >= B, else -d. With the
    new hue h in [0, 6], the channels are R = V - C + C u(h - 3), G = V - C u(h - 2), B = V - C u(h - 4), where
    u(t) = clamp(|t| - 1, 0, 1): as V - C clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)  # (N, H, W)
    high = torch.maximum(red, green).clamp_(min=blue)
    low = torch.minimum(red, green).clamp_(max=blue)
    chroma = high - low
    side = green - blue
    hue = (green + blue).sub_(red).add_(high).sub_(low, alpha=2)
    hue = hue.div_(chroma.clamp(min=1e-20)).copysign_(side)  # where the chroma is 0 so is the numerator
    hue = hue.add_(turns[:, None, None], alpha=6)
    hue = hue.sub_(torch.floor(hue / 6), alpha=6)
    # Clamped to [1, 2] instead of subtracting 1: one pass less, made good in the offsets.
    new_red = (hue - 3).abs_().clamp_(1, 2).mul_(chroma).add_(low - chroma)
    high = high.add_(chroma)
    new_green = high - (hue - 2).abs_().clamp_(1, 2).mul_(chroma)
    new_blue = high - (hue - 4).abs_().clamp_(1, 2).mul_(chroma)
    return torch.stack((new_red, new_green, new_blue), dim=1)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """``1 - x`` where x is at or above the threshold."""
    # Arithmetic on a mask: torch.where is several times slower on the CPU.
    above = (images >= threshold).to(images.dtype)
    return torch.addcmul(images, above, 1 - 2 * images)
