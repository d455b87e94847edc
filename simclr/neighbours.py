"""The weighted vote of nearest neighbours, chunked: the online score of a run and the core of ``linear_eval.knn``."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["nearest_neighbour_vote"]


@torch.no_grad()
def nearest_neighbour_vote(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, *, k: int = 20, temperature: float = 0.1, chunk: int = 1024
) -> Tensor:
    """Class of each test row by the votes of its k nearest training rows, each weighing exp(cosine / temperature).

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.4.

    Args:
        train_x: (N, F) floating point.
        train_y: int64 (N,), classes from 0.
        test_x: (M, F).
        k: neighbours that vote; N if there are fewer.
        temperature: of the weights.
        chunk: test rows compared at a time, which bounds the memory at chunk x N similarities.

    Returns:
        int64 (M,); of classes with equal votes the lowest.
    """
    train = F.normalize(train_x.float(), dim=1)
    k = min(k, len(train))
    classes = int(train_y.max()) + 1
    votes = []
    for rows in test_x.split(chunk):
        cosines, nearest = (F.normalize(rows.float(), dim=1) @ train.T).topk(k, dim=1)  # (m, k)
        # The largest weight of a row is 1: at a small temperature exp(cosine / temperature) would overflow.
        weights = torch.exp((cosines - cosines[:, :1]) / temperature)
        ballot = torch.zeros(len(rows), classes, device=rows.device).scatter_add_(1, train_y[nearest], weights)
        votes.append(ballot.argmax(dim=1))
    return torch.cat(votes) if votes else torch.empty(0, dtype=torch.int64)
