"""What a loader worker does for a batch: decode its files, and deal with those that are broken."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import default_collate

from simclr.data.image_set import ImageSet
from simclr.data.left_out import stand_ins
from simclr.errors import DataError

__all__ = ["DecodeBatch"]

_TRIES = 16
"""So many files in a row that do not decode are no broken files, but a disk that is gone."""


class DecodeBatch:
    """(step, image indices) -> images uint8 (B, 3, size, size), indices (B,), broken files and why.

    Args:
        images: the set; its ``broken`` says whether a file that breaks is refused, or another image takes its place.
        global_batch: the images of a step in all processes, int64.
    """

    def __init__(self, images: ImageSet, global_batch: Callable[[int], Tensor]) -> None:
        self.images, self.global_batch = images, global_batch

    def __call__(self, key: tuple[int, list[int]]) -> tuple[Tensor, Tensor, dict[str, str]]:
        step, wanted = key
        items, indices, broken = [], [], {}
        for index in wanted:
            try:
                item = self.images[index][0]
            except DataError as error:
                if self.images.broken == "refuse":
                    raise DataError(
                        f"{error}. Put a whole file in its place and run the same command again, or leave such files out: "
                        f"--data.broken skip, under another --name"
                    ) from error
                broken[self.images.describe(index)] = str(error)
                index, item = self._stand_in(step, index, error)
            items.append(item)
            indices.append(index)
        return default_collate(items), torch.tensor(indices), broken

    def _stand_in(self, step: int, index: int, error: DataError) -> tuple[int, Tensor]:
        tried = 0
        for other in islice(stand_ins(self.images, index, self.global_batch(step), step), _TRIES):
            try:
                return other, self.images[other][0]
            except DataError:
                tried += 1
        raise DataError(f"{error}, and so do the {tried} files tried in its place; is the disk still there?")
