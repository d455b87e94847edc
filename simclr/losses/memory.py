"""A memory of embeddings: a batch is compared with those of the steps before it as well.

Wang, Zhang, Huang, Scott 2020, "Cross-Batch Memory for Embedding Learning" (XBM, arXiv 1912.06798): the embeddings of an
image drift slowly once training has settled, so that a queue of past ones, which cost nothing to keep, is as good as so
many more images in the batch.

    >>> memory = EmbeddingMemory(rows=3, dim=1)
    >>> for step in range(2):
    ...     memory.take_in(torch.tensor([[2.0 * step], [2.0 * step + 1]]), torch.tensor([0, 1]))
    >>> memory.rows.flatten(), memory.labels, memory.real()
    (tensor([3., 1., 2.]), tensor([1, 1, 0]), tensor([True, True, True]))
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from simclr.errors import require

__all__ = ["EmbeddingMemory", "check_memory"]

_MOST = 1 << 24


def check_memory(rows: int, start: int) -> None:
    """Raise `ConfigError` unless a memory may have ``rows`` and begin after ``start`` steps."""
    require(0 <= rows <= _MOST, "memory", rows, f"a number of embeddings from 0 (none) to {_MOST}")
    require(start >= 0, "memory_from", start, "a number of steps, 0 or more")


class EmbeddingMemory(nn.Module):
    """The last ``rows`` embeddings (rows, dim) float32 with their labels, without a gradient, oldest out first.

    Buffers all, so that they travel in a checkpoint; given the gathered batch, every process keeps the same. For its first
    ``start`` calls it takes nothing in. Nothing of it waits for a device: where it is not full, `real` masks what is empty.
    """

    rows: Tensor
    labels: Tensor
    taken: Tensor
    calls: Tensor

    def __init__(self, rows: int, dim: int, start: int = 0) -> None:
        super().__init__()
        check_memory(rows, start)
        self.start = start
        self.register_buffer("rows", torch.zeros(rows, dim))
        self.register_buffer("labels", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def real(self) -> Annotated[Tensor, "bool M"]:
        """Which rows hold an embedding."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.taken

    @torch.no_grad()
    def take_in(self, z: Annotated[Tensor, "float N D"], labels: Annotated[Tensor, "int64 N"]) -> None:
        """Put ``z`` in the place of the oldest. A batch with a row that is not finite is left out, whole."""
        z, labels = z[-len(self.rows) :], labels[-len(self.rows) :]
        accepted = (self.calls >= self.start) & z.isfinite().all()
        places = (self.taken + torch.arange(len(z), device=z.device)) % len(self.rows)
        self.rows[places] = torch.where(accepted, z.to(self.rows.dtype), self.rows[places])
        self.labels[places] = torch.where(accepted, labels, self.labels[places])
        self.taken += accepted * len(z)
        self.calls += 1

    def extra_repr(self) -> str:
        return f"rows={len(self.rows)}, dim={self.rows.shape[1]}, start={self.start}"
