"""Which images a step sees: a pure function of (seed, epoch, step, rank, world). There is no state to save or to lose."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from simclr.distributed import derive_seed
from simclr.errors import DataError

__all__ = ["EpochSampler", "epoch_permutation"]


@lru_cache(maxsize=2)
def epoch_permutation(images: int, seed: int, epoch: int) -> Tensor:
    """A permutation of ``range(images)`` as int64 (images,), the same on every call with the same arguments.

    >>> sorted(epoch_permutation(4, seed=0, epoch=3).tolist())
    [0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(images, generator=generator)


@dataclass(frozen=True, kw_only=True)
class EpochSampler:
    """Each epoch a fresh permutation, cut into global batches; the images left over at its end are dropped.

    The ranks take consecutive slices of a global batch, so that the batch is the same set of images in the same order
    however many processes share it.

    >>> sampler = EpochSampler(images=10, batch_size=4, seed=0)
    >>> sampler.steps_per_epoch
    2
    >>> halves = [sampler.indices(step=5, rank=r, world=2) for r in (0, 1)]
    >>> torch.equal(torch.cat(halves), sampler.indices(step=5))
    True
    """

    images: int
    """Images in the set."""

    batch_size: int
    """Images in a global batch."""

    seed: int = 0
    """Seed of the order."""

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            raise DataError(
                f"the set has {self.images} images, fewer than one batch of {self.batch_size}; "
                f"add images or set --train.batch-size {max(2, self.images // 2)}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.images // self.batch_size

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """The image indices, int64 (batch_size / world,), that ``rank`` sees in ``step``, counted from the run's start."""
        if self.batch_size % world:
            raise DataError(f"a batch of {self.batch_size} images does not divide among {world} processes")
        epoch, position = divmod(step, self.steps_per_epoch)
        share = self.batch_size // world
        start = position * self.batch_size + rank * share
        return epoch_permutation(self.images, self.seed, epoch)[start : start + share]
