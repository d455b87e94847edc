"""Each image's nearest others: exactly, or by an index of faiss, where that is installed.

>>> import torch
>>> cosines, rows = nearest_rows(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1)
>>> rows.flatten().tolist()
[1, 0, 1]
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from linear_eval.features.rows import parts_of
from linear_eval.matching.search import nearest
from simclr.errors import MissingExtraError
from simclr.progress import each

__all__ = ["Index", "check_index", "nearest_rows"]

_WORTH_CELLS = 1 << 35
"""Products from which cells are worth the time that it takes to find them: 185,000 rows among themselves. Below it faiss
compares with every row, too."""

Index = Literal["exact", "faiss"]


def nearest_rows(
    x: Tensor,
    queries: Tensor | None = None,
    k: int = 10,
    *,
    own: Tensor | None = None,
    index: Index = "exact",
) -> tuple[Tensor, Tensor]:
    """Cosines (Q, k) float32 and rows (Q, k) int64 of the k rows of ``x`` nearest to each query, the nearest first.

    Args:
        x: (N, F), possibly a memory-mapped file, which is read once.
        queries: (Q, F); None looks for every row of ``x`` among the others.
        k: how many; all of them if there are fewer.
        own: (Q,) int64, the row of ``x`` that each query is, which is then not found by itself.
        index: ``exact`` compares with every row: 100 queries among 2 million rows take seconds. ``faiss`` does so too, but
            of hundreds of thousands of queries; for those it looks into some of many cells, and may miss a neighbour.

    Raises:
        DataError: rows with NaN or infinity, or of different width.
        MissingExtraError: ``faiss``, and it is not installed.
    """
    if queries is None:
        queries, own = x, torch.arange(len(x))
    if index == "faiss":
        return _by_faiss(x, queries, k, own)
    return nearest(queries, x, k, own=own)


def check_index(index: Index) -> None:
    """Raise MissingExtraError where ``index`` is one of a library that is not installed; before there is work to lose."""
    if index == "faiss":
        _faiss()


def _faiss() -> Any:
    try:
        import faiss  # type: ignore[import-not-found,import-untyped,unused-ignore]  # an extra
    except ImportError as error:
        raise MissingExtraError(
            "faiss is not installed; pip install 'simclr-pipeline[faiss]' brings it, and the exact search needs none"
        ) from error
    return faiss


def _by_faiss(x: Tensor, queries: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
    faiss = _faiss()
    faiss.omp_set_num_threads(torch.get_num_threads())
    count, width = x.shape
    cells = int(4 * count**0.5)
    table = faiss.IndexFlatIP(width)
    if len(queries) * count > _WORTH_CELLS:
        table = faiss.IndexIVFFlat(table, width, cells, faiss.METRIC_INNER_PRODUCT)
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: 40 * cells]
        table.train(F.normalize(x[drawn].float(), dim=1).numpy())
        table.nprobe = max(1, cells // 32)
    for _, rows in each(parts_of(x), "index of faiss", unit="parts"):
        table.add(F.normalize(rows.float(), dim=1).numpy())
    most = min(k + (own is not None), count)
    cosines, found = map(torch.from_numpy, table.search(F.normalize(queries.float(), dim=1).numpy(), most))
    if own is None:
        return cosines, found
    cosines = cosines.masked_fill(found == own[:, None], -torch.inf)
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, : most - 1]
    return cosines.gather(1, order), found.gather(1, order)
