"""An ImageSet: images as one uint8 tensor or as files, with or without labels, indexable as a torch Dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from simclr.data.decode import Reader
from simclr.data.decode_all import decode_all
from simclr.data.file_list import FileList
from simclr.data.originals import LONGEST, Originals
from simclr.data.places import Chosen, chosen, joined
from simclr.data.rows import Row
from simclr.errors import DataError

__all__ = ["ImageSet"]

_SAID: set[tuple[str, str]] = set()


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """N images of one stored size, uint8. One of ``pixels``, ``paths`` and ``rows`` is set."""

    name: str
    """Where they come from, for messages."""

    reader: Reader
    """How files become pixels, and the size of what one vector is made of."""

    pixels: Tensor | None = None
    """uint8 (N, C, size, size), on any device; None while the images are still files."""

    originals: Originals | None = None
    """What random crops are cut from where ``pixels`` are not all there is of the images."""

    paths: Sequence[Path] | None = None
    """The N files; kept beside ``pixels`` when they came from files, so that a message can name one."""

    rows: Sequence[Row] | None = None
    """The N rows of somebody else's data set, kept like ``paths``."""

    pages: tuple[int, ...] | None = None
    """Which page or frame of its file each image is; None where all are the first."""

    labels: Tensor | None = None
    """int64 (N,) on the CPU, or None."""

    classes: tuple[str, ...] = ()
    """Name of each label."""

    values: Tensor | None = None
    """float32 (N,) on the CPU, or None: the quality of each label in [0, 1], or without ``labels`` a number to predict."""

    groups: Tensor | None = None
    """int64 (N,) on the CPU, or None: images of one group stay in one part of every division; -1 is a group of its own."""

    broken: Literal["refuse", "skip"] = "refuse"
    """What becomes of files that do not decode: in ``resident``, and where they are decoded batch by batch."""

    notes: tuple[str, ...] = ()
    """What was decided about the set, from what, and what was left out: the first lines of every command that reads it."""

    @classmethod
    def from_pixels(cls, pixels: Tensor, *, labels: Tensor | None, classes: tuple[str, ...], name: str) -> "ImageSet":
        """A set of decoded images, uint8 (N, C, size, size)."""
        reader = Reader(size=pixels.shape[-1], channels=pixels.shape[1])
        return cls(name=name, reader=reader, pixels=pixels, labels=labels, classes=classes)

    @classmethod
    def from_files(
        cls,
        paths: Sequence[Path],
        reader: Reader | int,
        *,
        labels: Tensor | None,
        classes: tuple[str, ...],
        name: str,
        values: Tensor | None = None,
        groups: Tensor | None = None,
        pages: Sequence[int] | None = None,
        broken: Literal["refuse", "skip"] = "refuse",
        notes: Sequence[str] = (),
    ) -> "ImageSet":
        """A set of image files, decoded when asked for by ``reader``, or in colours to squares of so many pixels."""
        return cls(
            name=name,
            reader=Reader(size=reader) if isinstance(reader, int) else reader,
            paths=paths if isinstance(paths, FileList | Chosen) else tuple(paths),
            pages=None if pages is None else tuple(pages),
            labels=labels,
            classes=classes,
            values=values,
            groups=groups,
            broken=broken,
            notes=tuple(notes),
        )

    @property
    def places(self) -> Sequence[Path | Row]:
        """What the images are read from, one each; empty where there are only pixels."""
        return self.rows if self.paths is None and self.rows is not None else self.paths or ()

    @property
    def size(self) -> int:
        """Height and width in pixels of what one vector is made of."""
        return self.reader.size

    def page(self, index: int) -> int:
        """Which page of its file image ``index`` is."""
        return 0 if self.pages is None else self.pages[index]

    def first_lines(self) -> list[str]:
        """Those of ``notes`` that this gave for no set of the same name yet: a process says each once, however often it reads.

        >>> images = ImageSet.from_files([], 8, labels=None, classes=(), name="flat", notes=["no labels: one folder"])
        >>> images.first_lines(), images.first_lines()
        (['no labels: one folder'], [])
        """
        fresh = [note for note in dict.fromkeys(self.notes) if (self.name, note) not in _SAID]
        _SAID.update((self.name, note) for note in fresh)
        return fresh

    def __len__(self) -> int:
        """Number of images."""
        if self.pixels is not None:
            return len(self.pixels)
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image ``index`` as uint8 (C, size, size) and its label, -1 without labels."""
        label = -1 if self.labels is None else int(self.labels[index])
        if self.pixels is not None:
            return self.pixels[index], label
        return self.reader.square(self.places[index], self.page(index)), label

    @property
    def nbytes(self) -> int:
        """Bytes that the whole set takes decoded."""
        return len(self) * self.reader.channels * self.size * self.size

    def describe(self, index: int) -> str:
        """What a message calls image ``index``: its file, or its number."""
        return str(self.places[index]) if self.places else f"image {index} of {self.name}"

    def subset(self, index: Tensor) -> "ImageSet":
        """The images at ``index``, int64 (M,), in that order."""
        return replace(
            self,
            pixels=None if self.pixels is None else self.pixels[index.to(self.pixels.device)],
            originals=None if self.originals is None else self.originals.subset(index),
            paths=None if self.paths is None else chosen(self.paths, index),
            rows=None if self.rows is None else chosen(self.rows, index),
            pages=None if self.pages is None else tuple(self.pages[i] for i in index.tolist()),
            labels=None if self.labels is None else self.labels[index],
            values=None if self.values is None else self.values[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def labelled(self) -> "ImageSet":
        """The images that have a label, or a value where the set has no labels."""
        if self.labels is not None:
            known = self.labels >= 0
        else:
            known = torch.ones(len(self), dtype=torch.bool) if self.values is None else self.values.isfinite()
        return self if bool(known.all()) else self.subset(known.nonzero().flatten())

    def joined(self, other: "ImageSet") -> "ImageSet":
        """These images and then those of ``other``, a part of the same set with the same numbering of classes."""

        def cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        return replace(
            self,
            pixels=cat(self.pixels, other.pixels),
            originals=None,
            paths=None if self.paths is None or other.paths is None else joined(self.paths, other.paths),
            rows=None if self.rows is None or other.rows is None else joined(self.rows, other.rows),
            pages=None if self.pages is None or other.pages is None else self.pages + other.pages,
            labels=cat(self.labels, other.labels),
            values=cat(self.values, other.values),
            groups=cat(self.groups, other.groups),
        )

    def of_classes(self, chosen: tuple[int, ...]) -> "ImageSet":
        """The images of the classes ``chosen``, whose labels become 0, 1, ... in that order."""
        assert self.labels is not None
        number = torch.full((len(self.classes),), -1)
        number[list(chosen)] = torch.arange(len(chosen))
        part = self.subset(((self.labels >= 0) & torch.isin(self.labels, torch.tensor(chosen))).nonzero().flatten())
        assert part.labels is not None
        return replace(part, labels=number[part.labels], classes=tuple(self.classes[c] for c in chosen))

    def relabelled(self, classes: tuple[str, ...]) -> "ImageSet":
        """The same images with labels numbered as in ``classes``; names that are not in it get numbers behind them."""
        assert self.labels is not None
        names = classes + tuple(name for name in self.classes if name not in classes)
        number = torch.tensor([names.index(name) for name in self.classes])
        return replace(self, labels=torch.where(self.labels >= 0, number[self.labels], -1), classes=names)

    def resident(self, device: torch.device, shapes: bool = False, broken: dict[int, str] | None = None) -> "ImageSet":
        """The same set with every image decoded into one uint8 tensor on ``device``.

        With ``shapes`` random crops are cut from the images as they are, not from squares: ``originals`` keeps them.
        What is left out, and why, is put into ``broken``.

        Raises:
            DataError: a file does not decode and ``broken`` is ``refuse``, or none does; the message names them.
        """
        if self.pixels is not None:
            originals = None if self.originals is None else self.originals.to(device)
            return replace(self, pixels=self.pixels.to(device), originals=originals)
        pixels = torch.empty(len(self), self.reader.channels, self.size, self.size, dtype=torch.uint8)
        wholes: dict[int, Tensor] | None = {} if shapes else None
        good = self._decode_all(pixels, wholes, broken)
        decoded = replace(self, pixels=pixels)
        decoded = decoded if len(good) == len(self) else decoded.subset(good)
        if wholes and any(image.shape[1] != image.shape[2] for image in wholes.values()):
            decoded = replace(decoded, originals=Originals.of([wholes[i] for i in good.tolist()]))
        return decoded.resident(device)

    def shown(self, index: Tensor) -> Tensor:
        """The images at ``index`` (B,) for a picture of them: uint8 (B, C, size, size), whole, stretched where need be."""
        if self.pixels is not None and self.originals is None:
            return self.pixels[index.to(self.pixels.device)]
        reader = replace(self.reader, fit="stretch")
        return torch.stack([reader.square(self.places[i], self.page(i)) for i in index.tolist()])

    def intact(self, broken: dict[int, str] | None = None) -> "ImageSet":
        """The same set without the files that do not decode: each is decoded once to find out, and none is kept.

        What is left out, and why, is put into ``broken``.
        """
        return self if self.pixels is not None else self.subset(self._decode_all(None, None, broken))

    def refusal(self, failed: Mapping[int, str]) -> DataError:
        """What is raised where images do not decode: ``failed`` has the number of each, and why."""
        named = "; ".join(list(failed.values())[:12]) + ("; ..." if len(failed) > 12 else "")
        return DataError(
            f"{len(failed)} of {len(self)} files do not decode: {named}. "
            f"Mend or remove them, or leave them out with --data.broken skip"
        )

    def _decode_all(
        self, into: Tensor | None, wholes: dict[int, Tensor] | None, broken: dict[int, str] | None
    ) -> Tensor:
        paths = self.places

        def read(index: int) -> tuple[Tensor, Tensor | None]:
            if wholes is None:
                return self.reader.square(paths[index], self.page(index)), None
            return self.reader.square_and_whole(paths[index], self.page(index), longest=LONGEST)

        failed = decode_all(read, len(self), into, wholes)
        if broken is not None:
            broken |= failed
        if failed and (self.broken == "refuse" or len(failed) == len(self)):
            raise self.refusal(failed)
        good = torch.ones(len(self), dtype=torch.bool)
        good[list(failed)] = False
        return good.nonzero().flatten()
