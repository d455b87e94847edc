"""The images most like a query, among features that may be larger than memory.

>>> import torch
>>> cosines, rows = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), k=2)
>>> rows, cosines
(tensor([[1, 2]]), tensor([[1.0000, 0.7071]]))
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from linear_eval.features.rows import parts_of
from linear_eval.matching.similarity import block_scores, prepare

__all__ = ["nearest"]


def nearest(queries: Tensor, x: Tensor | Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Cosines (Q, k) float32 and rows (Q, k) int64 of the k rows of ``x`` (N, F) nearest to each of ``queries`` (Q, F).

    The nearest comes first, and of equally near ones the row that stands earlier. With fewer rows than k it is all of
    them. ``x`` is read once, a part at a time; it may come in parts (n, F), in order.

    Raises:
        DataError: queries or rows with NaN or infinity, or of different width.
    """
    asked = prepare(queries, torch.zeros(len(queries), dtype=torch.int64), name="the queries").rows  # (Q, F)
    best = torch.empty(len(asked), 0, dtype=torch.float64)
    rows = torch.empty(len(asked), 0, dtype=torch.int64)
    start = 0
    for values in (part for _, part in parts_of(x)) if isinstance(x, Tensor) else x:
        there = prepare(values, torch.zeros(len(values), dtype=torch.int64), name="the features").rows
        numbers = torch.arange(start, start + len(values)).expand(len(asked), -1)
        start += len(values)
        # What was found before comes first, and a stable sort keeps that order among equals.
        best = torch.cat([best, block_scores(asked, there, "cosine")], 1)
        best, order = best.sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, numbers], 1).gather(1, order)
        best, rows = best[:, :k], rows[:, :k]
    return best.float(), rows
