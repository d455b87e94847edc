"""The colour operations in few passes over memory: in place, a factor an image, no data-dependent branches.

Images are (N, C, H, W) floating point in [0, 1] and are overwritten; factors are (N, 1, 1, 1). The meaning is
torchvision's ColorJitter, as in ``augment/reference.py``, which these forms are tested against.
"""

import torch
from torch import Tensor

__all__ = ["adjust_brightness_", "adjust_contrast_", "adjust_saturation_", "luma", "shift_hue_", "solarize_"]

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601


def luma(images: Tensor) -> Tensor:
    """(N, 1, H, W), a tensor of its own: the gray image."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.unbind(1)
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)[:, None]


def adjust_brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """``factor * x``, clamped."""
    return images.mul_(factor).clamp_(0, 1)


def adjust_contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """``mean + factor * (x - mean)``, clamped, about the mean gray value of each image."""
    # Luma is linear: the mean of the gray image is the luma of the mean colour.
    offset = luma(images.mean((-2, -1), keepdim=True)).mul_(1 - factor)
    return images.mul_(factor).add_(offset).clamp_(0, 1)


def adjust_saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """``gray + factor * (x - gray)``, clamped; a one-channel image stays as it is."""
    if images.shape[1] == 1:
        return images
    return images.lerp_(luma(images), 1 - factor).clamp_(0, 1)


def shift_hue_(images: Tensor, turns: Tensor) -> Tensor:
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
    hue = (green + blue).sub_(red).add_(high).sub_(low, alpha=2)
    hue = hue.div_(chroma + 1e-20).copysign_(green - blue)  # where the chroma is 0, so is the numerator
    hue = hue.add_(6 * turns[:, 0])
    hue = hue.sub_((hue / 6).floor_(), alpha=6)
    # u(t) is clamp(|t|, 1, 2) - 1: the 1 goes into the offsets, which saves a pass.
    low.sub_(chroma)
    high.add_(chroma)
    for plane, centre, offset, sign in ((red, 3, low, 1), (green, 2, high, -1), (blue, 4, high, -1)):
        plane.copy_(offset).addcmul_((hue - centre).abs_().clamp_(1, 2), chroma, value=sign)
    return images


def solarize_(images: Tensor, threshold: float) -> Tensor:
    """``1 - x`` where x is at or above the threshold."""
    # Arithmetic on a mask: torch.where is several times slower on the CPU.
    above = (images >= threshold).to(images.dtype)
    return images.addcmul_(above, 1 - 2 * images)
