"""Weighted k nearest neighbours on frozen features: a score without training (Wu et al. 2018, sec. 3.4).

>>> import torch
>>> from linear_eval.features.extract import Features
>>> def features(x, y):
...     return Features(torch.tensor(x), torch.tensor(y), torch.arange(len(y)))
>>> train = features([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [3, 3, 7])
>>> knn_predictions(train, features([[2.0, 0.1], [0.1, 5.0]], [3, 7]), k=1)
tensor([3, 7])
"""

from typing import Annotated

import torch
from torch import Tensor

from linear_eval.features.arrays import Pair, as_features
from linear_eval.features.extract import Features, check_features
from linear_eval.progress import default_device
from simclr.cores import threads_for
from simclr.errors import ConfigError, DataError
from simclr.neighbours import nearest_neighbour_vote

__all__ = ["knn_accuracy", "knn_predictions"]


def knn_accuracy(
    train: Features | Pair,
    test: Features | Pair,
    k: int = 20,
    temperature: float = 0.1,
    device: torch.device | str | None = None,
) -> float:
    """Share of the test images whose k nearest training images vote for the right class; see ``knn_predictions``."""
    test = as_features(test, "test")
    check_features(test, "test")
    return (knn_predictions(train, test, k, temperature, device) == test.y).double().mean().item()


@torch.no_grad()
def knn_predictions(
    train: Features | Pair,
    test: Features | Pair,
    k: int = 20,
    temperature: float = 0.1,
    device: torch.device | str | None = None,
) -> Annotated[Tensor, "int64 M"]:
    """Label (N,) int64 of every test row by the vote of its k nearest training rows.

    Nearness is the cosine s, and a neighbour's vote counts exp(s / temperature). Of equally near rows the one that
    stands earlier in ``train`` is taken, of equal votes the lower label wins. A zero row has cosine 0 with every other.
    Memory is bounded: neither N x M similarities nor N x C votes are ever held, nor a copy of the features; what lies in
    memory-mapped files is read a few times, see ``simclr.neighbours``.

    Args:
        train: labelled features, M rows, or a pair (x, y) as for ``linear_probe``.
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
    train, test = as_features(train, "training"), as_features(test, "test")
    check_features(train, "training")
    check_features(test, "test", labelled=False)
    if train.x.shape[1] != test.x.shape[1]:
        raise DataError(
            f"training features have {train.x.shape[1]} columns and test features {test.x.shape[1]}: "
            "take both from the same encoder"
        )
    device = default_device(device)
    with threads_for(len(train) * test.x.numel()):
        return nearest_neighbour_vote(train.x, train.y, test.x, k=k, temperature=temperature, device=device).cpu()
