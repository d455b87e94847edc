"""One shard: a tar as WebDataset has it, or a file of parquet as Hugging Face's ``datasets`` has it."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from simclr.data.packed.originals import Original
from simclr.data.packed.tar import BLOCK
from simclr.files import atomically

__all__ = ["Sample", "Written", "write_parquet", "write_tar"]

_ROWS = 64
"""Images in a row group of parquet: what a reader that seeks has to read at least."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image and what is said of it."""

    key: str
    file: Original
    split: str
    label: int | None
    word: str | None
    """The name of its label."""
    value: float | None
    group: int | None
    quality: bool
    """Whether ``value`` says how sure the label is."""


@dataclass(frozen=True, eq=False)
class Written:
    """A shard that is on the disk."""

    bytes: int
    sha256: str
    images: int
    table: pa.Table | None = None
    """The rows of a list of shards, of a tar."""


class _Counted(io.RawIOBase):
    """A file that knows its length and its check sum."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.length, self.digest = file, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.file.write(content)
        self.digest.update(content)
        self.length += len(content)
        return len(content)

    def tell(self) -> int:
        return self.length


def write_tar(file: Path, samples: Iterable[Sample], classes: tuple[str, ...], others: tuple[str, ...]) -> Written:
    """Write ``KEY.jpg`` and what is said of it, ``KEY.cls`` (the number of its label) and ``KEY.json``; atomically.

    The bytes are a function of the samples: no times, owners or rights.
    """
    rows: dict[str, list[Any]] = {
        name: [] for name in ("offset", "size", "key", "suffix", "label", "value", "group", "split")
    }
    counted = _Counted(io.BytesIO())

    def write(out: BinaryIO) -> None:
        nonlocal counted
        counted = _Counted(out)
        with tarfile.open(fileobj=counted, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=1 << 20) as tar:
            for sample in samples:
                rows["offset"].append(tar.offset + BLOCK)
                for name, cell in {
                    **{"size": len(sample.file.content), "key": sample.key, "suffix": sample.file.suffix},
                    **{"label": sample.word, "value": sample.value, "split": sample.split},
                    "group": None if sample.group is None else str(sample.group),
                }.items():
                    rows[name].append(cell)
                _add(tar, f"{sample.key}{sample.file.suffix}", sample.file.content)
                if sample.label is not None:
                    _add(tar, f"{sample.key}.cls", str(sample.label).encode())
                _add(tar, f"{sample.key}.json", json.dumps(_record(sample)).encode())

    atomically(file, write)
    text = pa.dictionary(pa.int32(), pa.string())
    types = {"offset": pa.int64(), "size": pa.int64(), "key": pa.large_string(), "value": pa.float32()}
    table = pa.table({name: pa.array(cells, types.get(name, text)) for name, cells in rows.items()})
    return Written(counted.length, counted.digest.hexdigest(), len(table), table)


def write_parquet(file: Path, samples: Iterable[Sample], classes: tuple[str, ...], others: tuple[str, ...]) -> Written:
    """Write the columns ``image`` (``bytes`` and ``path``), ``label`` and ``others``; atomically.

    ``datasets`` finds an Image and, by their names, a ClassLabel in it.

    Args:
        others: of ``value``, ``quality`` and ``group`` those that the set has: all its row groups and files have the same
            columns, whether or not an image in them has a cell there.
    """
    counted, count = _Counted(io.BytesIO()), 0

    def write(out: BinaryIO) -> None:
        nonlocal counted, count
        counted = _Counted(out)
        writer: pq.ParquetWriter | None = None
        pending: list[Sample] = []

        def put() -> None:
            nonlocal writer
            table = _rows_of(pending, classes, others)
            if writer is None:
                writer = pq.ParquetWriter(pa.PythonFile(counted, mode="w"), table.schema, compression="none")
            writer.write_table(table)
            pending.clear()

        for sample in samples:
            pending.append(sample)
            count += 1
            if len(pending) == _ROWS:
                put()
        if pending or writer is None:
            put()
        assert writer is not None
        writer.close()

    atomically(file, write)
    return Written(counted.length, counted.digest.hexdigest(), count)


def _rows_of(samples: list[Sample], classes: tuple[str, ...], others: tuple[str, ...]) -> pa.Table:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns: dict[str, pa.Array] = {
        "image": pa.array(
            [{"bytes": s.file.content, "path": s.file.name or f"{s.key}{s.file.suffix}"} for s in samples], image
        ),
    }
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if classes:
        columns["label"] = pa.array([s.label for s in samples], pa.int64())
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    for name in {"value", "quality"}.intersection(others):
        columns[name] = pa.array([s.value for s in samples], pa.float32())
        features[name] = {"dtype": "float32", "_type": "Value"}
    if "group" in others:
        columns["group"] = pa.array([s.group for s in samples], pa.int64())
        features["group"] = {"dtype": "int64", "_type": "Value"}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _record(sample: Sample) -> dict[str, Any]:
    said = {
        "label": sample.word,
        "quality" if sample.quality else "value": sample.value,
        "group": sample.group,
        "split": sample.split,
        "file": sample.file.name or None,
    }
    return {name: cell for name, cell in said.items() if cell is not None}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
