"""A run's list of images, kept as columns: millions of them take no object each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from simclr.data.file_list import FileList, Numbers, backing
from simclr.data.image_set import ImageSet
from simclr.data.places import Chosen

__all__ = ["ListedFile", "ListedFiles", "Words", "labels_in_words", "listed_files"]


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One image file."""

    part: str
    """What the run did with it: ``train``, ``validation``, ``test``, ``held-out`` (its class), or ``unused``."""

    of: str
    """The part of the folder it is in, before a limit and shares: ``train``, ``validation``, ``test``, ``unlabeled``, ``out``."""

    name: str
    """Its path below ``data.path``, with slashes."""

    bytes: int
    """Its size; -1 where it was not there."""

    label: str = ""
    """Its class; empty without one."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """A column of N words, of which there are few different ones."""

    words: tuple[str, ...]
    of: npt.NDArray[Any]
    """Integers (N,), which of them each row holds."""

    @classmethod
    def make(cls, column: Sequence[str]) -> "Words":
        """The column of these words."""
        number: dict[str, int] = {}
        of = np.array([number.setdefault(word, len(number)) for word in column], dtype=np.int32)
        return cls(words=tuple(number), of=of)

    def are(self, word: str) -> npt.NDArray[np.bool_]:
        """Which rows hold ``word``: bool (N,)."""
        found: npt.NDArray[np.bool_] = self.of == (self.words.index(word) if word in self.words else -1)
        return found


@dataclass(kw_only=True, eq=False)
class ListedFiles(Sequence[ListedFile]):
    """N listed files: a sequence of them, kept as columns."""

    files: FileList
    rows: Numbers
    """int64 (N,), the file of each in ``files``."""

    part: Words
    of: Words
    label: Words
    bytes: Numbers

    @classmethod
    def make(cls, listed: Sequence[ListedFile]) -> "ListedFiles":
        """The columns of these."""
        if isinstance(listed, ListedFiles):
            return listed
        return cls(
            files=FileList.named((os.path.split(one.name) for one in listed), Path()),
            rows=np.arange(len(listed)),
            part=Words.make([one.part for one in listed]),
            of=Words.make([one.of for one in listed]),
            label=Words.make([one.label for one in listed]),
            bytes=np.array([one.bytes for one in listed], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ListedFile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ListedFile]: ...
    def __getitem__(self, index: int | slice) -> ListedFile | Sequence[ListedFile]:
        if isinstance(index, slice):
            return Chosen(self, torch.arange(len(self))[index])
        i = range(len(self))[index]
        part, of, label = (column.words[column.of[i]] for column in (self.part, self.of, self.label))
        return ListedFile(part=part, of=of, name=self.files.name(self.rows[i]), bytes=int(self.bytes[i]), label=label)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # as other sequences that are compared item by item


def listed_files(
    root: Path, base: Mapping[str, ImageSet], used: Mapping[str, ImageSet], own: Mapping[str, ImageSet]
) -> ListedFiles:
    """Every file of the ``base`` parts of the folder ``root``, with what the run uses it for.

    In the order that it has in ``own``, the folder's parts: a run that goes on sees its images in the order of the list.
    """
    files, _ = backing(base["train"].paths or (), root)
    parts, ofs = ("unused", *used), ("train", "validation", "test", "unlabeled")
    part, of = np.zeros(len(files), dtype=np.uint8), np.full(len(files), 255, dtype=np.uint8)
    label, words = np.zeros(len(files), dtype=np.int32), dict[str, int]()

    def rows_of(images: ImageSet) -> Numbers:
        return backing(images.paths or (), root)[1][::-1]  # the first page of a file is what counts

    for name, images in reversed(list(used.items())):
        part[rows_of(images)] = parts.index(name)
    for name in (known for known in ofs if known in base):
        found, rows = labels_in_words(base[name]), rows_of(base[name])
        number = np.array([words.setdefault(word, len(words)) for word in found.words], dtype=np.int32)
        of[rows], label[rows] = ofs.index(name), number[found.of[::-1]]
    rows = np.flatnonzero(of != 255)
    order = [backing(images.paths or (), root)[1] for images in own.values()]
    if any(
        (np.diff(some) < 0).any() for some in order
    ):  # those that were added to an earlier run's list stand behind it
        every = np.concatenate(order)
        every = every[np.sort(np.unique(every, return_index=True)[1])]
        rows = every[of[every] != 255]
    return ListedFiles(
        files=files,
        rows=rows,
        part=Words(words=parts, of=part[rows]),
        of=Words(words=ofs, of=of[rows]),
        label=Words(words=tuple(words), of=label[rows]),
        bytes=files.sizes(rows),
    )


def labels_in_words(images: ImageSet) -> Words:
    """The label of each image in words; nothing where it has none."""
    if images.labels is not None:
        of = images.labels.numpy()
        return Words(words=(*images.classes, ""), of=np.where(of < 0, len(images.classes), of))
    if images.values is None:
        return Words(words=("",), of=np.zeros(len(images), dtype=np.uint8))
    values, of = np.unique(images.values.numpy(), return_inverse=True)
    return Words(words=tuple(f"{v:.9g}" if v == v else "" for v in values.tolist()), of=of)
