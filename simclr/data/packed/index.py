"""The list of every image of a set of shards: where its bytes are, and what is said of it. A file that all processes map.

An image takes some 40 bytes of it and its name. ``scripts/make_shards.py`` writes one beside the shards (``index.arrow``); of
other shards it is made by one pass over their headers, and kept in the cache. ``pandas.read_feather`` reads it.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from simclr.cores import share_of_cores
from simclr.data.decode_all import workers_fork
from simclr.data.packed.cache import cache_folder, fetched, locked
from simclr.data.packed.locations import basename, is_local
from simclr.data.packed.scan import Asked, Scanned, empty, scan
from simclr.data.workers import read_by_workers
from simclr.errors import DataError
from simclr.files import atomically

__all__ = ["FILE", "Index", "Shard", "open_index", "read_index", "with_listed", "write_index"]

FILE = "index.arrow"

_VERSION = 1
_KEPT = 90 * 86_400
"""Seconds after which a list in the cache goes that nobody has used."""

_SMALL = 64 << 20
"""Bytes of shards for whose headers no further process is started."""

_COLUMNS = ("shard", "offset", "size", "key", "suffix", "label", "value", "group", "split")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard of an index."""

    name: str
    """Its file, URL or command; in a list beside the shards the file's own name."""

    bytes: int = -1
    """Its length; -1 where it was not there."""

    images: int = 0

    sha256: str = ""
    """Its check sum, where whoever made it says so."""

    fault: str = ""
    """What is wrong with it."""

    without: int = 0
    """Samples in it without an image."""


@dataclass(frozen=True, eq=False)
class Index:
    """Every image of some shards."""

    shards: tuple[Shard, ...]

    table: pa.Table
    """A row an image: ``shard`` (its number), ``offset``, ``size``, ``key``, ``suffix``, ``label``, ``value``, ``group`` and
    ``split``."""

    classes: tuple[str, ...] = ()
    """Names of the labels in their order, where whoever made the shards says so."""

    found: str = ""
    """Where the list was found, in words."""

    def numbers(self, column: str) -> np.ndarray:
        """A column of whole numbers or floats (N,), as it lies in the file."""
        found = self.table[column].combine_chunks()
        chunk = found if isinstance(found, pa.Array) else found.chunk(0)
        return np.asarray(chunk.to_numpy(zero_copy_only=False))

    def codes(self, column: str) -> tuple[np.ndarray, list[str]] | None:
        """A column of texts as numbers (N,), -1 where there is none, and the text of each number; None where all are none."""
        if column not in self.table.column_names:
            return None
        texts = self.table[column].combine_chunks()
        texts = texts if isinstance(texts, pa.Array) else texts.chunk(0)
        if texts.null_count == len(texts):
            return None
        return np.asarray(texts.indices.fill_null(-1).to_numpy(zero_copy_only=False)), texts.dictionary.to_pylist()


def write_index(file: Path, index: Index) -> None:
    """Write ``index``, atomically, as an Arrow file of one batch that can be mapped."""
    said = {"version": _VERSION, "shards": [asdict(shard) for shard in index.shards], "classes": index.classes}
    table = index.table.unify_dictionaries().combine_chunks()
    table = table.replace_schema_metadata({"simclr.shards": json.dumps(said)})

    def write(out: Any) -> None:
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(1, len(table)))

    atomically(file, write)


def read_index(file: Path) -> Index:
    """Map the list in ``file``.

    Raises:
        DataError: it is damaged, or another kind of file.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        said = json.loads(table.schema.metadata[b"simclr.shards"])
        shards = tuple(Shard(**shard) for shard in said["shards"])
        if said["version"] != _VERSION or not set(_COLUMNS[:5]) <= set(table.column_names):
            raise ValueError("it is of another version")
        if sum(shard.images for shard in shards) != len(table):
            raise ValueError(f"it has {len(table)} rows")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(
            f"{file} is damaged or no list of shards ({str(error).splitlines()[0]}); remove it, and the shards' headers are read"
        ) from error
    return Index(shards, table, tuple(said["classes"]))


def open_index(names: Sequence[str], asked: Asked) -> Index:
    """The list of the shards ``names``: beside them, or from the cache, or from their headers.

    A list beside the shards counts for those that it names, however they are given; a shard that is not there, or is shorter than
    its list says, keeps its rows. What is read from headers is kept in the cache for the next start.

    Raises:
        DataError: a list that is damaged, shards that cannot be fetched, or none of which a list can be made.
    """
    beside = _beside(names)
    if asked == Asked() and len(beside) == 1:
        (index,) = beside.values()
        if {shard.name for shard in index.shards} == set(names):
            return replace(index, found="by the list beside them")  # which all processes map
    known = {} if asked != Asked() else {shard.name: index for index in beside.values() for shard in index.shards}
    identity = [(name, _identity(name), name in known) for name in names]
    digest = hashlib.sha256(repr((_VERSION, asked, identity)).encode(errors="backslashreplace")).hexdigest()[:24]
    folder = cache_folder("indexes")
    kept = folder / f"{digest}.arrow"
    with locked(folder / f".{digest}.lock"):
        found = f"by the list kept in {folder}"
        if not kept.exists():
            began = time.perf_counter()
            write_index(kept, _made(names, known, asked))
            for other in folder.glob("*.arrow"):
                if time.time() - other.stat().st_mtime > _KEPT:
                    other.unlink(missing_ok=True)
            found = f"by their headers, read in {time.perf_counter() - began:.1f} s"
            found = found if len(known) < len(names) else "by the lists beside them"
        os.utime(kept)
        return replace(read_index(kept), found=found)


def with_listed(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The shards ``names`` found for ``path``; of a folder also those that a list in it names, whether they are there or not."""
    if not path.is_dir():
        return tuple(names)
    folders = dict.fromkeys((str(path), *(str(Path(name).parent) for name in names)))
    lists = [(folder, Path(folder, FILE)) for folder in folders if Path(folder, FILE).exists()]
    listed = [str(Path(folder, shard.name)) for folder, file in lists for shard in read_index(file).shards]
    return tuple(dict.fromkeys((*listed, *names)))


