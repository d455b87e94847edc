"""The weighted vote of nearest neighbours in bounded memory: a run's own score and ``linear_eval.knn_accuracy``."""

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.numerics import float32_products
from simclr.progress import each

__all__ = ["nearest_neighbour_vote"]

CHUNK_BYTES = 2**26
"""Size of one block of similarities, and of one block of training rows; a few of them exist at once."""

RESIDENT_CHUNKS = 8
"""Queries that are compared in one reading of the training rows, in chunks' bytes: 512 MiB, all of ImageNet's 50,000
validation images at 2,048 features."""


@torch.no_grad()
def nearest_neighbour_vote(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.1,
    device: torch.device | None = None,
) -> Tensor:
    """Class of each test row by the votes of its k nearest training rows, each weighing exp(cosine / temperature).

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.4. Of equally
    near rows the one that stands earlier is taken, of equal votes the lower label wins. A zero row has cosine 0 with
    every other. Neither N x M similarities nor N x C votes are ever held, nor a copy of either set of rows: they may be
    memory-mapped files. The training rows are read once for every 512 MiB of test rows.

    Args:
        train_x: (M, F) floating point.
        train_y: int64 (M,).
        test_x: (N, F).
        k: neighbours that vote; M if there are fewer.
        temperature: of the weights, > 0.
        device: where to compare; by default where ``train_x`` is.

    Returns:
        int64 (N,) on that device.
    """
    device = train_x.device if device is None else device
    k, width = min(k, len(train_x)), train_x.shape[1]
    # Per query: its similarities to a block of the training set, and k x k comparisons of the neighbours' labels.
    queries = max(1, min(1024, CHUNK_BYTES // (8 * k * k)))
    block = max(k, min(CHUNK_BYTES // (4 * queries), CHUNK_BYTES // (4 * width)))
    resident = max(1, RESIDENT_CHUNKS * CHUNK_BYTES // (4 * width * queries)) * queries
    labels = train_y.to(device)
    found = []
    with float32_products(), torch.autocast(device.type, enabled=False):
        for asked in test_x.split(resident):
            chunks = _unit(asked, device).split(queries)
            nearest = [(torch.empty(0), torch.empty(0))] * len(chunks)
            for start in each(range(0, len(train_x), block), "nearest neighbours", unit="parts"):
                bank = _unit(train_x[start : start + block], device)
                nearest = [_nearer(kept, q @ bank.t(), start, k) for kept, q in zip(nearest, chunks, strict=True)]
            for cosines, rows in nearest:  # (Q, k)
                # The nearest weighs 1: at a small temperature exp(cosine / temperature) would overflow.
                votes = ((cosines - cosines[:, :1]) / temperature).exp()
                found.append(_vote(labels[rows], votes))
    return torch.cat(found)


def _unit(rows: Tensor, device: torch.device) -> Tensor:
    return F.normalize(rows.to(device).float(), dim=1)


def _nearer(kept: tuple[Tensor, Tensor], cosines: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and rows (Q, k) of the k nearest so far, nearest first, earlier rows first among equals.

    ``kept`` is what was found before row ``start``, where the block of ``cosines`` (Q, b) begins.
    """
    values, rows = _largest(cosines, min(k, cosines.shape[1]))
    rows = rows + start
    if start == 0:
        return values, rows
    values, rows = torch.cat([kept[0], values], 1), torch.cat([kept[1], rows], 1)
    # What was found before comes first and stands earlier in the bank: a stable sort keeps that order.
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], rows.gather(1, order[:, :k])


def _largest(cosines: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, sorted, equal ones by column; ``topk`` alone takes any of several equal ones."""
    values, columns = cosines.topk(k, dim=1)
    tied = ((cosines >= values[:, -1:]).sum(1) > k).nonzero().flatten()
    if len(tied):
        columns[tied] = cosines[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    columns = columns.sort(dim=1).values
    values, order = cosines.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _vote(labels: Tensor, votes: Tensor) -> Tensor:
    """The label of the largest sum of votes, labels and votes (Q, k) -> (Q,); the lowest of equals."""
    same = labels.unsqueeze(2) == labels.unsqueeze(1)  # (Q, k, k)
    totals = (same * votes.unsqueeze(1)).sum(2)  # the votes of each neighbour's class
    # Sums of the same votes in another order may differ in the last bit: equal up to that is equal.
    winners = totals >= totals.amax(1, keepdim=True) * (1 - 1e-6)
    return torch.where(winners, labels, torch.iinfo(torch.int64).max).amin(1)
