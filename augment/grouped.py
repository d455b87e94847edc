"""The fused augmentation on a CPU: views that share an order of operations go together, in cache-sized chunks.

Knowing the parameters on the host makes every skipped operation free: each is computed for the views it acts on and for
no other. On a GPU that knowledge would cost a wait; ``augment/branchless.py`` does without it.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from augment.blur import gaussian_blur
from augment.colour import adjust_brightness_, adjust_contrast_, adjust_saturation_, luma, shift_hue_, solarize_
from augment.config import AugmentConfig
from augment.crop import crop_on_cpu
from augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters
from augment.reference import warp

__all__ = ["LARGE_VIEW", "augment_groups"]

# Floats a thread works on at a time: 512 KiB, half of what the second-level cache of a current core holds.
_CHUNK = 2**17
LARGE_VIEW = 2**15
"""Floats of a view from which on working on one after the other costs less than gathering several."""

_ADJUST: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: adjust_brightness_,
    CONTRAST: adjust_contrast_,
    SATURATION: adjust_saturation_,
    HUE: shift_hue_,
}


def augment_groups(
    images: Tensor, parameters: ViewParameters, config: AugmentConfig, write: Callable[[Tensor, Tensor], None]
) -> None:
    """Compute every view of images (B, C, H, W) and hand them to ``write(rows, views)`` in chunks.

    ``rows`` (n,) are positions in ``views.flatten(0, 1)``, ``views`` (n, C, S, S) floating point in [0, 1].
    """
    batch, channels = len(images), images.shape[1]
    drawn = {name: tensor.flatten(0, 1) for name, tensor in parameters.tensors().items()}
    order, keys = _sorted_by_operations(drawn, channels)
    drawn = {name: tensor[order] for name, tensor in drawn.items()}
    sources = order % batch  # flatten(0, 1) puts the images of one view next to each other
    moves = (drawn["affine"] != drawn["affine"].new_tensor([0, 0, 0, 1, 0])).any(-1)
    acts = {"move": moves.tolist(), **{name: drawn[name].tolist() for name in ("gray", "blur", "solarize")}}

    chunk = max(1, _CHUNK * torch.get_num_threads() // (channels * config.size**2))
    for operations, start, stop in _chunks(keys, chunk):
        part = slice(start, stop)
        views = crop_on_cpu(
            images, sources[part], drawn["crop"][part], config.size, drawn["flip"][part], config.antialias
        ).clamp_(0, 1)
        if any(acts["move"][part]):
            rows = _where(acts["move"][part])
            views[rows] = warp(views[rows], drawn["affine"][part][rows])
        for op in operations:
            _ADJUST[op](views, drawn["jitter"][part, op])
        if channels == 3 and any(acts["gray"][part]):
            gray = views[acts["gray"][part].index(True) :]  # gray views come last in a group
            gray.copy_(luma(gray))
        if any(acts["blur"][part]):
            _blur(views, drawn["blur"][part], acts["blur"][part], config.blur_kernel_size // 2)
        if any(acts["solarize"][part]):
            rows = _where(acts["solarize"][part])
            views[rows] = solarize_(views[rows], config.solarize_threshold)
        write(order[part], views)


def _sorted_by_operations(drawn: dict[str, Tensor], channels: int) -> tuple[Tensor, list[int]]:
    """The views (N,) sorted by their jitter operations, then by gray; and the key of each, its operations as digits."""
    jitter, order = drawn["jitter"], drawn["order"]
    acts = jitter != jitter.new_tensor([1, 1, 1, 0])  # (N, 4)
    if channels == 1:
        acts = acts & torch.tensor([True, True, False, False])
    key = torch.zeros(len(order), dtype=torch.int64)
    for op, acting in zip(order.unbind(1), acts.gather(1, order).unbind(1), strict=True):
        key = torch.where(acting, key * 5 + op + 1, key)
    ranked = (key * 2 + drawn["gray"]).argsort(stable=True)
    return ranked, key[ranked].tolist()


def _chunks(keys: list[int], chunk: int) -> Iterator[tuple[list[int], int, int]]:
    """(jitter operations in order, start, stop) of runs of equal keys, none longer than ``chunk``."""
    start = 0
    for stop in range(1, len(keys) + 1):
        if stop == len(keys) or keys[stop] != keys[start] or stop - start == chunk:
            operations, rest = [], keys[start]
            while rest:
                rest, digit = divmod(rest, 5)
                operations.append(digit - 1)
            yield operations[::-1], start, stop
            start = stop


def _where(flags: list[bool] | list[float]) -> Tensor:
    return torch.tensor([row for row, flag in enumerate(flags) if flag])


def _blur(views: Tensor, sigma: Tensor, values: list[float], radius: int) -> None:
    """Blur in place the views whose sigma is not 0."""

    def reach(largest: float) -> int:
        # Beyond 5.5 sigma a tap weighs less than 3e-7 of the central one: below the rounding of the sum.
        return min(radius, math.ceil(5.5 * largest))

    if views[0].numel() >= LARGE_VIEW:
        for row, value in enumerate(values):
            if value:
                views[row] = gaussian_blur(views[row : row + 1], sigma[row : row + 1], reach(value))[0]
    else:
        rows = _where(values)
        views[rows] = gaussian_blur(views[rows], sigma[rows], reach(max(values)))
