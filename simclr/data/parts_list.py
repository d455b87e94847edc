"""The files of a run's folder and the part of each, as they were when the run began: ``runs/NAME/images.csv``.

A folder grows, and a division drawn anew would test on what was trained on. The run and all that scores it later go by this
list. Its first line is a comment with a digest of the others; ``pandas.read_csv(file, comment="#")`` reads it.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from simclr.data.folder_layout import PartName
from simclr.data.image_set import ImageSet
from simclr.errors import CheckpointError, DataError
from simclr.files import atomically

__all__ = ["FILE", "ListedFile", "PartsList", "escaped", "listed_files", "read_parts", "unescaped", "write_parts"]

FILE = "images.csv"

_COLUMNS = ("part", "of", "name", "bytes", "label")


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


@dataclass(frozen=True)
class PartsList:
    """The list of a run, and what becomes of a folder that differs from it."""

    file: Path
    """Where it was read from, for messages."""

    files: tuple[ListedFile, ...]

    classes: tuple[str, ...] = ()
    """Names of the labels, in the order of their numbers."""

    trained: int = 0
    """How many of them training knows: the first."""

    strict: bool = False
    """Refuse files that are missing or of another size, as a run must that goes on; else leave out those that are missing."""

    extend: bool = False
    """Train on files that are not listed; else leave them out."""

    @cached_property
    def by_name(self) -> dict[str, ListedFile]:
        """Every file by its name."""
        return {file.name: file for file in self.files}

    def trained_on(self) -> frozenset[str]:
        """The names of the training images."""
        return frozenset(file.name for file in self.files if file.part == "train")

    def is_of(self, root: Path | None) -> bool:
        """Whether every listed file is below ``root`` in its size: the same set, by whatever path."""
        return root is not None and all(_size(root / file.name) == file.bytes for file in self.files)

    def any_of(self, root: Path | None) -> bool:
        """Whether any listed file is below ``root``."""
        return root is not None and any((root / file.name).exists() for file in self.files)

    def choose(self, root: Path, paths: Sequence[Path], skip: bool) -> tuple[list[Path], list[str]]:
        """Of the files ``paths`` below ``root`` those on the list, in their order there, and words on the others.

        With ``skip`` (``data.broken``) files that are gone or changed are no reason to refuse: those gone stay in the list
        of paths, and are left out as others that do not decode.

        Raises:
            DataError: ``strict`` and not ``skip``, and files are missing or of another size.
        """
        there = {path.relative_to(root).as_posix(): path for path in paths}
        missing = [file.name for file in self.files if file.name not in there]
        changed = []
        if self.strict:
            changed = [
                f.name for f in self.files if f.bytes >= 0 and f.name in there and _size(there[f.name]) != f.bytes
            ]
        said = [
            f"{len(names)} of its {len(self.files)} images {what} ({_some(names)})"
            for names, what in ((missing, "are not there any more"), (changed, "have another size"))
            if names
        ]
        new = [name for name in there if name not in self.by_name]
        notes = [f"the parts are those of {self.file}, written when the run began"]
        if said and self.strict and not skip:
            also = f"; {len(new)} others are new ({_some(new)})" if new else ""
            raise DataError(
                f"{root} is not what this run began with: {'; '.join(said)}{also}. Put them back, or begin a run of another "
                f"--name on what is there now; {self.file} lists what it began with"
            )
        if said:
            notes.append(f"since the run began: {'; '.join(said)}")
        chosen = [root / f.name for f in self.files if f.name in there or (self.strict and skip)]
        if not chosen:
            raise DataError(f"none of the {len(self.files)} images that {self.file} lists is in {root}")
        if new and self.extend:
            notes.append(f"{len(new)} images were added to {root} since that run began; they join training")
            chosen += [there[name] for name in new]
        elif new:
            goes, scored = "it goes on with its first {} (a new --name takes them)", "its first {} alone are in a part"
            said_of = (goes if self.strict else scored).format(len(self.files))
            notes.append(f"{len(new)} images were added to {root} since this run began; {said_of}")
        return chosen, notes

    def without_size_of(self, file: str) -> "PartsList":
        """The same list, in which the file of this name may have any size."""
        return replace(self, files=tuple(replace(f, bytes=-1) if f.name == file else f for f in self.files))

    def division(self, root: Path, paths: Sequence[Path]) -> dict[PartName, list[int]]:
        """The numbers, among ``paths`` below ``root``, of the images of each part of the folder; new ones train."""
        parts: dict[PartName, list[int]] = {"train": []}
        for number, path in enumerate(paths):
            listed = self.by_name.get(path.relative_to(root).as_posix())
            of = "train" if listed is None else listed.of
            if of != "out":
                parts.setdefault(cast(PartName, of), []).append(number)
        return parts

    def numbered(self, labels: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...], int] | None:
        """``labels`` (N,) of ``classes`` in the numbers of the list, the names, and how many of them training knows.

        A class that was added since comes behind the others where it is trained on, and else is none. None where these are
        labels of another kind than the run's.
        """
        used = {classes[label] for label in labels.unique().tolist() if label >= 0}
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
        other = [
            f"{listed.name}: {listed.label or 'no label'} -> {label or 'no label'}"
            for path, label in zip(images.paths, _labels(images), strict=True)
            if (listed := self.by_name.get(path.relative_to(root).as_posix())) is not None and listed.label != label
        ]
        if other:
            raise DataError(
                f"{len(other)} images of {root} have another label than when this run began ({_some(other)}); put the labels "
                "back, or begin a run of another --name"
            )


def listed_files(root: Path, base: Mapping[str, ImageSet], used: Mapping[str, ImageSet]) -> list[ListedFile]:
    """Every file of the ``base`` parts of the folder ``root``, by their names, with what the run uses it for."""
    part_of = {path: part for part, images in reversed(list(used.items())) for path in images.paths or ()}
    found: dict[Path, ListedFile] = {}
    for of in ("unlabeled", "test", "validation", "train"):
        images = base.get(of)
        if images is None:
            continue
        for path, label in zip(images.paths or (), _labels(images), strict=True):
            found.setdefault(
                path,
                ListedFile(
                    part=part_of.get(path, "unused"),
                    of=of,
                    name=path.relative_to(root).as_posix(),
                    bytes=_size(path),
                    label=label,
                ),
            )
    return [found[path] for path in sorted(found)]


def write_parts(file: Path, parts: PartsList) -> None:
    """Write the list ``parts`` to ``file``, atomically.

    Raises:
        CheckpointError: the disk refuses.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    table.writerows((f.part, f.of, escaped(f.name), f.bytes, escaped(f.label)) for f in parts.files)
    content = text.getvalue().encode()
    head = {"images": len(parts.files), "classes": parts.classes, "trained": parts.trained}
    head["sha256"] = _digest(head, content)
    atomically(file, lambda out: out.write(f"# {json.dumps(head)}\n".encode() + content))


