"""Images in tar shards, read one by one in any order: by their places in an index, without unpacking anything."""

import os
import threading
from collections import OrderedDict
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr.config.data import DataConfig
from simclr.data.packed.cache import fetched
from simclr.data.packed.index import Index, open_index, with_listed
from simclr.data.packed.locations import basename, find_files, is_local, part_by_name
from simclr.data.packed.scan import Asked
from simclr.data.packed.table import Table, asked_for, numbered, numbers_among, some
from simclr.errors import DataError

__all__ = ["Shards", "load_shards"]

_LOOKED_AT = 4
"""Shards of another machine that are fetched to see what kind of images they hold."""

_seeking = threading.Lock()

_MOST_OPEN = 64
"""Shards that a process keeps open."""


class Shards:
    """The images of an index as a ``Store``: each process opens the shards for itself, and shares the index.

    Pickled it is the names of the shards: whoever opens it maps the same index.
    """

    def __init__(self, names: tuple[str, ...], asked: Asked, index: Index | None = None) -> None:
        self.names, self.asked = names, asked
        self.index = open_index(names, asked) if index is None else index
        self.shard = self.index.numbers("shard")
        """int32 (N,): the number of each image's shard."""
        self._offset, self._size = self.index.numbers("offset"), self.index.numbers("size")
        self._open: OrderedDict[int, _Open] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.names, self.asked)

    def __len__(self) -> int:
        return len(self.shard)

    def describe(self, index: int) -> str:
        """Its shard and its name in that."""
        return (
            f"{self.index.shards[self.shard[index]].name}: {self.index.table['key'][index].as_py()}{self.suffix(index)}"
        )

    def suffix(self, index: int) -> str:
        """How the name of its member ends."""
        return str(self.index.table["suffix"][index].as_py())

    def read(self, index: int) -> bytes:
        """The bytes of an image's member.

        Raises:
            DataError: the shard is missing, cannot be fetched, or ends before them.
        """
        number, size = int(self.shard[index]), int(self._size[index])
        try:
            file, at = self._opened(number), int(self._offset[index])
            found = file.read(size, at)
            while 0 < len(found) < size and (more := file.read(size - len(found), at + len(found))):
                found += more  # a network's file may give less than is asked for
        except OSError as error:
            raise DataError(f"{self.describe(index)}: the shard cannot be read: {error.strerror or error}") from error
        if len(found) < size:
            raise DataError(f"{self.describe(index)}: the shard is cut off before it")
        return found

    def _opened(self, number: int) -> "_Open":
        file = self._open.get(number)
        if file is None:
            shard = self.index.shards[number]
            path = Path(shard.name) if is_local(shard.name) else fetched(shard.name, shard.sha256)
            assert path is not None
            file = self._open[number] = _Open(path)
            while len(self._open) > _MOST_OPEN:
                with suppress(KeyError):
                    self._open.popitem(last=False)
        return file


