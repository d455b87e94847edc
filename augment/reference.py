"""The readable form of the augmentation: Kornia's own operations, group by group. Slow; the oracle of the fast form.

Where Kornia has two variants, the one with torchvision's meaning is taken: brightness multiplies, contrast moves about
the mean gray value, saturation blends with the gray image, and every jitter operation clamps to [0, 1]. Pixel centres
lie at half-integers everywhere (``align_corners=False``). Luma is ITU-R BT.601's (0.299, 0.587, 0.114), Kornia's and
PIL's; torchvision rounds the first weight to 0.2989.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
    normalize,
    solarize,
)
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_affine_matrix2d, resize, warp_affine
from torch import Tensor

from augment.config import AugmentConfig
from augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters

__all__ = ["apply_reference", "normalise", "warp"]


def apply_reference(
    images: Annotated[Tensor, "float B C H W"], parameters: ViewParameters, config: AugmentConfig
) -> Annotated[Tensor, "float V B C S S"]:
    """Apply drawn parameters to images.

    Args:
        images: (B, C, H, W) floating point in [0, 1], any C; saturation, hue and gray act where it is 3.
        parameters: what to do, drawn for this B, H and W.
        config: size of the views, kernel of the blur, threshold of the solarization, mean and std.

    Returns:
        (V, B, C, S, S) in the images' dtype.
    """
    drawn = parameters.flat()
    crop, flip, affine, jitter, order = (
        tensor[0] for tensor in (drawn.crop, drawn.flip, drawn.affine, drawn.jitter, drawn.order)
    )
    gray, blur, solarized = drawn.gray[0], drawn.blur[0], drawn.solarize[0]

    source = images.repeat(parameters.views, 1, 1, 1)  # (V*B, C, H, W)
    views = torch.stack(
        [_crop_and_resize(image, box, config) for image, box in zip(source, crop.tolist(), strict=True)]
    )
    views = _on_rows(views, flip, lambda some, _: some.flip(-1))
    moves = (affine != affine.new_tensor([0, 0, 0, 1, 0])).any(-1)
    views = _on_rows(views, moves, lambda some, rows: warp(some, affine[rows], config.outside))
    for position in range(4):
        for op, adjust in _JITTER.items():
            rows = (order[:, position] == op).nonzero().flatten()
            views = views.index_copy(0, rows, adjust(views[rows], jitter[rows, op]))
    if views.shape[1] == 3:
        views = _on_rows(views, gray, lambda some, _: rgb_to_grayscale(some).expand_as(some))
    views = _on_rows(views, blur > 0, lambda some, rows: _blur(some, blur[rows], config.blur_kernel_size))
    views = _on_rows(views, solarized, lambda some, _: solarize(some, config.solarize_threshold))
    return normalise(views.unflatten(0, (parameters.views, parameters.batch)), config)


def normalise(
    views: Annotated[Tensor, "float V B C S S"], config: AugmentConfig
) -> Annotated[Tensor, "float V B C S S"]:
    """Views (V, B, C, S, S) less the mean, divided by the standard deviation, if the configuration has any."""
    if config.mean is None or config.std is None:
        return views
    mean, std = (views.new_tensor(values).expand(views.shape[2]) for values in (config.mean, config.std))
    return normalize(views.flatten(0, 1), mean, std).view_as(views)


def _on_rows(views: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``views`` with ``operation(rows, their indices)`` in place of the chosen rows."""
    rows = chosen.nonzero().flatten()
    if len(rows) == 0:
        return views
    return views.index_copy(0, rows, operation(views[rows], rows))


def _crop_and_resize(image: Tensor, box: list[int], config: AugmentConfig) -> Tensor:
    top, left, height, width = box
    crop = image[None, :, top : top + height, left : left + width]
    size = (config.size, config.size)
    if config.antialias:
        # Kornia's antialias blurs with a Gaussian first; the filter that torchvision and PIL widen is only in torch.
        resized = F.interpolate(crop, size, mode="bilinear", align_corners=False, antialias=True)
    else:
        resized = resize(crop, size, interpolation="bilinear", align_corners=False, antialias=False)
    return resized[0].clamp(0, 1)  # the filter's weights add up to one only within rounding


def warp(
    views: Annotated[Tensor, "float N C S S"],
    affine: Annotated[Tensor, "float N 5"],
    outside: Literal["black", "border"] = "black",
) -> Annotated[Tensor, "float N C S S"]:
    """Views (N, C, S, S) moved by ``affine`` (N, 5), as ``ViewParameters.affine`` describes; ``AugmentConfig.outside``."""
    angle, shift_x, shift_y, scale, shear = affine.to(views.dtype).unbind(-1)
    size = views.shape[-1]
    centre = views.new_full((len(views), 2), (size - 1) / 2)
    matrix = get_affine_matrix2d(
        torch.stack((shift_x, shift_y), -1), centre, torch.stack((scale, scale), -1), angle, torch.deg2rad(shear)
    )
    beyond = "zeros" if outside == "black" else outside
    return warp_affine(views, matrix[:, :2], (size, size), padding_mode=beyond, align_corners=False)


def _brightness(views: Tensor, factor: Tensor) -> Tensor:
    return adjust_brightness_accumulative(views, factor)


def _contrast(views: Tensor, factor: Tensor) -> Tensor:
    return adjust_contrast_with_mean_subtraction(views, factor)


def _saturation(views: Tensor, factor: Tensor) -> Tensor:
    return adjust_saturation_with_gray_subtraction(views, factor) if views.shape[1] == 3 else views


def _hue(views: Tensor, turns: Tensor) -> Tensor:
    # What has no three colours has no hue: PIL and torchvision return gray unchanged, Kornia refuses it. Without a
    # shift, the way to HSV and back would only add rounding.
    if views.shape[1] != 3:
        return views
    shifted = turns != 0
    return _on_rows(views, shifted, lambda some, rows: adjust_hue(some, 2 * math.pi * turns[rows].to(some.dtype)))


_JITTER: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: _brightness,
    CONTRAST: _contrast,
    SATURATION: _saturation,
    HUE: _hue,
}


def _blur(views: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    return gaussian_blur2d(views, kernel, torch.stack((sigma, sigma), -1), border_type="reflect")
