"""Batches of triplets that were mined offline: anchor, positive, negative, the next anchor, and so on."""

import torch
from torch import Tensor

from simclr.distributed import derive_seed
from simclr.errors import DataError

__all__ = ["MinedSampler", "random_triplets"]


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