class _Open:
    """A file that is closed when the last thread that reads from it lets go."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def read(self, size: int, at: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, size, at)
        with _seeking:  # on Windows, where threads would move each other's place
            os.lseek(self.descriptor, at, os.SEEK_SET)
            return os.read(self.descriptor, size)

    def __del__(self) -> None:
        if "descriptor" in self.__dict__:
            os.close(self.descriptor)


def load_shards(config: DataConfig) -> Table:
    """Every image of the shards that ``config.path`` means, and what is said of each.

    Raises:
        DataError: no shard there, or no image in any; shards that are missing or damaged, unless ``data.broken`` is ``skip``.
    """
    assert config.path is not None
    names = with_listed(config.path, find_files(config.path, ".tar", "shard"))
    asked = asked_for(config)
    # A list beside the shards has what is called so by whoever made it.
    asked = Asked(asked.label if asked.label != "label" else None, asked.group if asked.group != "group" else None)
    shards = _opened(names, _identities(names), asked)
    index, notes = shards.index, list[str]()
    faults, lost = _faults(index)
    if faults:
        said = f"{len(faults)} of {len(names)} shards are damaged: {some(list(faults.values()))}"
        if config.broken == "refuse":
            raise DataError(f"{said}. Put whole ones in their place, or go on without what is lost: --data.broken skip")
        notes.append(f"{said}" + (f"; {lost} images of theirs are listed and will be left out" if lost else ""))
    if not len(shards):
        if faults:
            raise DataError(f"{config.path}: no image that can be read: {some(list(faults.values()))}")
        raise DataError(
            f"{config.path}: no image in {len(names)} shard{'s'[: len(names) != 1]}; an image is a member such as 000123.jpg, "
            "its label 000123.cls"
        )
    notes.insert(0, f"{len(shards)} images in {len(names)} shard{'s'[: len(names) != 1]}, {index.found}")
    if without := sum(shard.without for shard in index.shards):
        notes.append(f"left out: {without} samples without an image")
    labels, values = index.codes("label"), _values(index)
    numbers = None if labels is None or values is not None else numbers_among(labels[1])
    if labels is not None and numbers is not None:
        values, labels = numbers[torch.from_numpy(labels[0].astype(np.int64))], None
    splits = index.codes("split") or _by_shard_name(index)
    groups = index.codes("group")
    keys = index.table["key"]
    return Table(
        store=shards,
        keys=lambda: (
            key
            for batch in keys.chunks
            for start in range(0, len(batch), 65_536)
            for key in batch[start : start + 65_536].to_pylist()
        ),
        lengths=lambda: index.numbers("size"),
        files={basename(shard.name): shard.images for shard in index.shards},
        labels=None if labels is None else numbered(*labels, index.classes),
        values=values,
        groups=None if groups is None else torch.from_numpy(groups[0].astype(np.int64)),
        splits=splits,
        notes=notes,
        faults=faults,
        near=_near(index),
        sums={shard.name: shard.sha256 for shard in index.shards if shard.sha256 and is_local(shard.name)},
    )


@lru_cache(maxsize=4)
def _opened(names: tuple[str, ...], identities: object, asked: Asked) -> Shards:
    return Shards(names, asked)


def _identities(names: tuple[str, ...]) -> tuple[tuple[int, int] | None, ...]:
    """Length and time of each shard, so that what was opened before is not taken for what is there now."""
    found: list[tuple[int, int] | None] = []
    for name in names:
        try:
            status = Path(name).stat() if is_local(name) else None
        except OSError:
            status = None
        found.append(None if status is None else (status.st_size, status.st_mtime_ns))
    return tuple(found)


def _faults(index: Index) -> tuple[dict[str, str], int]:
    """What is wrong with each damaged shard, by its name, and how many images that are listed this costs."""
    found, all_lost = dict[str, str](), 0
    ends = index.numbers("offset") + index.numbers("size")
    shard_of = index.numbers("shard")
    for number, shard in enumerate(index.shards):
        length, why = shard.bytes, ""
        if is_local(shard.name):
            try:
                length = Path(shard.name).stat().st_size
            except OSError as error:
                why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        lost = 0
        if why:
            lost = shard.images
            found[shard.name] = f"{shard.name} {why}, {lost or 'all its'} images are lost"
        elif shard.fault:
            after = (
                f"what follows its first {shard.images} images is lost" if shard.images else "no image of it is read"
            )
            found[shard.name] = f"{shard.name}: {shard.fault}, {after}"
        elif length != shard.bytes:
            lost = int(((shard_of == number) & (ends > length)).sum())
            what = "is cut off" if length < shard.bytes else "is longer than its list says"
            found[shard.name] = (
                f"{shard.name} {what}: {length} of {shard.bytes} bytes, {lost} of its {shard.images} images are lost"
            )
        all_lost += lost
    return found, all_lost


def _near(index: Index) -> Tensor | None:
    """The images of the first shards that are not of this machine; None where all are here."""
    if all(is_local(shard.name) for shard in index.shards):
        return None
    return torch.from_numpy(index.numbers("shard") < _LOOKED_AT).nonzero().flatten()


def _values(index: Index) -> Tensor | None:
    if "value" not in index.table.column_names or index.table["value"].null_count == len(index.table):
        return None
    return torch.from_numpy(index.numbers("value").astype(np.float32))


def _by_shard_name(index: Index) -> tuple[np.ndarray, list[str]] | None:
    """The part of each image by the name of its shard, ``train-000003.tar``, or of the folder that this is in."""
    parts = [part_by_name(shard.name) for shard in index.shards]
    names: list[str] = sorted({part for part in parts if part})
    if (len(names) < 2 and None in parts) or not names:
        return None
    codes = np.array([-1 if part is None else names.index(part) for part in parts], dtype=np.int32)
    return codes[index.numbers("shard")], names
