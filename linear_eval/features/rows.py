"""The rows of a feature matrix as a classifier reads them: standardised, chunk by chunk, wherever they live."""

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

__all__ = ["Rows", "chunk_values", "column_statistics", "parts_of", "row_space", "rows_of_each_class", "second_moment"]

PART_VALUES = 1 << 22
"""Values of a part that is looked through once: 16 MiB of float32, a few temporaries of twice that beside it."""

HOST_CACHE = 4 << 30
MAPPED_CACHE = 64 << 20
"""Bytes of a standardised copy that are worth the reading saved. Of a memory-mapped file only a small one is copied: who
maps a file means that it need not fit."""


def parts_of(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of x (N, F) in order, ``PART_VALUES`` values at a time."""
    size = max(1, PART_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        yield part, x[part]


def column_statistics(x: Annotated[Tensor, "float N F"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) float32 of the columns of x (N, F), summed in float64, in two passes.

    A column whose deviation is within rounding of its values is constant: its scale is 1, so it standardises to 0.
    """
    count, width = x.shape
    mean = torch.zeros(width, dtype=torch.float64)
    square = torch.zeros(width, dtype=torch.float64)
    for _, part in parts_of(x):
        mean += part.sum(0, dtype=torch.float64).cpu() / count
    for _, part in parts_of(x):
        square += part.double().cpu().sub_(mean).square_().sum(0) / count
    scale = square.sqrt()
    rounding = 10 * torch.finfo(torch.float32).eps * mean.abs()
    return mean.float(), torch.where(scale > rounding, scale, 1.0).float()


def rows_of_each_class(y: Tensor) -> list[tuple[int, Tensor]]:
    """Every label of y (N,) int64 in rising order, each with its rows in rising order.

    >>> rows_of_each_class(torch.tensor([5, 2, 5]))
    [(2, tensor([1])), (5, tensor([0, 2]))]
    """
    labels, counts = y.unique(return_counts=True)
    rows = y.argsort(stable=True).split(counts.tolist())
    return list(zip(labels.tolist(), rows, strict=True))


class Rows:
    """The rows of a feature matrix, standardised as they are read.

    ``x`` (N, F) float32 may live anywhere, memory-mapped files included. When the standardised matrix fits into
    ``cache_bytes`` it is made once, chunk by chunk, and kept on the device; else each pass reads and standardises again.

    Args:
        x: (N, F) float32.
        mean: (F,), taken off every row; None for 0.
        scale: (F,), divides every row; None for 1.
        device: where the rows are wanted; by default where ``x`` is.
        index: int64 rows of ``x`` that are meant, in this order; None for all. They are gathered as they are read.
        mapped: ``x`` is a memory-mapped file, of which the host's memory is not to hold a copy.
        cache_bytes: by default 4 GiB on a CPU (64 MiB if ``mapped``) and half of the free memory of a GPU.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        device: torch.device | None = None,
        index: Tensor | None = None,
        mapped: bool = False,
        cache_bytes: int | None = None,
    ) -> None:
        self.device = x.device if device is None else device
        self.count, self.width = len(x) if index is None else len(index), x.shape[1]
        self._x, self._index = x, index
        self._mean = None if mean is None else mean.to(self.device, torch.float32)
        self._scale = None if scale is None else scale.to(self.device, torch.float32)
        if cache_bytes is None:
            cache_bytes = _cache_bytes(self.device, mapped)
        as_it_is = index is None and mean is None and scale is None and x.device == self.device
        if self.count * self.width * 4 <= cache_bytes and not (as_it_is and x.dtype == torch.float32):
            self._keep()

    def _keep(self) -> None:
        kept = torch.empty(self.count, self.width, device=self.device)
        for part, rows in parts_of(kept):
            rows.copy_(self.read(part.start, part.stop))
        self._x, self._index, self._mean, self._scale = kept, None, None, None

    def read(self, start: int, stop: int) -> Tensor:
        """Rows start..stop, (n, F) float32 on the device."""
        chosen = slice(start, stop) if self._index is None else self._index[start:stop].to(self._x.device)
        rows = self._x[chosen].to(self.device, torch.float32)
        if self._mean is not None:
            rows = rows - self._mean
        if self._scale is None:
            return rows
        # In place only in what was made here: without a mean the rows may be the caller's own.
        return rows / self._scale if self._mean is None else rows.div_(self._scale)

    def chunks(self, columns: int) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, in chunks that stay in the cache, as do their products with a (columns, F) matrix."""
        budget = chunk_values(self.device)
        size = min(max(min(budget // columns, 4 * budget // max(1, self.width)), 128), self.count)
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            yield slice(start, stop), self.read(start, stop)


def chunk_values(device: torch.device) -> int:
    """Values of a chunk's product: 1 MiB of float32 on a CPU, so that the work on it stays in the cache."""
    return (1 << 18) if device.type == "cpu" else (1 << 25)


def _cache_bytes(device: torch.device, mapped: bool) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return MAPPED_CACHE if mapped and device.type == "cpu" else HOST_CACHE


def second_moment(rows: Rows, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues (F,) and eigenvectors (F, F) of the features' second moment."""
    moment = torch.zeros(rows.width, rows.width, dtype=torch.float64, device=rows.device)
    total = 0.0
    for part, x in rows.chunks(16):
        w = None if sample_weight is None else sample_weight[part].view(-1, 1)
        moment += x.t() @ (x if w is None else x * w)
        total += len(x) if w is None else float(w.sum())
    values, vectors = torch.linalg.eigh(moment / total)
    return values.clamp_min(0).float(), vectors.float()


def row_space(rows: Rows) -> tuple[Rows, Tensor]:
    """The rows in an orthonormal basis (F, r) of their own span, r <= N: an exact reduction when N < F."""
    x = rows.read(0, rows.count).double()
    values, vectors = torch.linalg.eigh(x @ x.t())
    kept = values > values[-1].clamp_min(1e-30) * 1e-12
    basis = x.t() @ (vectors[:, kept] / values[kept].sqrt())
    return Rows((x @ basis).float()), basis.float()
