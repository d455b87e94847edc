"""Files that break while a run goes on, with ``data.broken=skip``: each is said once, and what takes its place is chosen."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from simclr.data.image_set import ImageSet
from simclr.distributed import derive_seed

__all__ = ["LeftOut", "stand_ins"]


class LeftOut:
    """Says each file once, however often and by whomever it is met."""

    def __init__(self, say: Callable[[str], object] = lambda _: None) -> None:
        self.say = say
        self._said: set[str] = set()

    def new(self, broken: Mapping[str, str]) -> dict[str, str]:
        """Those of ``broken``, path -> what is wrong with it, that were not said yet."""
        return {path: reason for path, reason in broken.items() if path not in self._said}

    def __call__(self, broken: Mapping[str, str]) -> None:
        """Say those of ``broken`` that were not said yet."""
        for path, reason in self.new(broken).items():
            self._said.add(path)
            self.say(f"left out, since it broke after the start: {reason}")


def stand_ins(images: ImageSet, index: int, batch: Tensor, step: int) -> Iterator[int]:
    """Images that can take the place of image ``index`` in the global ``batch`` (B,) of ``step``, the best first.

    First those of its class (without labels: all) that are not in the batch, so that a batch of P classes of K images and
    a mined triplet stay what they are and no image is there twice; then others that are not in it; then those in it. The
    order is drawn by the step alone: it does not depend on processes or workers, and a step that is taken again is the same.

    >>> images = ImageSet.from_pixels(torch.zeros(6, 3, 8, 8), labels=torch.tensor([0, 0, 0, 1, 1, 1]), classes=(), name="")
    >>> [next(stand_ins(images, 0, torch.tensor([0, 1, 3]), step)) for step in range(3)]
    [2, 2, 2]
    """
    generator = torch.Generator().manual_seed(derive_seed("stand-in", step))
    order = torch.randperm(len(images), generator=generator)
    free = torch.ones(len(images), dtype=torch.bool)
    free[batch] = False
    kin = torch.ones_like(free) if images.labels is None else images.labels == images.labels[index]
    # Two images of a batch that break begin at different places of the order.
    place = int((batch == index).nonzero()[0]) if bool((batch == index).any()) else 0
    before = int(kin[batch[:place]].sum())
    for among in (free & kin, free & ~kin, ~free):
        candidates = order[among[order] & (order != index)]
        if len(candidates):
            yield from candidates.roll(-(before % len(candidates))).tolist()
