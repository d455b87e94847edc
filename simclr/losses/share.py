"""A loss of the embeddings of several processes, of which each computes a part: its rows against all of them.

The parts are put together so that a loss reads the same with one process and with many. With ``share`` this process's `Share`:

    others = share.all(z)                    # (N, D) of all processes, in the order that one process would have
    z = share.own(others)                    # (A, D), the rows of this process, the anchors
    total, count = share.sum(terms, number)  # over all processes: from here on each computes the same
    loss = total / count

What comes before `Share.sum` is a part, what comes after it is the same everywhere. Gradients follow: those of rows that others
were compared with are added up by a reduce-scatter, those of parameters (`Share.alike`) by an all-reduce, and those of the
embeddings are such that the mean over the processes, which DistributedDataParallel takes, is the gradient of one process.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from simclr.distributed import (
    gather_parts,
    gather_rows,
    gather_values,
    largest_over_ranks,
    rank,
    scaled_for_mean,
    sum_gradients,
    sum_parts,
    world_size,
)
from simclr.losses.batch import EmbeddedBatch
from simclr.numerics import wide_dtype

__all__ = ["ALONE", "Share"]


@dataclass(frozen=True)
class Share:
    """The rows of one process among those of all. Of one process alone, every method gives back what it is given."""

    views: int = 1
    """V, the views of an image: rows are in the order of (V, B), of all processes too."""
    ranks: int = 1
    rank: int = 0
    narrow: bool = False
    """Whether floating point rows travel as bfloat16."""

    @classmethod
    def of(cls, batch: EmbeddedBatch, narrow: bool = False) -> Self:
        """That of this process, whose part of a batch is ``batch``."""
        return cls(len(batch.z), world_size(), rank(), narrow)

    def whole(self, batch: EmbeddedBatch) -> EmbeddedBatch:
        """The batch of all processes, of which ``batch`` is this one's, for a loss that each computes alike."""
        labels, indices = (gather_values(x[None])[0] for x in (batch.labels, batch.indices))
        keys = None if batch.keys is None else gather_values(batch.keys, self.narrow)
        return replace(batch, z=gather_rows(batch.z, self.narrow), labels=labels, indices=indices, keys=keys)

    def entered(self, z: Tensor) -> Tensor:
        """The embeddings of this process with the gradient that the mean over processes wants."""
        return scaled_for_mean(z)

    def rounded(self, z: Tensor) -> Tensor:
        """``z`` as it comes out of `all`; its gradient is that of the rounded."""
        return z + (z.detach().bfloat16().to(z.dtype) - z.detach()) if self.narrow else z

    def all(self, x: Tensor) -> Tensor:
        """Rows (V * b, ...) of every process: (V * B, ...). The gradient of floating point ones is the sum of all processes'."""
        if self.ranks == 1:
            return x
        gather = gather_parts if x.requires_grad else gather_values
        return gather(x.unflatten(0, (self.views, -1)), self.narrow).flatten(0, 1)

    def own(self, x: Tensor) -> Tensor:
        """The rows of this process (V * b, ...) out of those of all (V * B, ...)."""
        if self.ranks == 1:
            return x
        return x.unflatten(0, (self.views, -1)).chunk(self.ranks, dim=1)[self.rank].flatten(0, 1)

    def anchors(self, rows: int, device: torch.device) -> Tensor | None:
        """The numbers of this process's rows among all ``rows``, int64; None where they are all."""
        return None if self.ranks == 1 else self.own(torch.arange(rows, device=device))

    def itself(self, rows: int, device: torch.device) -> Tensor:
        """Bool (A, ``rows``): where a row of this process is compared with itself."""
        every = torch.arange(rows, device=device)
        return self.own(every).unsqueeze(1) == every

    def sum(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The sums over all processes of tensors of any shape, in one exchange: from here on every process computes the same."""
        if self.ranks == 1:
            return parts
        wide = wide_dtype(parts[0].device)
        flat = sum_parts(torch.cat([part.reshape(-1).to(wide) for part in parts]))
        found = flat.split([part.numel() for part in parts])
        return tuple(one.view(part.shape).to(part.dtype) for one, part in zip(found, parts, strict=True))

    def mean(self, parts: Tensor) -> Tensor:
        """The mean over all processes of each one's mean."""
        return self.sum(parts)[0] / self.ranks

    def largest(self, x: Tensor) -> Tensor:
        """The largest of all processes, entry by entry, without a gradient."""
        return x.detach() if self.ranks == 1 else largest_over_ranks(x)

    def alike(self, x: Tensor) -> Tensor:
        """``x``, the same in every process, such as a parameter: for use before `sum`. Its gradient is added up."""
        return sum_gradients(x) if self.ranks > 1 and x.requires_grad else x


ALONE = Share()
"""Of a process that has all rows itself."""
