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
from augment.threads import run_in_threads

__all__ = ["LARGE_VIEW", "augment_groups"]

# Floats of views a thread works on at a time: 512 KiB, about half of what its second-level cache holds.
_CHUNK = 2**17
LARGE_VIEW = 2**15
"""Floats of a view from which on working on one after the other costs less than gathering several."""

_KIND = 5**4
_Step = tuple[int, int, int]
_Run = tuple[int, int, list[_Step]]

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
    factors = [factor[:, None, None, None] for factor in drawn["jitter"].unbind(1)]
    moves = (drawn["affine"] != drawn["affine"].new_tensor([0, 0, 0, 1, 0])).any(-1)
    acts = {"move": moves.tolist(), **{name: drawn[name].tolist() for name in ("gray", "blur", "solarize")}}
    # flatten(0, 1) puts the images of one view next to each other.
    crop = crop_on_cpu(images, order % batch, drawn["crop"], config.size, drawn["flip"], config.antialias)

    def work(run: _Run) -> None:
        start, stop, steps = run
        part = slice(start, stop)
        views = crop(part).clamp_(0, 1)
        if any(acts["move"][part]):
            rows = _where(acts["move"][part])
            views.index_copy_(0, rows, warp(views.index_select(0, rows), drawn["affine"][part][rows]))
        for first, last, op in steps:
            _ADJUST[op](views[first:last], factors[op][start + first : start + last])
        if channels == 3 and any(acts["gray"][part]):
            rows = _where(acts["gray"][part])
            views.index_copy_(0, rows, luma(views.index_select(0, rows)).expand(-1, 3, -1, -1))
        if any(acts["blur"][part]):
            _blur(views, drawn["blur"][part], acts["blur"][part], config.blur_kernel_size // 2)
        if any(acts["solarize"][part]):
            rows = _where(acts["solarize"][part])
            views.index_copy_(0, rows, solarize_(views.index_select(0, rows), config.solarize_threshold))
        write(order[part], views)

    run_in_threads(work, _runs(keys, max(1, _CHUNK // (channels * config.size**2))))


def _sorted_by_operations(drawn: dict[str, Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """The views (N,) in an order in which those with like jitter operations are neighbours, and the key of each.

    The digits of a key to the base 5, from the left: how many operations act, when the hue is shifted, and the operations.
    """
    jitter, order = drawn["jitter"], drawn["order"]
    acts = jitter != jitter.new_tensor([1, 1, 1, 0])  # (N, 4)
    if channels == 1:
        acts = acts & torch.tensor([True, True, False, False])
    acts = acts.gather(1, order)  # in the order of the operations
    count = acts.sum(1)
    hue = ((order == HUE) & acts).int().argmax(1)
    operations = torch.zeros_like(count)
    for op, acting in zip(order.unbind(1), acts.unbind(1), strict=True):
        operations = torch.where(acting, operations * 5 + op + 1, operations)
    keys = (count * 5 + hue) * _KIND + operations
    keys, ranked = keys.sort(stable=True)
    return ranked, keys


def _runs(keys: Tensor, chunk: int) -> Iterator[_Run]:
    """Runs of at most ``chunk`` views with as many operations, the hue at one place: (start, stop, steps).

    The hue, which costs more than the others together, is one step of all views of a run; the others take neighbours
    with the same operation at the same place together.
    """
    distinct, counts = (values.tolist() for values in keys.unique_consecutive(return_counts=True))
    runs: list[tuple[int, int]] = []  # (key, views) of the views since start
    start = stop = 0
    for key, count in zip(distinct, counts, strict=True):
        while count:
            if runs and (stop - start == chunk or runs[0][0] // _KIND != key // _KIND):
                yield start, stop, _steps(runs)
                runs, start = [], stop
            taken = min(count, chunk - (stop - start))
            runs.append((key, taken))
            stop, count = stop + taken, count - taken
    yield start, stop, _steps(runs)


def _steps(runs: list[tuple[int, int]]) -> list[_Step]:
    """What to do with a run of views: (first view, last view + 1, operation), in this order."""
    steps: list[_Step] = []
    for place in reversed(range(runs[0][0] // _KIND // 5)):
        last = 0
        for key, count in runs:
            op = key // 5**place % 5 - 1
            if last and steps[-1][2] == op:
                steps[-1] = (steps[-1][0], last + count, op)
            else:
                steps.append((last, last + count, op))
            last += count
    return steps


def _where(flags: list[bool] | list[float]) -> Tensor:
    return torch.tensor([row for row, flag in enumerate(flags) if flag], device="cpu")


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
        views.index_copy_(0, rows, gaussian_blur(views.index_select(0, rows), sigma[rows], reach(max(values))))
