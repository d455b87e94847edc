"""Batch-all: the sum over every triplet of a batch, without listing one of them."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simclr.distances import row_chunks
from simclr.mining_tuples import negative_mask, positive_table, sort_into_intervals

__all__ = ["AllTriplets", "batch_all"]


class AllTriplets(NamedTuple):
    """Sum and counts over all triplets (a, p, n) of a batch; 0-dim tensors on its device."""

    loss: Tensor
    """Sum of max(0, d_ap - d_an + margin), float64, differentiable in the distances."""
    triplets: Tensor
    """int64: how many there are."""
    active: Tensor
    """int64: d_an < d_ap + margin, those that the sum is made of."""
    hard: Tensor
    """int64: d_an <= d_ap."""
    anchors_dropped: Tensor
    """int64: anchors without a positive or without a negative."""
    positive_distance: Tensor
    """Mean distance of the positive pairs, float64; NaN where there is none."""
    negative_distance: Tensor
    """Mean distance of the negative pairs, float64; NaN where there is none."""


def batch_all(distances: Tensor, labels: Tensor, margin: float) -> AllTriplets:
    """Sum of the triplet hinge over all triplets of ``distances`` (N, N) and ``labels`` (N,) int64.

    The loss of Schroff et al. 2015, summed over the set that Hermans et al. 2017 call batch-all. For each anchor the
    thresholds d_ap + margin are sorted, and every negative looks up how many lie above it, and their sum: the hinges of
    that negative are the sum less the number times d_an. The numbers are also the gradient. O(N^2) memory, O(N^2 log N)
    time. Differentiable once.
    """
    return AllTriplets(*cast(tuple[Tensor, ...], _BatchAll.apply(distances, labels, margin)))


class _BatchAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distances: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, ...]:
        table = positive_table(labels)
        size, width = table.samples.shape
        slope = torch.zeros_like(distances)  # d loss / d distances
        loss = torch.zeros((), dtype=torch.float64, device=distances.device)
        active, hard, near, far = (torch.zeros_like(loss) for _ in range(4))
        for rows in row_chunks(size, size, distances.device) if width else ():
            block, real = distances[rows], table.valid[rows]
            positive = block.gather(1, table.samples[rows])
            # One walk counts the hard triplets too: d_an <= d_ap is d_an < the next number after d_ap.
            after = torch.nextafter(positive, torch.full_like(positive, torch.inf))
            both = torch.cat([positive + margin, after], 1).masked_fill_(~real.repeat(1, 2), -torch.inf)
            threshold, order = both.sort(1)
            hinge = ((order < width) & (threshold > -torch.inf)).to(block.dtype)  # 1 where it is a d_ap + margin
            interval = sort_into_intervals(threshold, block, right=True)
            same = ~negative_mask(labels, rows)
            interval.masked_fill_(same, 2 * width)  # above every threshold: no part in anything below

            above = _sum_from(hinge).gather(1, interval)  # (rows, N) hinges that the negative is active in
            total = _sum_from(threshold.masked_fill(hinge == 0, 0)).gather(1, interval)  # and their thresholds' sum
            loss += total.addcmul_(above, block, value=-1).sum(dtype=torch.float64)
            of_positives = positive.masked_fill(~real, 0).sum(dtype=torch.float64)
            near += of_positives
            far += block.sum(dtype=torch.float64) - of_positives

            found = block.new_zeros(len(block), 2 * width + 1).scatter_add_(1, interval, (~same).to(block.dtype))
            below = found.cumsum(1)[:, :-1]  # (rows, 2P) negatives below each threshold
            below = torch.empty_like(both).scatter_(1, order, below)
            active += below[:, :width].sum(dtype=torch.float64)
            hard += below[:, width:].sum(dtype=torch.float64)
            slope[rows] = above.neg_().scatter_add_(1, table.samples[rows], below[:, :width])
        ctx.save_for_backward(slope)
        positives = table.valid.sum(1)
        negatives = size - 1 - positives
        triplets = positives * negatives
        means = near / positives.sum(), far / negatives.sum()
        return loss, triplets.sum(), active.long(), hard.long(), (triplets == 0).sum(), *means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None


def _sum_from(values: Tensor) -> Tensor:
    """(A, P) -> (A, P + 1): column i sums the values from the i-th on; the last is 0."""
    return torch.nn.functional.pad(values.flip(1).cumsum(1).flip(1), (0, 1))