def read_parts(file: Path, **rules: Any) -> PartsList | None:
    """The list in ``file``, with the ``rules`` of a PartsList; None where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    if not file.exists():
        return None
    try:
        head, _, content = file.read_bytes().partition(b"\n")
        said = json.loads(head.removeprefix(b"# "))
        if said.pop("sha256") != _digest(said, content):
            raise ValueError("its digest is another")
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        files = tuple(
            ListedFile(
                part=row["part"],
                of=row["of"],
                name=unescaped(row["name"]),
                bytes=int(row["bytes"]),
                label=unescaped(row["label"]),
            )
            for row in rows
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); it says which images were trained on and which are to be tested on. Put a whole "
            "one back, or remove it to divide the images anew"
        ) from error
    return PartsList(file, files, classes=tuple(said["classes"]), trained=said["trained"], **rules)


def _digest(head: dict[str, Any], content: bytes) -> str:
    return hashlib.sha256(json.dumps(head).encode() + content).hexdigest()


def escaped(name: str) -> str:
    """A file's name as UTF-8 text on one line: other bytes, control characters and backslashes as escapes.

    >>> escaped("a b/ä.png"), escaped("a\\nb"), unescaped(escaped("x\\udcff\\\\y")) == "x\\udcff\\\\y"
    ('a b/ä.png', 'a\\\\x0ab', True)
    """
    return "".join(map(_escape, name))


def _escape(c: str) -> str:
    code = ord(c) - 0xDC00 if 0xDC80 <= ord(c) <= 0xDCFF else ord(c)
    return "\\\\" if c == "\\" else f"\\x{code:02x}" if code != ord(c) or code < 32 or code == 127 else c


def unescaped(name: str) -> str:
    """The name that ``escaped`` was given."""

    def one(found: re.Match[str]) -> str:
        if found[1] is None:
            return "\\"
        byte = int(found[1], 16)
        return chr(byte if byte < 128 else 0xDC00 + byte)

    return re.sub(r"\\(?:\\|x([0-9a-f]{2}))", one, name)


def _labels(images: ImageSet) -> list[str]:
    if images.labels is not None:
        return [images.classes[label] if label >= 0 else "" for label in images.labels.tolist()]
    return (
        [""] * len(images) if images.values is None else [f"{v:.9g}" if v == v else "" for v in images.values.tolist()]
    )


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (a million of them)
    except OSError:
        return -1


def _some(names: Sequence[str]) -> str:
    return ", ".join(escaped(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
