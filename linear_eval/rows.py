"""The rows of a feature matrix as a classifier reads them: standardised, chunk by chunk, wherever they live."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Rows", "column_statistics", "row_space", "second_moment"]


def column_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) float32 of the columns of x (N, F), summed in float64, in two passes.

    A column whose deviation is within rounding of its values is constant: its scale is 1, so it standardises to 0.
    """
    count, width = x.shape
    mean = torch.zeros(width, dtype=torch.float64)
    square = torch.zeros(width, dtype=torch.float64)
    for part in x.split(8192):
        mean += part.sum(0, dtype=torch.float64).cpu() / count
    for part in x.split(8192):
        square += (part.double().cpu() - mean).square().sum(0) / count
    scale = square.sqrt()
    rounding = 10 * torch.finfo(torch.float32).eps * mean.abs()
    return mean.float(), torch.where(scale > rounding, scale, 1.0).float()


class Rows:
    """The rows of a feature matrix, standardised as they are read.

    ``x`` (N, F) float32 may live anywhere, memory-mapped files included. When the matrix fits into ``cache_bytes`` it
    is standardised once and kept on the device; else each pass reads and standardises it again, chunk by chunk.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        device: torch.device | None = None,
        cache_bytes: int = 4 << 30,
    ) -> None:
        self.device = x.device if device is None else device
        self.count, self.width = x.shape
        self._x = x
        self._mean = None if mean is None else mean.to(self.device, torch.float32)
        self._scale = None if scale is None else scale.to(self.device, torch.float32)
        if x.numel() * 4 <= cache_bytes:
            self._x = self.read(0, self.count)
            self._mean = self._scale = None

    def read(self, start: int, stop: int) -> Tensor:
        """Rows start..stop, (n, F) float32 on the device."""
        rows = self._x[start:stop].to(self.device, torch.float32)
        if self._mean is not None:
            rows = rows - self._mean
        return rows if self._scale is None else rows / self._scale

    def chunks(self, columns: int) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, in chunks that stay in the cache, as do their products with a (columns, F) matrix."""
        budget = (1 << 18) if self.device.type == "cpu" else (1 << 25)
        size = min(max(min(budget // columns, 4 * budget // self.width), 128), self.count)
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            yield slice(start, stop), self.read(start, stop)


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
