"""The images of one shard and what lies beside each, by one pass over its headers."""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from simclr.data.class_cells import one_text
from simclr.data.metadata_columns import Role, names_of
from simclr.data.metadata_table import plain
from simclr.data.opening import EXTENSIONS
from simclr.data.packed.tar import Member, TarFault, members

__all__ = ["Asked", "Scanned", "empty", "scan"]

_MOST_WORDS = 1 << 20
"""Bytes of a label or of a JSON file at most; what is longer is none."""


@dataclass(frozen=True)
class Asked:
    """Which names hold the label and the group, where the user says so: a member's ending or a key of its JSON."""

    label: str | None = None
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Scanned:
    """What one shard holds."""

    table: pa.Table
    """A row an image: ``offset`` and ``size`` of its bytes, ``key``, ``suffix``; ``label``, ``value``, ``group``, ``split``."""

    fault: str = ""
    """What is wrong with the shard; the rows are of what comes before."""

    without: int = 0
    """Samples that hold no image."""


def scan(path: Path, asked: Asked) -> Scanned:
    """Read a shard's headers, and the labels between them.

    Members of one name up to its first dot are a sample (Aizman, Maltby & Breuel 2019, "High performance I/O for large scale deep
    learning"): the first with the ending of an image is its image, ``.cls`` its label, ``.json`` says more of it.
    """
    rows = _Rows(asked)
    fault = ""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            for member in members(file, length):
                rows.take(member, file)
        rows.close()
    except TarFault as error:  # what there is of the last sample may lack its label
        fault = str(error)
    except OSError as error:
        fault = error.strerror or type(error).__name__
    return Scanned(rows.table(), fault, rows.without)


def empty() -> pa.Table:
    """The table of a shard of which nothing can be read."""
    return _Rows(Asked()).table()


class _Rows:
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.without = 0
        self._key: str | None = None
        self._image: tuple[int, int, str, bool] | None = None
        self._said: dict[str, Any] = {}
        self._columns: dict[str, list[Any]] = {name: [] for name in ("offset", "size", "key", "suffix", *_SAID)}

    def take(self, member: Member, file: BinaryIO) -> None:
        name = member.name.removeprefix("./")
        folder, _, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem or base.startswith("._"):
            return  # hidden, or what macOS leaves behind
        key = f"{folder}/{stem}" if folder else stem
        if key != self._key:
            self.close()
            self._key = key
        suffix = f".{ending.rpartition('.')[2]}".lower()
        ending = ending.lower()
        if suffix in EXTENSIONS:
            alone = f".{ending}" == suffix
            if alone and self._image is not None and self._image[2:] == (suffix, True):
                self.close()  # a member of the same name again: the next sample was given the key of this one
                self._key = key
            if self._image is None or (alone and not self._image[3]):
                self._image = member.offset, member.size, suffix, alone
        elif (
            ending in ("cls", "json") or ending == self.asked.label or ending == self.asked.group
        ) and member.size <= _MOST_WORDS:
            file.seek(member.offset)
            self._said[ending] = file.read(member.size)

    def close(self) -> None:
        """The sample is over."""
        if self._image is not None:
            offset, size, suffix, _ = self._image
            told = _told(self._said, self.asked)
            for name, value in {"offset": offset, "size": size, "key": self._key, "suffix": suffix, **told}.items():
                self._columns[name].append(value)
        elif self._key is not None:
            self.without += 1
        self._key, self._image, self._said = None, None, {}

    def table(self) -> pa.Table:
        columns: dict[str, pa.Array] = {
            "offset": pa.array(np.array(self._columns["offset"], dtype=np.int64)),
            "size": pa.array(np.array(self._columns["size"], dtype=np.int64)),
            "key": pa.array(self._columns["key"], pa.large_string()),
            "suffix": pa.array(self._columns["suffix"], pa.string()).dictionary_encode(),
            "value": pa.array(self._columns["value"], pa.float32()),
        }
        for name in ("label", "group", "split"):
            columns[name] = pa.array(self._columns[name], pa.string()).dictionary_encode()
        return pa.table(columns)


_SAID: tuple[Role, ...] = ("label", "value", "group", "split")


def _told(said: Mapping[str, bytes], asked: Asked) -> dict[str, Any]:
    told: dict[str, Any] = dict.fromkeys(_SAID)
    record = _record(said["json"]) if "json" in said else {}
    by_name = {plain(name): cell for name, cell in record.items()}
    for role in _SAID:
        own = {"label": asked.label, "group": asked.group}.get(role)
        if own is not None:
            cell = record.get(own, _words(said[own]) if own in said else None)
        else:
            names = (*names_of(role), *names_of("quality")) if role == "value" else names_of(role)
            cell = next((by_name[name] for name in names if name in by_name), None)
            cell = _words(said["cls"]) if cell is None and role == "label" and "cls" in said else cell
        if isinstance(cell, list) and len(cell) == 1:
            (cell,) = cell
        if isinstance(cell, dict | list):
            continue
        if role == "value":
            told["value"] = cell if isinstance(cell, int | float) else None
        else:
            told[role] = one_text(cell)
    return told


def _record(content: bytes) -> dict[str, Any]:
    try:
        found = json.load(io.BytesIO(content))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(content: bytes) -> str:
    return content.decode(errors="backslashreplace").strip()
