"""The folders of a set as a tree of names, with the number of images in each; and the images' division that is made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simclr.data.part_names import PartName

__all__ = ["Folders", "Layout", "Tree", "few", "some_of"]

Folders = tuple[str, ...]
"""The folders that lead to an image, from the set's own folder down."""

_FEW = 3
"""So many stray images, or a twentieth of all, do not make a folder of classes one without."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the images of a folder are divided."""

    parts: dict[PartName, Tensor]
    """The numbers of each part's images, int64 and rising; ``train`` is there always."""

    folders: list[Folders]
    """What remains of each folder's path without folders of parts and without those around everything."""

    of: Tensor
    """int64 (N,): which of them each image is in."""

    names: Sequence[str]
    """What each image is called in a message: its path below the set's folder."""

    around: Folders = ()
    """Folders around everything."""

    notes: list[str] = field(default_factory=list)


class Tree:
    """D folders, and how many images are in each."""

    def __init__(self, folders: Sequence[Folders], of: Tensor, names: Sequence[str]) -> None:
        self.folders, self.of, self.names = folders, of, names
        self.counts: list[int] = torch.bincount(of, minlength=len(folders)).tolist()

    def images(self, folders: Sequence[int]) -> int:
        """How many images are in ``folders``."""
        return sum(self.counts[i] for i in folders)

    def numbers(self, folders: Sequence[int]) -> Tensor:
        """The numbers of the images in ``folders``, rising."""
        taken = torch.zeros(len(self.folders), dtype=torch.bool)
        taken[list(folders)] = True
        return taken[self.of].nonzero().flatten()

    def divided(
        self, parts: dict[PartName, list[int]], rest: list[Folders], around: Folders, notes: list[str]
    ) -> Layout:
        """The layout in which each part has the images of its folders."""
        numbers = {part: self.numbers(folders) for part, folders in parts.items()}
        return Layout(parts=numbers, folders=rest, of=self.of, names=self.names, around=around, notes=notes)

    def grouped(self, inside: Sequence[int], depth: int) -> dict[str | None, list[int]]:
        """The folders by that of them at ``depth``; None where they have none there."""
        found: dict[str | None, list[int]] = {}
        for i in inside:
            folder = self.folders[i]
            found.setdefault(folder[depth] if len(folder) > depth else None, []).append(i)
        return found

    def inside(self, inside: Sequence[int], depth: int, classes: set[str] | None = None) -> int:
        """The depth below the folders that hold everything else, but for a few stray images; a class holds nothing."""
        while True:
            found = self.grouped(inside, depth)
            strays = self.images(found.pop(None, ()))
            if len(found) != 1 or not few(strays, self.images(inside)) or (classes and next(iter(found)) in classes):
                return depth
            depth += 1


def few(strays: int, images: int) -> bool:
    """Whether so many images without a folder are strays, that leave the others what they are."""
    return strays <= max(_FEW, images // 20) and 4 * strays <= images


def some_of(names: Sequence[str], numbers: Tensor, one: str = "is", several: str = "are") -> str:
    """The first of the images at ``numbers`` by name, and how many more there are, as the subject of a sentence."""
    first = [names[i] for i in numbers[:3].tolist()]
    if len(numbers) == 1:
        return f"{first[0]} {one}"
    if len(numbers) <= 3:
        return f"{', '.join(first)} {several}"
    return f"{first[0]} and {len(numbers) - 1} others {several}"
