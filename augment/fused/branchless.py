"""The fused augmentation on a GPU: every view takes the same steps, and nothing waits to learn which of them act where.

An operation that is switched off in the configuration is left out; one that does not act on a view runs with the value
that changes nothing. Every step is a gather, a sum or elementwise, which ``torch.compile`` turns into few kernels.
"""

from typing import Annotated

import torch
from torch import Tensor

from augment.config import AugmentConfig
from augment.fused.blur import gaussian_blur
from augment.fused.colour import colourless, luma, shift_hue_, solarize_
from augment.fused.crop import crop_by_taps
from augment.parameters import CONTRAST, HUE, SATURATION
from augment.reference import warp

__all__ = ["augment_rows"]


def augment_rows(
    images: Annotated[Tensor, "uint8|float B C H W"],
    rows: Annotated[Tensor, "int64 N"],
    drawn: dict[str, Annotated[Tensor, "N ..."]],
    config: AugmentConfig,
) -> Annotated[Tensor, "float N C S S"]:
    """Views (N, C, S, S) in [0, 1] of ``images[rows]``, with the parameters ``drawn``: name -> tensor (N, ...).

    The parameters must have been drawn with this configuration: what it switches off is not looked at.
    """
    colour = images.shape[1] == 3
    views = crop_by_taps(images, rows, drawn["crop"], config.size, drawn["flip"], config.antialias).clamp(0, 1)
    if config.affine > 0:
        moved = warp(views, drawn["affine"], config.outside)
        still = (drawn["affine"] == _identity(drawn["affine"])).all(-1)
        views = torch.where(still[:, None, None, None], views, moved)
    if config.jitter > 0:
        views = _jitter(views, drawn["jitter"], drawn["order"], hue=config.hue > 0 and colour)
    if config.gray > 0 and colour:
        weight = drawn["gray"].to(views.dtype)[:, None, None, None]
        views = views * (1 - weight) + luma(views) * weight
    if any(config.each_view(config.blur)):
        views = gaussian_blur(views, drawn["blur"], config.blur_kernel_size // 2)
    if any(config.each_view(config.solarize)):
        inverted = solarize_(views.clone(), config.solarize_threshold)
        views = torch.where(drawn["solarize"][:, None, None, None], inverted, views)
    return views


def _identity(affine: Tensor) -> Tensor:
    """(0, 0, 0, 1, 0) made on the device: a tensor from a list would be copied from the host and wait for it."""
    return (torch.arange(5, device=affine.device) == 3).to(affine.dtype)


def _jitter(views: Tensor, factors: Tensor, order: Tensor, hue: bool) -> Tensor:
    """The four operations in each view's order; three of them are one, ``a x + b gray(x) + c mean(gray(x))``."""
    factors = factors.to(views.dtype)
    if views.shape[1] != 3:
        factors = colourless(factors)
    for position in range(4):
        op = order[:, position]
        factor = factors.gather(1, op[:, None])[:, 0]
        scale = torch.where(op == HUE, 1.0, factor)
        rest = 1 - scale
        to_gray = torch.where(op == SATURATION, rest, 0.0)[:, None, None, None]
        to_mean = torch.where(op == CONTRAST, rest, 0.0)[:, None, None, None]
        gray = luma(views)
        mean = gray.mean((-2, -1), keepdim=True)
        blended = views * scale[:, None, None, None] + gray * to_gray + mean * to_mean
        views = blended.clamp(0, 1)
        if hue:
            views = shift_hue_(views, torch.where(op == HUE, factor, 0.0)[:, None, None, None])
    return views
