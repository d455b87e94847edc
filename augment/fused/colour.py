"""The colour operations in few passes over memory: in place, a factor an image, no data-dependent branches.

Images are (N, C, H, W) floating point in [0, 1] and are overwritten; factors are (N, 1, 1, 1). The meaning is
torchvision's ColorJitter, as in ``augment/reference.py``, which these forms are tested against.
"""

from typing import Annotated

import torch
from torch import Tensor

from augment.parameters import HUE, SATURATION

__all__ = ["blend_", "colourless", "luma", "shift_hue_", "solarize_"]

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601


def luma(images: Annotated[Tensor, "float N C H W"]) -> Annotated[Tensor, "float N 1 H W"]:
    """(N, 1, H, W), a tensor of its own: the gray image; of other than three channels their mean."""
    if images.shape[1] == 1:
        return images.clone()
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)[:, None]


def blend_(
    images: Annotated[Tensor, "float N C H W"],
    factor: Annotated[Tensor, "float N 1 1 1"],
    gray: Annotated[Tensor, "float N 1 1 1"],
    mean: Annotated[Tensor, "float N 1 1 1"],
) -> Annotated[Tensor, "float N C H W"]:
    """``target + factor * (x - target)``, clamped: the saturation of the images whose ``gray`` is 1, else the contrast
    of those whose ``mean`` is 1, else the brightness. The target is the gray image, its mean, or black.
    """
    target = luma(images)
    # A single sum would be split among torch's threads, and rounded by their number.
    centre = target.mean(-1, keepdim=True) if len(target) == 1 else target
    centre = centre.mean((-2, -1), keepdim=True).mul_(mean)
    return images.lerp_(target.mul_(gray).add_(centre), 1 - factor).clamp_(0, 1)


def shift_hue_(
    images: Annotated[Tensor, "float N C H W"], turns: Annotated[Tensor, "float N 1 1 1"]
) -> Annotated[Tensor, "float N C H W"]:
    """The colours turned by ``turns`` of the HSV colour circle; other than three channels stay as they are.

    Exact, and free of branches. With V = max, m = min and C = V - m of a pixel, its circular distance from red, in
    sixths of a turn, is d = (G + B - R + V - 2m) / C in every sextant, and its hue is d where G >= B, else -d. With the
    new hue h in [0, 6], the channels are R = V - C + C u(h - 3), G = V - C u(h - 2), B = V - C u(h - 4), where
    u(t) = clamp(|t| - 1, 0, 1): as V - C clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)  # (N, H, W)
    high = torch.maximum(red, green).clamp_(min=blue)
    low = torch.minimum(red, green).clamp_(max=blue)
    chroma = high - low
    hue = (green + blue).sub_(red).add_(high).sub_(low, alpha=2)
    sign = (green - blue).add_(1e-30).sign_()  # 1 where they are equal
    # u(t) is clamp(|t|, 1, 2) - 1: the 1 goes into the offsets, and the hue is one of whole turns, to save passes.
    low.sub_(chroma)
    high.add_(chroma)
    chroma = chroma.mul_(6).add_(1e-20)  # where it is 0, so is the numerator
    hue = hue.div_(chroma).mul_(sign).add_(turns[:, 0] + 1).frac_()
    for plane, centre, offset, way in ((red, 1 / 2, low, 1), (green, 1 / 3, high, -1), (blue, 2 / 3, high, -1)):
        plane.copy_(offset).addcmul_((hue - centre).abs_().clamp_(1 / 6, 1 / 3), chroma, value=way)
    return images


def colourless(factors: Annotated[Tensor, "float ... 4"]) -> Annotated[Tensor, "float ... 4"]:
    """Factors of the jitter (..., 4) for images of other than three channels: no saturation and no hue."""
    factors = factors.clone()
    factors[..., SATURATION] = 1
    factors[..., HUE] = 0
    return factors


def solarize_(images: Annotated[Tensor, "float N C H W"], threshold: float) -> Annotated[Tensor, "float N C H W"]:
    """``1 - x`` where x is at or above the threshold."""
    # Arithmetic on a mask: torch.where is several times slower on the CPU.
    above = (images >= threshold).to(images.dtype)
    return images.addcmul_(above, 1 - 2 * images)
