"""Images that are decoded when it turns out that they are needed: of those whose features are kept none is."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from linear_eval.features.images import SizedImages
from linear_eval.sharing import placed
from simclr.data import ImageSet

__all__ = ["Later"]


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """What is to be known of images that wait."""

    group: int
    resident: Literal["auto", "yes", "no"]
    batch_size: int
    say: Callable[[str], object]
    read: list[ImageSet]


class Later:
    """Sets of files that wait to be decoded."""

    def __init__(self) -> None:
        self._waiting: weakref.WeakKeyDictionary[ImageSet, _Waiting] = weakref.WeakKeyDictionary()
        self._groups = 0

    def later(
        self,
        *parts: ImageSet,
        resident: Literal["auto", "yes", "no"],
        batch_size: int,
        say: Callable[[str], object] = lambda line: None,
    ) -> tuple[ImageSet, ...]:
        """``placed`` of each of ``parts``, but for files none is decoded before features of one of them have to be taken.

        Where files that do not decode are to be left out they are looked for at once: they decide which images there are.
        """
        self._groups += 1
        found = []
        for images in parts:
            if images.pixels is not None or images.broken == "skip":
                images = placed(images, resident, batch_size, say)[0]
            else:
                self._waiting[images] = _Waiting(
                    group=self._groups, resident=resident, batch_size=batch_size, say=say, read=[]
                )
            found.append(images)
        return tuple(found)

    def labelled(self, images: ImageSet) -> ImageSet:
        """``images.labelled()``, to be decoded as ``images`` are."""
        known = images.labelled()
        if known is not images and (waiting := self._waiting.pop(images, None)) is not None:
            self._waiting[known] = waiting
        return known

    def read(self, images: SizedImages) -> SizedImages:
        """``images`` as they are to be encoded; all that ``later`` was given with them are decoded now."""
        if not isinstance(images, ImageSet) or (wanted := self._waiting.get(images)) is None:
            return images
        for other, waiting in list(self._waiting.items()):
            if waiting.group == wanted.group and not waiting.read:
                waiting.read.append(placed(other, waiting.resident, waiting.batch_size, waiting.say)[0])
        return wanted.read[0]
