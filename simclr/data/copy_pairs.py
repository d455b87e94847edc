"""Pairs of near-copies among all images of a set, those included that are mirrored or cut by a little at their borders.

``near_copies`` says of each test image whether it has a copy in training; here every pair is wanted. What looks alike at 8 x 8 is
compared as there. A mirrored or a cropped image does not look alike at 8 x 8: pairs that something else found to be much alike,
as an encoder does, are compared in those ways too.

>>> photos = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
>>> pairs, agreement = copy_pairs(fingerprints(torch.cat([photos, 0.8 * photos[5:6], photos[7:8].flip(3)])))
>>> pairs.tolist(), copy_pairs(fingerprints(photos), torch.tensor([[3, 4]]))[0].tolist()
([[5, 40]], [])
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.data.near_copies import (
    _BLOCK,
    _FINE,
    _PAIRS,
    _WORTH_A_LOOK,
    THRESHOLD,
    _agreement,
    _candidates,
    fingerprints,
)

__all__ = ["copy_pairs", "fingerprints"]

CROPPED = 14.0
"""Agreement from which an image is another one cut at its borders: the edges of what is left are those of 32 x 32 enlarged, and
agree less. ``docs/decisions.md`` (2026-11-26) has what it finds."""

_SHARES = (0.95, 0.9, 0.85, 0.8)
"""Of width and height that a crop may have left."""

_MOST = 200_000
"""Images at most that are compared with one another at 8 x 8: it takes the square of their number."""


@torch.no_grad()
def copy_pairs(
    prints: Annotated[Tensor, "float16 N P"],
    alike: Annotated[Tensor, "int64 K 2"] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Annotated[Tensor, "int64 M 2"], Annotated[Tensor, "float32 M"]]:
    """Pairs of near-copies among N images, each once and the lower number first, and how much they agree.

    A group of many copies comes as pairs that chain it together, of which some may be missing.

    Args:
        prints: ``fingerprints`` of the images.
        alike: pairs that something else found much alike; they are compared mirrored and cropped as well.
        device: where to compare.
    """
    looked, further = _looked_at(prints, device), torch.empty(0, 2, dtype=torch.int64) if alike is None else alike
    further = _each_once(further)
    pairs = _each_once(torch.cat([looked, further]))
    plain = _agreements(prints, pairs, device, _as_it_is)
    further = further[~_among(further, pairs[plain > THRESHOLD])]
    mirrored = _agreements(prints, further, device, _mirrored)
    cropped = torch.zeros(len(further))
    for share in _SHARES:
        for order in ((0, 1), (1, 0)):
            found = _agreements(prints, further[:, order], device, partial(_cut, share=share))
            cropped = torch.maximum(cropped, found)
    changed = torch.maximum(mirrored, torch.where(cropped > CROPPED, cropped.clamp_min(THRESHOLD), 0.0))
    copied, also = plain > THRESHOLD, (mirrored > THRESHOLD) | (cropped > CROPPED)
    return torch.cat([pairs[copied], further[also]]), torch.cat([plain[copied], changed[also]])


def _looked_at(prints: Tensor, device: torch.device | str) -> Tensor:
    """Pairs (K, 2) that look alike at 8 x 8."""
    found = [torch.empty(0, 2, dtype=torch.int64)]
    for start in range(0, len(prints) if 1 < len(prints) <= _MOST else 0, _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, len(prints)))
        similarity, others = _candidates(prints, prints[rows], device, rows)
        which, look = (similarity > _WORTH_A_LOOK).nonzero(as_tuple=True)
        found.append(torch.stack([rows[which], others[which, look]], 1))
    return torch.cat(found)


def _each_once(pairs: Tensor) -> Tensor:
    pairs = pairs.sort(dim=1).values.unique(dim=0)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _among(pairs: Tensor, others: Tensor) -> Tensor:
    """Whether each of ``pairs`` (K, 2) is one of ``others``: bool (K,)."""
    most = int(torch.cat([pairs, others]).max()) + 1 if len(pairs) or len(others) else 1
    return torch.isin(pairs[:, 0] * most + pairs[:, 1], others[:, 0] * most + others[:, 1])


def _agreements(
    prints: Tensor, pairs: Tensor, device: torch.device | str, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Agreement (K,) of each pair, the first of it changed."""
    found = [
        _agreement(change(prints[part[:, 0]].to(device)), prints[part[:, 1]].to(device)).cpu()
        for part in pairs.split(_PAIRS)
        if len(part)  # the one part of nothing
    ]
    return torch.cat([torch.empty(0), *found])


def _as_it_is(prints: Tensor) -> Tensor:
    return prints


def _mirrored(prints: Tensor) -> Tensor:
    return _edges(prints).flip(3).flatten(1)


def _cut(prints: Tensor, share: float) -> Tensor:
    """The middle of each, ``share`` of its width and height, as large as the whole."""
    edges = _edges(prints)
    kept = torch.tensor([[share, 0.0, 0.0], [0.0, share, 0.0]], device=prints.device).expand(len(edges), 2, 3)
    grid = F.affine_grid(kept, list(edges.shape), align_corners=False)
    return F.grid_sample(edges, grid, align_corners=False).flatten(1)


def _edges(prints: Tensor) -> Tensor:
    return prints[:, : _FINE**2].float().view(-1, 1, _FINE, _FINE)
