"""Images in tables: files of parquet, or a set on the hub, through Hugging Face's ``datasets``; row by row, in any order.

``datasets`` keeps a table as an Arrow file in its cache, which every process maps: memory holds what is read, once for all.
"""

import logging
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from simclr.config.data import DataConfig
from simclr.data.metadata_columns import names_of
from simclr.data.metadata_table import plain
from simclr.data.packed.cache import cache_folder
from simclr.data.packed.cells import codes_of, columns_of_splits, labels_of, named_column, numbers_of
from simclr.data.packed.locations import as_typed, find_files, part_by_name
from simclr.data.packed.table import Table, asked_for, some
from simclr.data.rows import IMAGE_KEYS, LABEL_KEYS
from simclr.errors import ConfigError, DataError, MissingExtraError

__all__ = ["TableImages", "load_parquet"]

_HUB_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)?(:[\w.\-]+)?")


class TableImages:
    """The images of the splits of a ``DatasetDict`` as a ``Store``."""

    def __init__(self, name: str, splits: Mapping[str, Any], column: str) -> None:
        self.name, self.splits, self.column = name, dict(splits), column
        self._ends = list(accumulate(len(split) for split in self.splits.values()))
        self._columns = [split.data.column(column) for split in self.splits.values()]
        self._chunks = [list(accumulate(len(chunk) for chunk in cells.chunks)) for cells in self._columns]

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapped Dataset is pickled as the names of its files.
        return TableImages, (self.name, self.splits, self.column)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _row(self, index: int) -> tuple[int, int]:
        split = bisect_right(self._ends, index)
        return split, index - (self._ends[split - 1] if split else 0)

    def _cell(self, index: int) -> Any:
        split, row = self._row(index)
        chunk = bisect_right(self._chunks[split], row)
        return self._columns[split].chunk(chunk)[row - (self._chunks[split][chunk - 1] if chunk else 0)]

    def _path(self, index: int) -> str:
        """What its cell names, or nothing."""
        cell = self._cell(index)
        named = isinstance(cell, pa.StructScalar) and cell.is_valid and "path" in cell
        return (cell["path"].as_py() or "") if named else ""

    def lengths(self) -> np.ndarray:
        """Bytes of each image, int64 (N,); 0 where its cell names a file."""
        found = []
        for chunk in (chunk for cells in self._columns for chunk in cells.chunks):
            content = pc.struct_field(chunk, "bytes") if pa.types.is_struct(chunk.type) else chunk
            found.append(pc.binary_length(content).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def keys(self) -> Iterator[str]:
        """The path in each cell, else what messages call it."""
        return (self._path(index) or self.describe(index) for index in range(len(self)))

    def describe(self, index: int) -> str:
        """Its row in its split."""
        split, row = self._row(index)
        return f"{self.name}: row {row} of {list(self.splits)[split]}"

    def suffix(self, index: int) -> str:
        """How the path in its cell ends."""
        return Path(self._path(index)).suffix

    def read(self, index: int) -> bytes:
        """The bytes of a row's image, or of the file that it names.

        Raises:
            DataError: the cell is empty, or the file not there.
        """
        cell = self._cell(index).as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path:
            try:
                return Path(path).read_bytes()
            except OSError as error:
                raise DataError(f"{self.describe(index)}: {path}: {error.strerror or error}") from error
        if not content:
            raise DataError(f"{self.describe(index)}: there is no image in it")
        return bytes(content)


def load_parquet(config: DataConfig) -> Table:
    """Every image of the tables that ``config.path`` means, and what is said of each.

    Raises:
        DataError: nothing there, no column of images, a set that cannot be fetched; damaged files, unless ``data.broken`` is
            ``skip``.
        ConfigError: ``data.labels`` names no column.
        MissingExtraError: ``datasets`` is not installed.
    """
    assert config.path is not None
    text = as_typed(config.path)
    files, notes, status, faults = tuple[str, ...](), list[str](), tuple[tuple[int, int], ...](), dict[str, str]()
    if not _is_hub_name(text):
        files = find_files(config.path, ".parquet", "parquet file")
        files, faults = _whole(files, config)
        if faults:
            notes.append(f"left out: {len(faults)} files of parquet are damaged: {some(list(faults.values()))}")
        files = tuple(file for file in files if pq.read_metadata(file).num_rows)
        if not files:
            raise DataError(f"{text} holds no row")
        status = tuple((found.st_size, found.st_mtime_ns) for found in map(os.stat, files))
    splits = _opened(text, files, status)
    images = TableImages(text, splits, _image_column(splits, text))
    if not len(images):
        raise DataError(f"{text} holds no row")
    where = f"{len(files)} file{'s'[: len(files) != 1]} of parquet" if files else "a set of the hub"
    notes.insert(0, f"{len(images)} images in {where}, from column {images.column}")
    asked = asked_for(config)
    label = named_column(splits, "label", asked.label, (*names_of("label"), *map(plain, LABEL_KEYS)))
    if asked.label is not None and label is None:
        columns = ", ".join(columns_of_splits(splits))
        raise ConfigError(f"data.labels is {asked.label}, and the columns of {text} are {columns}")
    value = named_column(splits, "value", None) or named_column(splits, "quality", None)
    group = named_column(splits, "group", asked.group)
    split = named_column(splits, "split", None) if len(splits) == 1 else None
    labels, values = (None, None) if label is None or config.labels == "none" else labels_of(splits, label, text)
    if value is not None and values is None:
        values = torch.from_numpy(
            np.concatenate([numbers_of(one, value) for one in splits.values()]).astype(np.float32)
        )
    groups = None if group is None else torch.from_numpy(codes_of(splits, group)[0].astype(np.int64))
    used = {images.column: "images", label: "labels", value: "values", group: "groups", split: "parts"}
    taken = [f"{what} from column {name}" for name, what in used.items() if name is not None and what != "images"]
    others = [name for name in columns_of_splits(splits) if name not in used]
    if taken or others:
        notes.append(
            f"{', '.join(taken) or 'nothing but images taken'}"
            + (f"; columns not used: {', '.join(others)}" if others else "")
        )
    return Table(
        store=images,
        keys=images.keys,
        lengths=images.lengths,
        files={name: len(one) for name, one in splits.items()},
        labels=labels,
        values=values,
        groups=groups,
        splits=codes_of(splits, split) if split is not None else _by_split(splits),
        notes=notes,
        faults=faults,
        sums=_sums(files),
    )


def _is_hub_name(text: str) -> bool:
    return not Path(text).exists() and not text.endswith(".parquet") and _HUB_NAME.fullmatch(text) is not None


def _whole(files: Sequence[str], config: DataConfig) -> tuple[tuple[str, ...], dict[str, str]]:
    """Those of the files whose list of contents, at their end, can be read, and what is wrong with each of the others."""
    faults: dict[str, str] = {}
    for file in files:
        try:
            pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:
            missing = isinstance(error, FileNotFoundError)
            faults[file] = f"{file} is not there" if missing else f"{file} is cut off or damaged, all its rows are lost"
    if faults and (config.broken == "refuse" or len(faults) == len(files)):
        raise DataError(
            f"{len(faults)} of {len(files)} files of parquet are damaged: {some(list(faults.values()))}. Put whole ones in their "
            "place, or go on without what is lost: --data.broken skip"
        )
    return tuple(file for file in files if file not in faults), faults


def _sums(files: Sequence[str]) -> dict[str, str]:
    """What the lists SHA256SUMS beside the files say of them."""
    said: dict[str, str] = {}
    for folder in {Path(file).parent for file in files}:
        with suppress(OSError, UnicodeDecodeError):
            for line in (folder / "SHA256SUMS").read_text().splitlines():
                digest, _, name = line.partition("  ")
                said[str(folder / name)] = digest
    return {file: said[file] for file in files if file in said}


@lru_cache(maxsize=4)
def _opened(text: str, files: tuple[str, ...], status: object) -> Mapping[str, Any]:
    """The splits of the files, or of a set of the hub; ``status`` tells files that were written anew."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            "data.source parquet reads tables with Hugging Face's datasets, which is not installed: "
            "pip install 'simclr-pipeline[parquet]'"
        ) from error
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said once, below
    kept = str(cache_folder("datasets")) if "SIMCLR_CACHE" in os.environ else None  # else its own, HF_HOME
    try:
        if files:
            found = datasets.load_dataset("parquet", data_files=_files_of_splits(files), cache_dir=kept)
        else:
            name, _, configuration = text.partition(":")
            found = datasets.load_dataset(name, configuration or None, cache_dir=kept)
    except Exception as error:  # whatever lies between here and a hub
        raise DataError(_refusal(text, files, error)) from error
    return dict(found)


def _refusal(text: str, files: tuple[str, ...], error: Exception) -> str:
    cause = error.__cause__ or error
    said = f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"
    if not files:
        return (
            f"there is no file or folder {text}, and as the name of a set on the Hugging Face hub it could not be loaded "
            f"({said}); a set of several configurations is named ORG/NAME:CONFIGURATION"
        )
    for file in files:
        try:
            table = pq.ParquetFile(file)
            for group in range(table.num_row_groups):
                table.read_row_group(group)
        except (OSError, pa.ArrowException) as fault:
            return f"{file} is damaged ({str(fault).splitlines()[0]}); put a whole one in its place, or take it out of the folder"
    first, *others = files
    columns = _columns(first)
    for file in others:
        if (own := _columns(file)) != columns:
            return (
                f"{file} has the columns {some(own)}, and {first} has {some(columns)}; files of one set need the same columns of "
                "the same types: write one of them anew, or name those that fit by a pattern"
            )
    return f"{text} could not be read as one table ({said})"


def _columns(file: str) -> list[str]:
    return sorted(f"{field.name} ({field.type})" for field in pq.read_schema(file))


def _files_of_splits(files: tuple[str, ...]) -> dict[str, list[str]]:
    """The files by the part that their names, or their folders', are of; all for training where not every one has one."""
    parts: dict[str, list[str]] = {}
    for file in files:
        parts.setdefault(part_by_name(file) or "", []).append(file)
    if "" in parts and len(parts) == 1:
        return {"train": list(files)}
    if "" in parts:
        parts.setdefault("train", []).extend(parts.pop(""))
    return parts


def _image_column(splits: Mapping[str, Any], text: str) -> str:
    """The column of images: by its name, else by its type.

    Raises:
        DataError: none holds any.
    """
    first = next(iter(splits.values()))
    of_images = [name for name in first.column_names if _holds_images(first.data.column(name).type)]
    if not of_images:
        held = ", ".join(f"{name} ({first.data.column(name).type})" for name in first.column_names[:12])
        raise DataError(
            f"{text} has no column of images: of bytes, or of records with bytes and path as datasets.Image stores them; it has "
            f"{held}"
        )
    return next((name for name in IMAGE_KEYS if name in of_images), of_images[0])


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} & {field.name for field in kind} != set()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _by_split(splits: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    names = list(splits)
    return np.repeat(np.arange(len(names)), [len(split) for split in splits.values()]), names
