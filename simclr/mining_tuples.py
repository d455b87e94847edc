"""Who may be compared with whom: the positives of every anchor as one small table, and what a miner returns.

Labels are int64 and never leave it (float32 merges labels above 2^24). No function here waits for a GPU: where the size
of the largest class is not known without asking the device, tables are as wide as the batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Positives", "Triplets", "check_labels", "negative_mask", "positive_table", "sort_into_intervals"]


class Positives(NamedTuple):
    """The other samples of each anchor's class, in ascending order, padded to one width P."""

    samples: Tensor
    """(A, P) int64: index of the positive; arbitrary (but in range) where not ``valid``."""
    valid: Tensor
    """(A, P) bool."""


class Triplets(NamedTuple):
    """T triplets for each of A anchors, padded. The anchor of row i is sample i (or ``anchors[i]`` where given)."""

    positive: Tensor
    """(A, T) int64."""
    negative: Tensor
    """(A, T) int64."""
    valid: Tensor
    """(A, T) bool: the triplet exists; the rest is padding with indices in range."""

    def indices(self, anchors: Tensor | None = None) -> Tensor:
        """The valid triplets as rows (anchor, positive, negative): (M, 3) int64. Waits for the device."""
        row, column = self.valid.nonzero(as_tuple=True)
        anchor = row if anchors is None else anchors[row]
        return torch.stack([anchor, self.positive[row, column], self.negative[row, column]], 1)

    def anchors_dropped(self) -> Tensor:
        """Number of anchors without a triplet, a 0-dim int64 tensor on the device."""
        return (~self.valid.any(1)).sum()


def check_labels(labels: Tensor, rows: int) -> None:
    """Raise `TypeError` unless ``labels`` are int64, and `ValueError` unless they are (rows,)."""
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are {labels.dtype}, expected int64 (float32 merges labels above 2^24): labels.long()")
    if labels.shape != (rows,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({rows},): one for each embedding")


def positive_table(labels: Tensor, anchors: Tensor | None = None) -> Positives:
    """Positives of every sample, or of the samples ``anchors`` (A,) int64, for ``labels`` (N,) int64.

        >>> table = positive_table(torch.tensor([7, 3, 7, 7]))
        >>> table.samples[0], table.valid[1]
        (tensor([2, 3]), tensor([False, False]))

    P is the size of the largest class less one on a CPU; on other devices, where that number would have to be waited
    for, it is N - 1.
    """
    order = torch.argsort(labels, stable=True)
    grouped = labels[order].contiguous()
    wanted = labels if anchors is None else labels[anchors]
    first = torch.searchsorted(grouped, wanted)
    size = torch.searchsorted(grouped, wanted, right=True) - first
    if labels.device.type == "cpu":
        width = max(int(size.max()) - 1, 0) if len(wanted) else 0
    else:
        width = max(len(labels) - 1, 0)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    rank = (place if anchors is None else place[anchors]) - first  # (A,) the anchor's own place in its class
    step = torch.arange(width, device=labels.device)
    column = step + (step >= rank.unsqueeze(1))  # (A, P) skips the anchor itself
    valid = column < size.unsqueeze(1)
    return Positives(order[first.unsqueeze(1) + column.where(valid, 0)], valid)


def negative_mask(labels: Tensor, rows: slice, anchors: Tensor | None = None) -> Tensor:
    """(rows, N) bool: column k has another label than the anchor, for a block of the anchors."""
    return labels[rows if anchors is None else anchors[rows]].unsqueeze(1) != labels


def sort_into_intervals(thresholds: Tensor, values: Tensor, right: bool = False) -> Tensor:
    """For every value (A, N) the number of its row's ascending ``thresholds`` (A, P) below it: (A, N) int64 in [0, P].

    With ``right``, thresholds equal to the value count as below. Equals ``torch.searchsorted``, whose branches cost a
    CPU more than comparing with each of a few thresholds.
    """
    width = thresholds.shape[1]
    if values.device.type != "cpu" or width > 16:
        return torch.searchsorted(thresholds.contiguous(), values.contiguous(), right=right)
    below = torch.empty(values.shape, dtype=torch.bool)
    count = torch.zeros(values.shape, dtype=torch.uint8)
    compare = torch.ge if right else torch.gt
    for column in range(width):
        compare(values, thresholds[:, column : column + 1], out=below)
        count += below.view(torch.uint8)
    return count.long()
