"""Weighted k nearest neighbours on frozen features: a score without training (Wu et al. 2018, sec. 3.4).

>>> import torch
>>> from linear_eval.features import Features
>>> def features(x, y):
...     return Features(torch.tensor(x), torch.tensor(y), torch.arange(len(y)))
>>> train = features([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [3, 3, 7])
>>> knn_predictions(train, features([[2.0, 0.1], [0.1, 5.0]], [3, 7]), k=1)
tensor([3, 7])
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from linear_eval.features import Features, check_features
from simclr.errors import ConfigError, DataError
from simclr.losses.nt_xent_tiled import float32_products

__all__ = ["knn_accuracy", "knn_predictions"]

CHUNK_BYTES = 2**26
"""Size of one block of similarities; a few of it exist at once."""


def knn_accuracy(
    train: Features,
    test: Features,
    k: int = 20,
    temperature: float = 0.1,
    device: torch.device | str | None = None,
) -> float:
    """Share of the test images whose k nearest training images vote for the right class; see ``knn_predictions``."""
    check_features(test, "test")
    return (knn_predictions(train, test, k, temperature, device) == test.y).double().mean().item()


@torch.no_grad()
def knn_predictions(
    train: Features,
    test: Features,
    k: int = 20,
    temperature: float = 0.1,
    device: torch.device | str | None = None,
) -> Tensor:
    """Label (N,) int64 of every test row by the vote of its k nearest training rows.

    Nearness is the cosine s, and a neighbour's vote counts exp(s / temperature). Of equally near rows the one that
    stands earlier in ``train`` is taken, of equal votes the lower label wins. A zero row has cosine 0 with every other.
    Memory is bounded: neither N x M similarities nor N x C votes are ever held.

    Args:
        train: labelled features, M rows.
        test: features, N rows; their labels are not looked at.
        k: neighbours that vote; all of them if there are fewer.
        temperature: > 0.
        device: where to compare; by default CUDA where there is one.

    Raises:
        ConfigError: k < 1 or temperature <= 0.
        DataError: no rows, no training labels, non-finite features, or features of different widths.
    """
    if k < 1:
        raise ConfigError(f"k is {k}: expected at least one neighbour")
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}: expected a number > 0")
    check_features(train, "training")
    check_features(test, "test", labelled=False)
    if train.x.shape[1] != test.x.shape[1]:
        raise DataError(
            f"training features have {train.x.shape[1]} columns and test features {test.x.shape[1]}: "
            "take both from the same encoder"
        )
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    k = min(k, len(train))
    # Per query: its similarities to a block of the training set, and k x k comparisons of the neighbours' labels.
    queries = max(1, min(1024, CHUNK_BYTES // (8 * k * k)))
    block = max(k, CHUNK_BYTES // (4 * queries))
    with float32_products(), torch.autocast(place.type, enabled=False):
        bank = F.normalize(train.x.to(place, torch.float32), dim=1)
        labels = train.y.to(place)
        found = []
        for part in test.x.split(queries):
            q = F.normalize(part.to(place, torch.float32), dim=1)
            cosines, nearest = _nearest(q, bank, k, block)  # (Q, k)
            # The nearest weighs 1: at a small temperature exp(s / temperature) would overflow.
            votes = ((cosines - cosines[:, :1]) / temperature).exp()
            found.append(_vote(labels[nearest], votes))
    return torch.cat(found).cpu()


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
