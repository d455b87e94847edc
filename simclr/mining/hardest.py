"""Hard and semi-hard triplets."""

from typing import Literal, get_args

import torch
from torch import Tensor

from simclr.errors import ConfigError
from simclr.mining.tuples import Triplets, distances_and_labels, positive_table, sort_into_intervals
from simclr.numerics import row_chunks

__all__ = ["Fallback", "hard", "semi_hard"]

Fallback = Literal["easiest", "hardest", "skip"]
"""For a positive pair without a semi-hard negative: the anchor's farthest negative, its nearest one, or no triplet."""


@torch.no_grad()
def hard(distances: Tensor, labels: Tensor, *, anchors: Tensor | None = None) -> Triplets:
    """Batch-hard triplets, one an anchor: argmax of d_ap and argmin of d_an.

    Hermans et al. 2017, "In Defense of the Triplet Loss", eq. 5. ``distances`` (A, N) are those of the samples
    ``anchors`` (A,), by default all N in order; ``labels`` (N,) int64. Anchors without a positive or a negative are
    invalid rows. Ties go to the lowest index.
    """
    distances, labels = distances_and_labels(distances, labels, anchors)
    table = positive_table(labels, anchors)
    size = len(distances)
    negative = distances.new_zeros(size, 1, dtype=torch.int64)
    if table.samples.shape[1] == 0:
        return Triplets(negative, negative, torch.zeros_like(negative, dtype=torch.bool))
    farthest = distances.gather(1, table.samples).masked_fill_(~table.valid, -1).argmax(1, keepdim=True)
    for rows in row_chunks(size, len(labels), distances.device):
        others = table.hide_own_class(distances[rows], rows, torch.inf)
        negative[rows] = others.min(1, keepdim=True).indices
    valid = table.valid.any(1, keepdim=True) & (table.negatives(len(labels)) > 0).unsqueeze(1)
    return Triplets(table.samples.gather(1, farthest), negative, valid)


@torch.no_grad()
def semi_hard(
    distances: Tensor,
    labels: Tensor,
    margin: float,
    fallback: Fallback = "easiest",
    *,
    anchors: Tensor | None = None,
) -> Triplets:
    """For every positive pair the hardest semi-hard negative: the nearest with d_ap < d_an < d_ap + margin.

    Schroff et al. 2015, "FaceNet", section 3.2. Where a pair has none, ``fallback`` decides. ``distances`` (A, N) are
    those of the samples ``anchors`` (A,), by default all N in order; ``labels`` (N,) int64. Ties: the lowest index.

    Each row's positives are sorted and cut the distances into intervals; the nearest negative of every interval,
    carried backwards, is the nearest one beyond each positive: O(N^2) memory, and no row of negatives is sorted.

    Raises `ConfigError` for an unknown ``fallback``.
    """
    if fallback not in get_args(Fallback):
        raise ConfigError(f"unknown fallback {fallback!r}; expected one of {', '.join(get_args(Fallback))}")
    distances, labels = distances_and_labels(distances, labels, anchors)
    table = positive_table(labels, anchors)
    size, width = table.samples.shape
    negative = distances.new_zeros(table.samples.shape, dtype=torch.int64)
    valid = distances.new_zeros(table.valid.shape, dtype=torch.bool)
    if width == 0:
        return Triplets(table.samples, negative, valid)
    samples = torch.arange(len(labels), device=labels.device)
    for rows in row_chunks(size, len(labels), distances.device):
        block = distances[rows]
        others = table.hide_own_class(block, rows, torch.inf)
        positive = block.gather(1, table.samples[rows]).masked_fill_(~table.valid[rows], torch.inf)
        positive, order = positive.sort(1)
        interval = sort_into_intervals(positive, others)
        nearest = others.new_full((len(block), width + 1), torch.inf).scatter_reduce_(1, interval, others, "amin")
        # Which sample it is: the lowest index among those of the interval at that distance.
        at_nearest = torch.where(others == nearest.gather(1, interval), samples, len(labels) - 1)
        which = torch.full_like(interval[:, : width + 1], len(labels) - 1)
        which.scatter_reduce_(1, interval, at_nearest, "amin")
        beyond, place = nearest[:, 1:].flip(1).cummin(1)
        found = beyond.flip(1) < positive + margin
        choice = which[:, 1:].flip(1).gather(1, place).flip(1)
        if fallback == "hardest":
            choice = choice.where(found, others.argmin(1, keepdim=True))
        elif fallback == "easiest":
            choice = choice.where(found, table.hide_own_class(block, rows, -1).argmax(1, keepdim=True))
        negative[rows] = negative[rows].scatter(1, order, choice)
        valid[rows] = valid[rows].scatter(1, order, found if fallback == "skip" else torch.ones_like(found))
    has_negative = (table.negatives(len(labels)) > 0).unsqueeze(1)
    return Triplets(table.samples, negative, valid & table.valid & has_negative)
