"""Batch-all: the sum over every triplet of a batch, without listing one of them."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from simclr.mining.tuples import FEW, distances_and_labels, positive_table, sort_into_intervals
from simclr.numerics import OneByOne, in_forward_mode, row_chunks, wide_dtype

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
    positive_pairs: Tensor
    """int64: over so many pairs (a, p) that mean is taken."""
    negative_pairs: Tensor
    """int64: over so many pairs (a, n)."""


def batch_all(distances: Tensor, labels: Tensor, margin: float, *, anchors: Tensor | None = None) -> AllTriplets:
    """Sum of the triplet hinge over all triplets of ``distances`` (N, N) and ``labels`` (N,) int64.

    The loss of Schroff et al. 2015, summed over the set that Hermans et al. 2017 call batch-all. With ``anchors`` (A,) int64 over
    the triplets of these samples alone, whose ``distances`` are (A, N). O(N^2)
    memory, O(N^2 log N) time. A sum of hinges: its second derivative in the distances is 0.
    """
    distances, labels = distances_and_labels(distances, labels, anchors)
    function = _BatchAllForward if in_forward_mode() else _BatchAll
    return AllTriplets(*cast(tuple[Tensor, ...], function.apply(distances, labels, margin, anchors))[:-1])


class _BatchAll(OneByOne):
    @staticmethod
    def forward(distances: Tensor, labels: Tensor, margin: float, anchors: Tensor | None) -> tuple[Tensor, ...]:
        table = positive_table(labels, anchors)
        width = table.samples.shape[1]
        slope = torch.zeros_like(distances)  # d loss / d distances
        wide = wide_dtype(distances.device)
        loss, active, hard, near, far = torch.zeros(5, dtype=wide, device=distances.device).unbind()
        walk = _compare if width <= FEW else _sort
        for rows in row_chunks(len(distances), len(labels), distances.device):
            block, real = distances[rows], table.valid[rows]
            positive = block.gather(1, table.samples[rows])
            others = table.hide_own_class(block, rows, torch.inf)
            # d_an <= d_ap is d_an < the next number after d_ap. No negative is nearer than -inf, nor than itself hidden.
            after = torch.nextafter(positive, torch.full_like(positive, torch.inf)).masked_fill_(~real, -torch.inf)
            within = (positive + margin).masked_fill_(~real, -torch.inf)
            row_loss, above, below, closer = walk(others, within, after)
            loss += row_loss.sum(dtype=wide)
            active += below.sum(dtype=wide)
            hard += closer.sum(dtype=wide)
            of_positives = positive.masked_fill_(~real, 0).sum(dtype=wide)
            near += of_positives
            far += block.sum(dtype=wide) - of_positives
            slope[rows] = above.neg_().scatter_add_(1, table.samples[rows], below)
        positives, negatives = table.valid.sum(1), table.negatives(len(labels))
        triplets = positives * negatives
        pairs = positives.sum(), negatives.sum()
        means = near / pairs[0], far / pairs[1]
        return loss, triplets.sum(), active.long(), hard.long(), (triplets == 0).sum(), *means, *pairs, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(output[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None, None


class _BatchAllForward(_BatchAll):
    """With its forward mode, which a compiler takes for no part of a function."""

    @staticmethod
    def forward(distances: Tensor, labels: Tensor, margin: float, anchors: Tensor | None) -> tuple[Tensor, ...]:
        loss, *others = _BatchAll.forward(distances, labels, margin, anchors)
        return loss.clone(), *others  # no view: it gets a tangent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _BatchAll.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output[-1])
        ctx.others = len(output) - 1

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_for_forward
        return (slope * tangent).sum(dtype=wide_dtype(slope.device)), *[None] * ctx.others


def _compare(others: Tensor, within: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hinges of negatives ``others`` (R, N) under the thresholds ``within`` = d_ap + margin (R, P), one after the other.

    Returns the sum of hinges (R,), how many of the thresholds lie above each negative (R, N), how many negatives lie
    below each threshold (R, P), and how many below each of ``after`` (R, P).
    """
    loss, above, buffer = torch.zeros_like(others[:, 0]), torch.zeros_like(others), torch.empty_like(others)
    below, closer = torch.empty_like(within), torch.empty_like(within)
    for column in range(within.shape[1]):
        torch.lt(others, after[:, column : column + 1], out=buffer)
        closer[:, column] = buffer.sum(1)
        torch.sub(within[:, column : column + 1], others, out=buffer).relu_()
        loss += buffer.sum(1)
        above += buffer.sign_()
        below[:, column] = buffer.sum(1)
    return loss, above, below, closer


def _sort(others: Tensor, within: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_compare`, for many positives: the thresholds are sorted, and every negative looks up its place among them.

    From there it reads how many ``within`` lie above it and their sum: its hinges are the sum less the number times its
    distance. Counted by place, the negatives give the number below each threshold.
    """
    width = within.shape[1]
    threshold, order = torch.cat([within, after], 1).sort(1)
    hinge = ((order < width) & (threshold > -torch.inf)).to(others.dtype)
    place = sort_into_intervals(threshold, others, right=True)
    above = _sum_from(hinge).gather(1, place)
    total = _sum_from(threshold.masked_fill(hinge == 0, 0)).gather(1, place)
    loss = total.addcmul_(above, others.masked_fill(others == torch.inf, 0), value=-1).sum(1)
    found = others.new_zeros(len(others), 2 * width + 1).scatter_add_(1, place, torch.ones_like(others))
    below = torch.empty_like(threshold).scatter_(1, order, found.cumsum(1)[:, :-1])
    return loss, above, below[:, :width], below[:, width:]


def _sum_from(values: Tensor) -> Tensor:
    """(A, P) -> (A, P + 1): column i sums the values from the i-th on; the last is 0."""
    return torch.nn.functional.pad(values.flip(1).cumsum(1).flip(1), (0, 1))
