"""Who may be compared with whom: the positives of every anchor as one small table, and what a miner returns.

Labels are int64 and never leave it (float32 merges labels above 2^24). No function here waits for a GPU: where the size
of the largest class is not known without asking the device, tables are as wide as the batch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from simclr.mining.given import as_labels, as_tensor
from simclr.numerics import in_transform

__all__ = [
    "FEW",
    "Positives",
    "Triplets",
    "check_labels",
    "distances_and_labels",
    "given_triplets",
    "positive_table",
    "sort_into_intervals",
    "widest",
]

FEW = 24
"""Up to so many thresholds a row, comparing with each is faster than searching among them."""


class Positives(NamedTuple):
    """The other samples of each anchor's class, in ascending order, padded to one width P."""

    samples: Tensor
    """(A, P) int64: index of the positive; where not ``valid``, some sample of the class."""
    valid: Tensor
    """(A, P) bool."""
    anchor: Tensor
    """(A, 1) int64: the anchor itself."""

    def negatives(self, samples: int) -> Tensor:
        """Number of samples of other classes, (A,) int64, in a batch of ``samples``."""
        return samples - 1 - self.valid.sum(1)

    def hide_own_class(self, block: Tensor, rows: slice, value: float) -> Tensor:
        """A copy of ``block`` (rows, N) with ``value`` in the columns of each anchor's own class, itself included.

        Writing the few columns of a class is several times faster than a mask over all of them.
        """
        return block.scatter(1, self.samples[rows], value).scatter_(1, self.anchor[rows], value)


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
    """Raise `TypeError` unless ``labels`` are an int64 tensor, and `ValueError` unless they are (rows,)."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels are {type(labels).__name__}; expected int64 labels ({rows},), one for each embedding")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are {labels.dtype}, expected int64 (float32 merges labels above 2^24): labels.long()")
    if labels.shape != (rows,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({rows},): one for each embedding")


def distances_and_labels(distances: Any, labels: Any, anchors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a miner is given, as tensors: distances (A, N) of the samples ``anchors`` (A,), or of all N, and labels (N,) int64.

    Raises:
        TypeError: labels that are no whole numbers.
        ValueError: distances that are no such matrix, or another number of labels.
    """
    distances = as_tensor(distances)
    if not isinstance(distances, Tensor) or distances.ndim != 2 or not distances.is_floating_point():
        found = f"{distances.dtype} of shape {tuple(distances.shape)}" if isinstance(distances, Tensor) else "no tensor"
        raise ValueError(
            f"distances are {found}; expected floating-point distances of every anchor to every sample (A, N)"
        )
    labels = as_labels(labels, device=distances.device)
    rows, columns = distances.shape
    check_labels(labels, columns)
    wanted = columns if anchors is None else len(anchors)
    if rows != wanted:
        raise ValueError(
            f"distances have shape {tuple(distances.shape)}, expected ({wanted}, {columns}): a row for each anchor; which "
            "samples these are is said by anchors"
        )
    return distances, labels


def positive_table(labels: Tensor, anchors: Tensor | None = None) -> Positives:
    """Positives of every sample, or of the samples ``anchors`` (A,) int64, for ``labels`` (N,) int64.

        >>> table = positive_table(torch.tensor([7, 3, 7, 7]))
        >>> table.samples[0], table.valid[1]
        (tensor([2, 3]), tensor([False, False]))

    P is the size of the largest class less one on a CPU; on other devices, where that number would have to be waited
    for, it is N - 1.
    """
    labels = as_labels(labels)
    check_labels(labels, len(labels))
    order = torch.argsort(labels, stable=True)
    grouped = labels[order].contiguous()
    wanted = labels if anchors is None else labels[anchors]
    first = torch.searchsorted(grouped, wanted)
    size = torch.searchsorted(grouped, wanted, right=True) - first
    width = max(_largest(size, len(labels)) - 1, 0)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    rank = (place if anchors is None else place[anchors]) - first  # (A,) the anchor's own place in its class
    step = torch.arange(width, device=labels.device)
    column = step + (step >= rank.unsqueeze(1))  # (A, P) skips the anchor itself
    valid = column < size.unsqueeze(1)
    own = torch.arange(len(labels), device=labels.device) if anchors is None else anchors
    return Positives(order[first.unsqueeze(1) + column.where(valid, 0)], valid, own.unsqueeze(1))


def widest(labels: Tensor) -> int:
    """P of the `positive_table` of all samples of ``labels`` (N,) int64."""
    grouped = labels.sort().values
    size = torch.searchsorted(grouped, labels, right=True) - torch.searchsorted(grouped, labels)
    return max(_largest(size, len(labels)) - 1, 0)


def given_triplets(labels: Tensor) -> Triplets:
    """Rows 0, 1, 2 as a triplet, rows 3, 4, 5 as the next: what is there of them with ``labels`` (N,) that fit.

    >>> given_triplets(torch.tensor([7, 7, 1, 4, 5, 6])).indices()
    tensor([[0, 1, 2]])
    """
    rows = torch.arange(len(labels), device=labels.device)
    positive, negative = ((rows + ahead).clamp(max=max(len(labels) - 1, 0)) for ahead in (1, 2))
    fits = (labels == labels[positive]) & (labels != labels[negative]) & (rows % 3 == 0) & (rows + 2 < len(labels))
    return Triplets(positive.unsqueeze(1), negative.unsqueeze(1), fits.unsqueeze(1))


def _largest(size: Tensor, most: int) -> int:
    """The largest of the class sizes where looking costs nothing; elsewhere the most that it can be."""
    if size.device.type != "cpu" or torch.compiler.is_compiling():
        return most
    try:
        return int(size.max()) if len(size) else 0
    except RuntimeError:  # labels of which torch.func.vmap shows no single one
        return most


def sort_into_intervals(thresholds: Tensor, values: Tensor, right: bool = False) -> Tensor:
    """For every value (A, N) the number of its row's ascending ``thresholds`` (A, P) below it: (A, N) int64 in [0, P].

    With ``right``, thresholds equal to the value count as below. Equals ``torch.searchsorted``, whose branches cost a
    CPU more than comparing with each of a few thresholds.
    """
    width = thresholds.shape[1]
    if values.device.type != "cpu" or width > FEW:
        return torch.searchsorted(thresholds.contiguous(), values.contiguous(), right=right)
    compare = torch.ge if right else torch.gt
    count, below = torch.zeros_like(values), None if in_transform() else torch.empty_like(values)
    for column in range(width):
        count += compare(values, thresholds[:, column : column + 1], out=below)
    return count.long()
