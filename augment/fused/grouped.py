"""The fused augmentation on a CPU: chunks of views in which each operation is done only for those it acts on.

Knowing the parameters on the host makes every skipped operation free, and lets views be sorted so that those that need
an operation are neighbours. On a GPU that knowledge would cost a wait; ``augment/fused/branchless.py`` does without it.
"""

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from torch import Tensor

from augment.config import AugmentConfig
from augment.fused.blur import blur_one, gaussian_blur, reach
from augment.fused.colour import blend_, colourless, luma, shift_hue_, solarize_
from augment.fused.crop import crop_on_cpu
from augment.fused.layout import copy_rows
from augment.parameters import CONTRAST, HUE, SATURATION, ViewParameters
from augment.reference import warp

__all__ = ["augment_groups"]

# Floats of views worked on at a time: with fewer, starting an operation costs more than the operation.
_CHUNK = 2**20
# Floats of a view from which on one after the other is blurred, each with no more taps than it needs.
_LARGE_VIEW = 2**15


def augment_groups(
    images: Annotated[Tensor, "uint8|float B C H W"], parameters: ViewParameters, config: AugmentConfig
) -> Iterator[tuple[Annotated[Tensor, "int64 N"], Annotated[Tensor, "float N C S S"]]]:
    """Every view of images (B, C, H, W) once, in chunks: (positions in ``views.flatten(0, 1)`` (n,), views (n, C, S, S)).

    The views are floating point in [0, 1], not normalised.
    """
    drawn = {name: tensor.flatten(0, 1) for name, tensor in parameters.tensors().items()}
    if images.shape[1] != 3:
        drawn["jitter"] = colourless(drawn["jitter"])
    places = _hue_places(drawn["jitter"], drawn["order"])
    chunk = max(1, _CHUNK // (images.shape[1] * config.size**2))
    for first in range(0, len(places), chunk):
        ranked, order = places[first : first + chunk].sort(stable=True)
        rows = order + first
        part = {name: tensor.index_select(0, rows) for name, tensor in drawn.items()}
        # flatten(0, 1) puts the images of one view next to each other.
        sources = rows % len(images)
        views = crop_on_cpu(images, sources, part["crop"], config.size, part["flip"], config.antialias).clamp_(0, 1)
        _augment_(views, part, ranked, config)
        yield rows, views


def _augment_(views: Tensor, drawn: dict[str, Tensor], places: Tensor, config: AugmentConfig) -> None:
    """What follows the crop, in place. The views are sorted by ``places``, those of ``_hue_places``."""
    affine, sigma = drawn["affine"], drawn["blur"]
    moves = (affine != affine.new_tensor([0, 0, 0, 1, 0])).any(-1)
    _on_rows(views, moves, lambda some, rows: warp(some, affine[rows], config.outside))
    _jitter_(views, drawn["jitter"], drawn["order"], places)
    if views.shape[1] == 3:
        _on_rows(views, drawn["gray"], lambda some, _: luma(some).expand(-1, 3, -1, -1).contiguous())
    radius = config.blur_kernel_size // 2
    if views[0].numel() < _LARGE_VIEW:
        taps = reach(float(sigma.max()), radius)
        _on_rows(views, sigma > 0, lambda some, rows: gaussian_blur(some, sigma[rows], taps))
    else:
        for view, value in zip(views, sigma.tolist(), strict=True):
            if value:
                view.copy_(blur_one(view, value, reach(value, radius)))
    _on_rows(views, drawn["solarize"], lambda some, _: solarize_(some, config.solarize_threshold))


def _hue_places(jitter: Tensor, order: Tensor) -> Tensor:
    """How many of the other jitter operations come before the hue shift (N,), or 4 where none of the four acts."""
    acts = (jitter != jitter.new_tensor([1, 1, 1, 0])).any(1)
    return torch.where(acts, (order == HUE).int().argmax(1), 4)


def _jitter_(views: Tensor, factors: Tensor, order: Tensor, places: Tensor) -> None:
    """The four operations in each view's order, on views sorted by the place of the hue shift, which costs the most.

    Of the other three, the one that comes k-th is done for the views in which the hue comes later, then the hue for
    all, then the k-th for the rest: seven steps on neighbours, whatever the orders.
    """
    until = torch.searchsorted(places, torch.arange(1, 5)).tolist()  # the views whose hue comes before the k-th place
    blends = order[order != HUE].view(-1, 3)
    scales = factors.gather(1, blends)

    def blend(place: int, first: int, last: int) -> None:
        if first < last:
            op, scale = (values[first:last, place, None, None, None] for values in (blends, scales))
            grays, means = ((op == one).to(views.dtype) for one in (SATURATION, CONTRAST))
            blend_(views[first:last], scale, grays, means)

    for place in range(3):
        blend(place, until[place], until[3])
    turns = factors[: until[3], HUE, None, None, None]
    if turns.any():
        shift_hue_(views[: until[3]], turns)
    for place in range(3):
        blend(place, 0, until[place])


def _on_rows(views: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Put ``operation(rows, their indices)`` in place of the chosen rows."""
    rows = chosen.nonzero().flatten()
    if len(rows):
        copy_rows(views, rows, operation(views.index_select(0, rows), rows))
