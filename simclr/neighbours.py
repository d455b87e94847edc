"""The weighted vote of nearest neighbours in bounded memory: the online score of a run and the core of ``linear_eval.knn``."""

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.losses.nt_xent_tiled import float32_products

__all__ = ["nearest_neighbour_vote"]

CHUNK_BYTES = 2**26
"""Size of one block of similarities; a few of it exist at once."""


@torch.no_grad()
def nearest_neighbour_vote(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, *, k: int = 20, temperature: float = 0.1
) -> Tensor:
    """Class of each test row by the votes of its k nearest training rows, each weighing exp(cosine / temperature).

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.4. Of equally
    near rows the one that stands earlier is taken, of equal votes the lower label wins. A zero row has cosine 0 with
    every other. Neither N x M similarities nor N x C votes are ever held.

    Args:
        train_x: (M, F) floating point.
        train_y: int64 (M,), on the same device.
        test_x: (N, F), on the same device.
        k: neighbours that vote; M if there are fewer.
        temperature: of the weights, > 0.

    Returns:
        int64 (N,) on that device.
    """
    k = min(k, len(train_x))
    # Per query: its similarities to a block of the training set, and k x k comparisons of the neighbours' labels.
    queries = max(1, min(1024, CHUNK_BYTES // (8 * k * k)))
    block = max(k, CHUNK_BYTES // (4 * queries))
    with float32_products(), torch.autocast(train_x.device.type, enabled=False):
        bank = F.normalize(train_x.float(), dim=1)
        found = []
        for part in test_x.split(queries):
            cosines, nearest = _nearest(F.normalize(part.float(), dim=1), bank, k, block)  # (Q, k)
            # The nearest weighs 1: at a small temperature exp(cosine / temperature) would overflow.
            votes = ((cosines - cosines[:, :1]) / temperature).exp()
            found.append(_vote(train_y[nearest], votes))
    return torch.cat(found)


def _nearest(q: Tensor, bank: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Cosines and rows (Q, k) of the k nearest of ``bank``, nearest first, earlier rows first among equals."""
    values = torch.empty(len(q), 0, device=q.device)
    rows = torch.empty(len(q), 0, dtype=torch.int64, device=q.device)
    for start in range(0, len(bank), block):
        cosines = q @ bank[start : start + block].t()  # (Q, b)
        block_values, block_rows = _largest(cosines, min(k, cosines.shape[1]))
        values = torch.cat([values, block_values], 1)
        rows = torch.cat([rows, block_rows + start], 1)
        # What was found before comes first and stands earlier in the bank: a stable sort keeps that order.
        values, order = values.sort(dim=1, descending=True, stable=True)
        values, rows = values[:, :k], rows.gather(1, order[:, :k])
    return values, rows


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
