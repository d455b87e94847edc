"""The files of a run's folder and the part of each, as they were when the run began: ``runs/NAME/images.csv``.

A folder grows, and a division drawn anew would test on what was trained on. The run and all that scores it later go by this
list.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from simclr.data.file_index import INDEX, read_index, write_index
from simclr.data.file_list import LONG, FileList, Numbers, backing, evenly
from simclr.data.folder_layout import PartName
from simclr.data.image_set import ImageSet
from simclr.data.images_table import escaped, read_table, unescaped, write_table
from simclr.data.listed_files import ListedFile, ListedFiles, labels_in_words, listed_files
from simclr.data.listing import Listing, list_images, remember
from simclr.errors import CheckpointError, DataError
from simclr.files import atomically

__all__ = [
    "FILE",
    "Kept",
    "ListedFile",
    "PartsList",
    "escaped",
    "listed_files",
    "read_parts",
    "unescaped",
    "write_parts",
]

FILE = "images.csv"


class Kept(NamedTuple):
    """What a list takes of the files that are there."""

    files: FileList
    rows: Numbers
    """int64 (N,), those of ``files`` that are taken."""

    listed: Numbers
    """int64 (N,), which of the list each is; -1 where it is new."""

    notes: list[str]


@dataclass(frozen=True)
class PartsList:
    """The list of a run, and what becomes of a folder that differs from it."""

    file: Path
    """Where it was read from, for messages."""

    files: Sequence[ListedFile]

    classes: tuple[str, ...] = ()
    """Names of the labels, in the order of their numbers."""

    trained: int = 0
    """How many of them training knows: the first."""

    strict: bool = False
    """Refuse files that are missing or of another size, as a run must that goes on; else leave out those that are missing."""

    extend: bool = False
    """Train on files that are not listed; else leave them out."""

    listing: Listing | None = field(default=None, repr=False, compare=False)
    """What was found below the folder when the list was made, where that is known."""

    @cached_property
    def columns(self) -> ListedFiles:
        """The files as columns."""
        return ListedFiles.make(self.files)

    def list_images(self, root: Path) -> Listing:
        """What is below ``root``: as the list's own listing says, where no folder has changed since; else listed anew."""
        if self.listing is not None:
            found = replace(self.listing, root=root, paths=self.listing.paths.at(root))
            if found.is_still_so():
                remember(found)
                return found
        return list_images(root)

    def count_trained(self, paths: Sequence[Path], roots: set[Path]) -> int:
        """How many of ``paths`` are training images of the list below one of ``roots``, by whatever links."""
        trained = self.columns.rows[self.columns.part.are("train")]
        files = paths if isinstance(paths, FileList) else getattr(paths, "items", None)
        if isinstance(files, FileList) and not files.linked:
            at = files.rows_of(self.columns.files)[trained]
            if (at >= 0).all() and os.path.realpath(files.root) in set(map(os.path.realpath, roots)):
                known = np.zeros(len(files), dtype=bool)
                known[at] = True
                return int(known[backing(paths, files.root)[1]].sum())
        names = self.columns.files.each_name(trained)
        there = {os.path.realpath(root / name) for name in names for root in roots}
        return sum(os.path.realpath(path) in there for path in paths)

    def is_of(self, root: Path | None) -> bool:
        """Whether every listed file, of many those evenly drawn, is below ``root`` in its size: the same set, by any path."""
        if root is None:
            return False
        files, drawn = self.columns.files.at(root), evenly(len(self.columns), LONG)
        for some in (drawn[:100], drawn[100:]):  # most other sets differ in the first
            if (files.sizes(self.columns.rows[some]) != self.columns.bytes[some]).any():
                return False
        return True

    def any_of(self, root: Path | None) -> bool:
        """Whether any listed file, of many those evenly drawn, is below ``root``."""
        if root is None:
            return False
        rows = self.columns.rows[evenly(len(self.columns), LONG)]
        return any((root / name).exists() for name in self.columns.files.each_name(rows))

    def choose(self, listing: Listing, skip: bool) -> Kept:
        """Of the files of ``listing`` those on the list, in their order there, with words on the others.

        Of a long list so many files, evenly drawn, are asked for their size. With ``skip`` (``data.broken``) files that are
        gone or changed are no reason to refuse: those gone stay among the files, and are left out as others that do not decode.

        Raises:
            DataError: ``strict`` and not ``skip``, and files are missing or of another size.
        """
        files, root, own = listing.paths, listing.root, self.columns
        at = files.rows_of(own.files)[own.rows]
        gone, changed = np.flatnonzero(at < 0), np.empty(0, np.int64)
        if self.strict:
            asked = np.flatnonzero((at >= 0) & (own.bytes >= 0))
            asked = asked[evenly(len(asked), LONG)]
            changed = asked[files.sizes(at[asked]) != own.bytes[asked]]
        said = [
            f"{len(rows)} of its {len(own)} images {what} ({_some(own.files, own.rows[rows])})"
            for rows, what in ((gone, "are not there any more"), (changed, "have another size"))
            if len(rows)
        ]
        unknown = np.ones(len(files), dtype=bool)
        unknown[at[at >= 0]] = False
        new = np.flatnonzero(unknown)
        notes = [f"the parts are those of {self.file}, written when the run began"]
        if said and self.strict and not skip:
            also = f"; {len(new)} others are new ({_some(files, new)})" if len(new) else ""
            raise DataError(
                f"{root} is not what this run began with: {'; '.join(said)}{also}. Put them back, or begin a run of another "
                f"--name on what is there now; {self.file} lists what it began with"
            )
        if said:
            notes.append(f"since the run began: {'; '.join(said)}")
        listed = np.arange(len(own)) if self.strict and skip else np.flatnonzero(at >= 0)
        if not len(listed):
            raise DataError(f"none of the {len(own)} images that {self.file} lists is in {root}")
        kept = Kept(files, at[listed], listed, notes)
        if len(gone) and self.strict:
            kept = Kept(own.files.at(root), own.rows, listed, notes)
        if len(new) and self.extend:
            notes.append(f"{len(new)} images were added to {root} since that run began; they join training")
            kept = Kept(files, np.concatenate([kept.rows, new]), np.concatenate([listed, np.full(len(new), -1)]), notes)
        elif len(new):
            goes, scored = "it goes on with its first {} (a new --name takes them)", "its first {} alone are in a part"
            said_of = (goes if self.strict else scored).format(len(own))
            notes.append(f"{len(new)} images were added to {root} since this run began; {said_of}")
        return kept

    def without_size_of(self, rows: Iterable[int]) -> "PartsList":
        """The same list, in which the files at ``rows`` may have any size."""
        sizes = self.columns.bytes.copy()
        sizes[list(rows)] = -1
        return replace(self, files=replace(self.columns, bytes=sizes), listing=None)

    def division(self, listed: Numbers) -> dict[PartName, Tensor]:
        """The numbers of the images of each part of the folder, of which ``listed`` (N,) tells the row here; new ones train."""
        of = np.where(listed < 0, -1, self.columns.of.of[listed].astype(np.int64))
        words = self.columns.of.words
        parts = {word: torch.from_numpy(np.flatnonzero(of == i)) for i, word in enumerate(words) if word != "out"}
        train = torch.from_numpy(
            np.flatnonzero((of < 0) | np.isin(of, [i for i, w in enumerate(words) if w == "train"]))
        )
        held = {cast(PartName, part): numbers for part, numbers in parts.items() if len(numbers)}
        return {**held, "train": train}

    def numbered(self, labels: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...], int] | None:
        """``labels`` (N,) of ``classes`` in the numbers of the list, the names, and how many of them training knows.

        A class that was added since comes behind the others where it is trained on, and else is none. None where these are
        labels of another kind than the run's.
        """
        held = torch.bincount(labels + 1, minlength=1)[1:]  # quicker than unique, of very many
        used = {classes[label] for label in held.nonzero().flatten().tolist()}
        new = tuple(name for name in classes if name in used and name not in self.classes)
        if not self.classes or (new and not (self.strict or self.extend)):
            return None
        names = self.classes + new
        number = {name: i for i, name in enumerate(names)}
        to = torch.tensor([number.get(name, -1) for name in classes])
        return torch.where(labels >= 0, to[labels], -1), names, len(names) if new else self.trained

    def check_labels(self, root: Path, images: ImageSet) -> None:
        """Refuse ``images`` below ``root`` that have another label than when the run began.

        Raises:
            DataError: it names the first of them.
        """
        if images.paths is None:
            return
        files, rows = backing(images.paths, root)
        own, found = self.columns, labels_in_words(images)
        of_file = np.full(len(files), -1, dtype=np.int64)
        at = files.rows_of(own.files)[own.rows]
        of_file[at[at >= 0]] = np.flatnonzero(at >= 0)
        listed = of_file[rows]
        number = {word: i for i, word in enumerate(own.label.words)}
        now = np.array([number.get(word, -1) for word in found.words], dtype=np.int64)[found.of]
        other = np.flatnonzero((listed >= 0) & (now != own.label.of[listed]))
        if len(other):
            words = [
                f"{files.name(rows[i])}: {own.label.words[own.label.of[listed[i]]] or 'no label'} -> "
                f"{found.words[found.of[i]] or 'no label'}"
                for i in other[:3].tolist()
            ]
            shown = ", ".join(map(escaped, words)) + (", ..." if len(other) > 3 else "")
            raise DataError(
                f"{len(other)} images of {root} have another label than when this run began ({shown}); put the labels "
                "back, or begin a run of another --name"
            )


def write_parts(file: Path, parts: PartsList) -> None:
    """Write the list ``parts`` to ``file``, atomically, and of very many files an index beside it.

    Raises:
        CheckpointError: the disk refuses.
    """
    head = {"images": len(parts.files), "classes": parts.classes, "trained": parts.trained}
    file.with_name(INDEX).unlink(missing_ok=True)
    atomically(file, lambda out: write_table(out, parts.columns, head))
    if parts.listing is not None and len(parts.files) >= LONG and parts.columns.files is parts.listing.paths:
        write_index(file, parts.listing, parts.columns, head)


def read_parts(file: Path, **rules: Any) -> PartsList | None:
    """The list in ``file``, with the ``rules`` of a PartsList; None where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    if not file.exists():
        return None
    try:
        listing, files, said = read_index(file) or (None, *read_table(file))
        return PartsList(file, files, classes=tuple(said["classes"]), trained=said["trained"], listing=listing, **rules)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); it says which images were trained on and which are to be tested on. Put a whole "
            "one back, or remove it to divide the images anew"
        ) from error


def _some(files: FileList, rows: Numbers) -> str:
    names = [escaped(files.name(row)) for row in rows[:3].tolist()]
    return ", ".join(names) + (", ..." if len(rows) > 3 else "")
