"""The order images are seen in: a pure function of (seed, step), so that there is no state to save."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from simclr.config import SamplerConfig
from simclr.data.image_set import ImageSet
from simclr.data.shard_order import pieces_of, shard_order, shards_of
from simclr.distributed import derive_seed
from simclr.errors import ConfigError, DataError

__all__ = [
    "ClassSampler",
    "EpochSampler",
    "MinedSampler",
    "Sampler",
    "epoch_permutation",
    "make_sampler",
    "random_triplets",
]


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

    shard: Tensor | None = field(default=None, compare=False, repr=False)
    """int64 (images,): where they lie in shards, the number of each one's. The order is then one that reads shards forwards."""

    _orders: dict[int, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            smaller = f" or set --train.batch-size {max(2, self.images // 2)}" if self.images > 1 else ""
            raise DataError(
                f"the set has {self.images} image{'s'[: self.images != 1]}, fewer than one batch of {self.batch_size}; "
                f"add images{smaller}"
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
        return self._order(epoch)[start : start + share]

    def _order(self, epoch: int) -> Tensor:
        if self.shard is None:
            return epoch_permutation(self.images, self.seed, epoch)
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = shard_order(self._piece, self.seed, epoch)
        return self._orders[epoch]

    @cached_property
    def _piece(self) -> Tensor:
        assert self.shard is not None
        return pieces_of(self.shard)


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


class MinedSampler:
    """The mined ``triplets``, batch after batch, from the first step after each mining.

    An epoch is as many batches as the images would fill. Triplets that are fewer than that come round again.

    Args:
        images: images in the set.
        batch_size: images in a global batch, three for each triplet.
        mine_every: epochs between two minings.
    """

    def __init__(self, *, images: int, batch_size: int, mine_every: int) -> None:
        if images < batch_size:
            raise DataError(f"the set has {images} images, fewer than one batch of {batch_size}")
        self.images, self.batch_size = images, batch_size
        self.steps_per_epoch = images // batch_size
        self.period = mine_every * self.steps_per_epoch
        """Steps between two minings."""
        self.triplets = torch.empty(0, 3, dtype=torch.int64)
        """int64 (T, 3): image indices of the latest mining; a part of the training state."""

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """The image indices, int64 (batch_size / world,), that ``rank`` sees in ``step``."""
        if self.batch_size % world:
            raise DataError(f"a batch of {self.batch_size} images does not divide among {world} processes")
        if not len(self.triplets):
            raise RuntimeError("no triplets were mined before the first batch")
        count = self.batch_size // 3
        first = (step % self.period) * count
        batch = self.triplets[torch.arange(first, first + count) % len(self.triplets)].flatten()
        share = self.batch_size // world
        return batch[rank * share : (rank + 1) * share]


def random_triplets(labels: Tensor, count: int, seed: int) -> Tensor:
    """``count`` triplets of ``labels`` (N,) int64, drawn evenly over anchors: int64 (count, 3).

    Raises:
        DataError: no class with two images, or one class only.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "random triplets"))
    order = labels.argsort(stable=True)
    _, which, counts = labels[order].unique_consecutive(return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    anchors = (counts[which] >= 2).nonzero().flatten()  # places in ``order``
    if not len(anchors) or len(counts) < 2:
        raise DataError("triplets need a class with two images and a second class")
    place = anchors[torch.randint(len(anchors), (count,), generator=generator)]
    size, start = counts[which[place]], first[which[place]]

    def draw(options: Tensor) -> Tensor:
        return (torch.rand(count, generator=generator) * options).long()

    positive = start + (place - start + 1 + draw(size - 1)) % size
    negative = (start + size + draw(len(labels) - size)) % len(labels)
    return torch.stack([order[place], order[positive], order[negative]], 1)


Sampler = EpochSampler | ClassSampler | MinedSampler


def make_sampler(chosen: SamplerConfig, images: ImageSet, batch_size: int, seed: int) -> Sampler:
    """The sampler that ``chosen`` names, over ``images``.

    Raises:
        DataError: fewer images than a batch, or labels that the sampler needs and the set has not.
    """
    if chosen.name == "shuffle":
        return EpochSampler(images=len(images), batch_size=batch_size, seed=seed, shard=shards_of(images))
    if images.labels is None:
        raise DataError(f"sampler.name={chosen.name} needs labels, and {images.name} has none")
    if chosen.name == "mined":
        random_triplets(images.labels, 1, seed)  # it refuses labels that no triplet can be made of
        return MinedSampler(images=len(images), batch_size=batch_size, mine_every=chosen.mine_every)
    return ClassSampler(
        labels=images.labels, batch_size=batch_size, classes=chosen.classes, per_class=chosen.per_class, seed=seed
    )