def _beside(names: Sequence[str]) -> dict[str, Index]:
    """The lists beside the shards, by their folder, with the shards' names as they are given here."""
    found: dict[str, Index] = {}
    missing = set[str]()
    for name in names:
        folder = name[: len(name) - len(basename(name))] if is_local(name) else _folder_of(name)
        if folder is None or folder in found or folder in missing:
            continue
        file = Path(folder, FILE) if is_local(name) else fetched(f"{folder}{FILE}", optional=True)
        if file is None or not file.exists():
            missing.add(folder)
            continue
        index = read_index(file)
        found[folder] = replace(
            index, shards=tuple(replace(shard, name=f"{folder}{shard.name}") for shard in index.shards)
        )
    return found


def _folder_of(name: str) -> str | None:
    """The URL of a shard's folder; None of commands, and of URLs that only a query makes whole."""
    if not name.startswith(("http://", "https://")) or "?" in name:
        return None
    return name[: len(name) - len(basename(name))]


def _identity(name: str) -> tuple[int, int] | None:
    if not is_local(name):
        return None
    try:
        found = Path(name).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _made(names: Sequence[str], known: dict[str, Index], asked: Asked) -> Index:
    """One list of all, some of whose shards are ``known``."""
    shards, tables = list[Shard](), list[pa.Table]()
    fresh = [name for name in names if name not in known]
    scanned = dict(zip(fresh, _scan_all(fresh, asked), strict=True))
    rows_of: dict[int, tuple[dict[str, Shard], dict[str, pa.Table]]] = {}
    for number, name in enumerate(names):
        if name in known:
            index = known[name]
            of_name, rows = rows_of.setdefault(id(index), ({s.name: s for s in index.shards}, _by_shard(index)))
            shard, table = of_name[name], rows[name]
        else:
            found = scanned[name]
            length = _identity(name)
            shard = Shard(
                name=name,
                bytes=-1 if length is None else length[0],
                images=len(found.table),
                fault=found.fault,
                without=found.without,
            )
            table = found.table
        shards.append(shard)
        column = pa.array(np.full(len(table), number, dtype=np.int32))
        tables.append(
            _columns(
                table.set_column(0, "shard", column)
                if "shard" in table.column_names
                else table.add_column(0, "shard", column)
            )
        )
    classes = {index.classes for index in known.values()}
    return Index(tuple(shards), pa.concat_tables(tables), classes.pop() if len(classes) == 1 and not fresh else ())


def _by_shard(index: Index) -> dict[str, pa.Table]:
    """Its rows by the shard's name: they come shard by shard."""
    found, start = {}, 0
    for shard in index.shards:
        found[shard.name] = index.table.slice(start, shard.images)
        start += shard.images
    return found


def _columns(table: pa.Table) -> pa.Table:
    """The columns of every list, of the same types."""
    types = {
        "shard": pa.int32(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "key": pa.large_string(),
        "value": pa.float32(),
    }
    text = pa.dictionary(pa.int32(), pa.string())
    arrays = []
    for name in _COLUMNS:
        kind = types.get(name, text)
        if name not in table.column_names:
            arrays.append(
                pa.nulls(len(table), pa.string()).dictionary_encode().cast(text)
                if kind is text
                else pa.nulls(len(table), kind)
            )
        else:
            arrays.append(table[name].cast(kind))
    return pa.table(arrays, names=list(_COLUMNS))


def _scan_all(names: Sequence[str], asked: Asked) -> list[Scanned]:
    def one(name: str) -> Scanned:
        try:
            path = Path(name) if is_local(name) else fetched(name)
        except DataError as error:
            return Scanned(empty(), str(error))
        assert path is not None
        return scan(path, asked)

    length = sum(
        _SMALL if found is None and not is_local(name) else (found or (0,))[0]
        for name in names
        for found in [_identity(name)]
    )
    processes = min(share_of_cores(), len(names))
    if length < _SMALL or processes < 2 or not workers_fork():
        return [one(name) for name in names]
    return list(read_by_workers(one, names, workers=processes, generator=torch.Generator()))
