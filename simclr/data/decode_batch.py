"""What a loader worker does for a batch: decode its files, cut their crops out, and deal with those that are broken."""

from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from augment.crops import crop_boxes
from simclr.data.cut import CropPlan, Cut, cut_views
from simclr.data.image_set import ImageSet
from simclr.data.left_out import stand_ins
from simclr.errors import DataError

__all__ = ["DecodeBatch"]

_TRIES = 16
"""So many files in a row that do not decode are no broken files, but a disk that is gone."""


class DecodeBatch:
    """(step, image indices) -> images uint8 (B, C, size, size), or their crops; indices (B,), broken files and why.

    Args:
        images: the set; its ``broken`` says whether a file that breaks is refused, or another image takes its place.
        global_batch: the images of a step in all processes, int64.
        plan: the crops to cut out of each image; None for squares.
        start: where the images asked for begin in the batch of all processes.
    """

    def __init__(
        self, images: ImageSet, global_batch: Callable[[int], Tensor], plan: CropPlan | None = None, start: int = 0
    ) -> None:
        self.images, self.global_batch, self.plan, self.start = images, global_batch, plan, start

    def __call__(self, key: tuple[int, list[int]]) -> tuple[Tensor | Cut, Tensor, dict[str, str]]:
        step, wanted = key
        items: list[Tensor | Cut] = []
        indices, broken = [], {}
        uniforms = None if self.plan is None else self.plan.uniforms(step)
        for place, index in enumerate(wanted, start=self.start):
            read = partial(self._read, step, None if uniforms is None else uniforms[..., place : place + 1])
            try:
                item = read(index)
            except DataError as error:
                if self.images.broken == "refuse":
                    raise DataError(
                        f"{error}. Put a whole file in its place and run the same command again, or leave such files out: "
                        f"--data.broken skip, under another --name"
                    ) from error
                broken[self.images.describe(index)] = str(error)
                index, item = self._stand_in(step, index, error, read)
            items.append(item)
            indices.append(index)
        return _stacked(items), torch.tensor(indices), broken

    def _read(self, step: int, uniforms: Tensor | None, index: int) -> Tensor | Cut:
        if self.plan is None or uniforms is None:
            return self.images[index][0]
        config = self.plan.config(step)
        return cut_views(
            self.images.reader,
            self.images.places[index],
            self.images.page(index),
            lambda height, width: crop_boxes(config, uniforms, height, width)[:, 0],
            config.size,
            config.antialias,
        )

    def _stand_in(
        self, step: int, index: int, error: DataError, read: Callable[[int], Tensor | Cut]
    ) -> tuple[int, Tensor | Cut]:
        tried = 0
        for other in islice(stand_ins(self.images, index, self.global_batch(step), step), _TRIES):
            try:
                return other, read(other)
            except DataError:
                tried += 1
        raise DataError(f"{error}, and so do the {tried} files tried in its place; is the disk still there?")


def _stacked(items: list[Tensor | Cut]) -> Tensor | Cut:
    cuts = [item for item in items if isinstance(item, Cut)]
    if not cuts:
        return torch.stack([item for item in items if isinstance(item, Tensor)])
    return Cut(
        torch.stack([cut.views for cut in cuts], 1),
        torch.stack([cut.boxes for cut in cuts], 1),
        torch.stack([cut.size for cut in cuts]),
    )
