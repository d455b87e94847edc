"""The images most like a query, exactly, among features that may be larger than memory.

Products in float32 find the few rows of each part that can be among the nearest; these are compared again in float64. Where
rounding leaves open which rows those are, as among copies, all of the part are.

>>> import torch
>>> cosines, rows = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), k=2)
>>> rows, cosines
(tensor([[1, 2]]), tensor([[1.0000, 0.7071]]))
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from linear_eval.features.rows import parts_of
from linear_eval.matching.similarity import block_scores, pair_cosines, prepare
from simclr.errors import DataError
from simclr.numerics import float32_products
from simclr.progress import each

__all__ = ["nearest"]

_MORE = 24
"""Rows beyond the k nearest of a part that are compared again."""

_SCORES = 1 << 24
"""Scores that are held at a time: 64 MiB of float32."""


@torch.no_grad()
def nearest(
    queries: Tensor,
    x: Tensor | Iterable[Tensor],
    k: int,
    *,
    own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines (Q, k) float32 and rows (Q, k) int64 of the k rows of ``x`` (N, F) nearest to each of ``queries`` (Q, F).

    The nearest comes first, and of equally near ones the row that stands earlier. With fewer rows than k it is all of
    them. ``x`` is read once, a part at a time; it may come in parts (n, F), in order.

    Args:
        queries: what is looked for.
        x: where.
        k: how many.
        own: (Q,) int64, the row of ``x`` that each query is, which is not found by itself.

    Raises:
        DataError: queries or rows with NaN or infinity, or of different width.
    """
    asked = prepare(queries, torch.zeros(len(queries), dtype=torch.int64), name="the queries").rows  # (Q, F) float64
    asked32 = asked.float()
    best = torch.empty(len(asked), 0, dtype=torch.float64)
    rows = torch.empty(len(asked), 0, dtype=torch.int64)
    start = 0
    for part in each((part for _, part in parts_of(x)) if isinstance(x, Tensor) else x, "alike images", unit="parts"):
        if part.shape[1] != asked.shape[1]:
            raise DataError(
                f"the queries have {asked.shape[1]} features and the others {part.shape[1]}: both must be of one encoder"
            )
        there = _unit(part)
        size = max(1, _SCORES // max(1, len(part)))
        found = [
            _of_part(
                asked[i : i + size], asked32[i : i + size], part, there, k, best[i : i + size],
                None if own is None else own[i : i + size] - start,
            )
            for i in range(0, len(asked), size)
        ]  # fmt: skip
        scores, numbers = (torch.cat(each) for each in zip(*found, strict=True))
        # What was found before comes first, and a stable sort keeps that order among equals.
        best, order = torch.cat([best, scores], 1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, numbers + start], 1).gather(1, order)
        start += len(part)
        most = min(k, start if own is None else start - 1)
        best, rows = best[:, :most], rows[:, :most]
    return best.float(), rows


def _unit(part: Tensor) -> Tensor:
    """Rows (n, F) float32 of length 1, in a copy; rows that are not finite are refused."""
    if not part.sum(dtype=torch.float64).isfinite():
        prepare(part, torch.zeros(len(part), dtype=torch.int64), name="the features")  # which says which they are
    rows = part.double()  # squares of very large and very small values fit
    return rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float64).tiny)).float()


def _of_part(
    asked: Tensor, asked32: Tensor, part: Tensor, there: Tensor, k: int, best: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores (q, m) float64 and numbers (q, m), rising, of the rows of a part that may be among the k nearest of all.

    Those that cannot be have -inf. ``best`` (q, k) is what was found in other parts.
    """
    with float32_products():
        scores = asked32 @ there.t()  # (q, n)
    if own is not None:
        inside = ((own >= 0) & (own < len(part))).nonzero().flatten()
        scores[inside, own[inside]] = -torch.inf
    count = min(k + _MORE, scores.shape[1])
    values, numbers = scores.topk(count, dim=1)  # (q, m)
    # What a product of unit rows in float32 can be off by, whatever the order it is summed in.
    slack = 2 * (asked.shape[1] + 8) * 2.0**-24
    bar = values[:, min(k, count) - 1].double()
    if best.shape[1] == k:
        bar = torch.maximum(bar, best[:, -1])
    bar = bar - slack
    numbers = numbers.sort(dim=1).values
    near = scores.gather(1, numbers).double() >= bar[:, None]
    which, place = near.nonzero(as_tuple=True)
    exact = torch.full(numbers.shape, -torch.inf, dtype=torch.float64)
    for chosen in torch.arange(len(which)).split(max(1, (1 << 22) // part.shape[1])):
        q, at = which[chosen], place[chosen]
        exact[q, at] = pair_cosines(asked[q], part[numbers[q, at]])
    if count < scores.shape[1]:
        open_ = (values[:, -1].double() >= bar).nonzero().flatten()
        if len(open_):
            return _looked_at_all(asked, part, k, own, exact, numbers, open_)
    return exact, numbers


def _looked_at_all(
    asked: Tensor, part: Tensor, k: int, own: Tensor | None, exact: Tensor, numbers: Tensor, open_: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for the queries ``open_``, which are compared with every row of the part in float64."""
    rows = prepare(part, torch.zeros(len(part), dtype=torch.int64)).rows
    for some in open_.split(max(1, _SCORES // 2 // len(part))):
        scores = block_scores(asked[some], rows, "cosine")
        if own is not None:
            inside = ((own[some] >= 0) & (own[some] < len(part))).nonzero().flatten()
            scores[inside, own[some][inside]] = -torch.inf
        values, order = scores.sort(dim=1, descending=True, stable=True)
        count = min(exact.shape[1], k)
        kept, order = order[:, :count].sort(dim=1)
        exact[some] = -torch.inf
        exact[some[:, None], torch.arange(count)] = values[:, :count].gather(1, order)
        numbers[some[:, None], torch.arange(count)] = kept
    return exact, numbers
