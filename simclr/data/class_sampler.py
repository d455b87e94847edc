"""Batches of a few classes with several images each: P x K, and FaceNet's mix. Stateless like the main sampler."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from simclr.data.sampler import epoch_permutation
from simclr.distributed import derive_seed
from simclr.errors import ConfigError, DataError

__all__ = ["ClassSampler"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassSampler:
    """A batch of ``classes`` x ``per_class`` images, filled up to ``batch_size`` with random other images.

    With ``classes * per_class == batch_size`` this is P x K (Hermans et al. 2017, sec. 2). With fewer it is FaceNet's
    mix: about 40 images of an identity, and random negatives (Schroff et al. 2015, sec. 3.2).

    - Classes come in turn: every class that can form a pair is used before one is used again.
    - A class with fewer than ``per_class`` images gives all it has, and random images take the places left.
    - No image is twice in a batch, so a class of one image never pairs with itself: such classes are left to the
      random part, as negatives.
    - The ranks take consecutive slices of one global batch, in an order that mixes the classes.

    An epoch is as many batches as the images would fill; it does not visit every image exactly once.

    >>> sampler = ClassSampler(labels=torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]), batch_size=4, classes=2, per_class=2)
    >>> [len(sampler.labels[sampler.indices(step)].unique()) for step in range(3)]
    [2, 2, 2]
    """

    labels: Tensor
    """int64 (N,)."""

    batch_size: int
    """Images in a global batch."""

    classes: int
    """Classes P in a batch."""

    per_class: int
    """Images K of each of them."""

    seed: int = 0
    """Seed of the order."""

    _members: dict[int, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.classes < 1 or self.per_class < 2:
            raise ConfigError(
                f"sampler.classes={self.classes} and sampler.per_class={self.per_class}: expected at least 1 and 2"
            )
        if self.classes * self.per_class > self.batch_size:
            raise ConfigError(
                f"sampler.classes={self.classes} x sampler.per_class={self.per_class} is "
                f"{self.classes * self.per_class} images, more than train.batch_size={self.batch_size}"
            )
        if len(self.labels) < self.batch_size:
            raise DataError(f"the set has {len(self.labels)} images, fewer than one batch of {self.batch_size}")
        order = self.labels.argsort(stable=True)
        names, counts = self.labels[order].unique_consecutive(return_counts=True)
        members = dict(zip(names.tolist(), order.split(counts.tolist())))
        object.__setattr__(self, "_members", {c: rows for c, rows in members.items() if len(rows) >= 2})
        if not self._members:
            raise DataError("no class has two images, so no batch can hold a positive pair")

    @property
    def images(self) -> int:
        """Images in the set."""
        return len(self.labels)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.labels) // self.batch_size

    @cached_property
    def _names(self) -> Tensor:
        return torch.tensor(sorted(self._members))

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """The image indices, int64 (batch_size / world,), that ``rank`` sees in ``step``."""
        if self.batch_size % world:
            raise DataError(f"a batch of {self.batch_size} images does not divide among {world} processes")
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "classes", step))
        parts = []
        for name in self._classes_of(step).tolist():
            rows = self._members[name]
            parts.append(rows[torch.randperm(len(rows), generator=generator)[: self.per_class]])
        chosen = torch.cat(parts)
        free = torch.ones(len(self.labels), dtype=torch.bool)
        free[chosen] = False
        others = free.nonzero().flatten()
        filling = others[torch.randperm(len(others), generator=generator)[: self.batch_size - len(chosen)]]
        batch = torch.cat([chosen, filling])
        batch = batch[torch.randperm(len(batch), generator=generator)]
        share = self.batch_size // world
        return batch[rank * share : (rank + 1) * share]

    def _classes_of(self, step: int) -> Tensor:
        count = min(self.classes, len(self._names))
        turns = len(self._names) // count
        turn, position = divmod(step, turns)
        order = epoch_permutation(len(self._names), derive_seed(self.seed, "class order"), turn)
        return self._names[order[position * count : (position + 1) * count]]
