"""Tables of images in files that other programs read: embeddings as ``.npz``, ``.parquet`` or beside a folder, and predictions.

Each file is whole or not there.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from linear_eval.features.extract import Features
from linear_eval.features.thumbnails import Thumbnails
from simclr.errors import ConfigError
from simclr.files import atomically
from simclr.names import as_utf8

__all__ = [
    "Cells",
    "as_csv",
    "check_embedding_path",
    "check_table_path",
    "write_embeddings",
    "write_names",
    "write_table",
]

ROW_GROUP = 1024
"""Rows of a parquet file that are written together."""


def check_embedding_path(path: Path) -> None:
    """Refuse a name whose ending says another format than those that are written, before there is work to lose.

    Raises:
        ConfigError: an unknown ending, or a folder where a file is to be.
    """
    if path.suffix not in (".npz", ".parquet", ""):
        raise ConfigError(f"out is {path}; expected a file .npz or .parquet, or a name without an ending for a folder")
    if path.suffix and path.is_dir():
        raise ConfigError(f"out is {path}, which is a folder; choose another name")


def write_embeddings(
    path: Path,
    features: Features,
    names: Sequence[str],
    classes: Sequence[str],
    thumbnails: Thumbnails | None = None,
) -> None:
    """Write ``features`` to ``path``, in the format that its ending names.

    ``.npz`` holds ``features`` (N, F) float32, ``index`` and ``labels`` (N,) int64, -1 where there is no label, and as text
    ``paths`` (N,) and ``classes``. ``.parquet`` has a row an image: ``path``, ``label`` (its name, or null) and ``embedding``, a
    list of F float32. Bytes of a name that are not UTF-8 are escaped there (``caf\\udce9``). With thumbnails there is ``image``
    too, ``{bytes, path}`` as the ``Image`` of Hugging Face's datasets, which the file names as its type.

    Args:
        path: a file ending in .npz or .parquet; one that is there is replaced.
        features: of N images.
        names: what each image is called, N of them.
        classes: name of each label.
        thumbnails: of the images, for .parquet; ``ROW_GROUP`` of them are in memory at a time.

    Raises:
        CheckpointError: the disk refuses.
    """
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {
            "features": features.x.numpy(),
            "index": features.index.numpy(),
            "labels": features.y.numpy(),
            "classes": np.array(classes, dtype=np.str_),
            "paths": np.array(names, dtype=np.str_),
        }
        atomically(path, lambda file: np.savez(file, **arrays))  # none is of objects: no pickle
    else:
        groups = _row_groups(features, tuple(map(as_utf8, names)), tuple(map(as_utf8, classes)), thumbnails)
        atomically(path, lambda file: _write_groups(file, groups))


def write_names(path: Path, labels: Tensor, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write what the rows of a folder of features are: a CSV with ``row,path,label``, the label empty where there is none.

    Raises:
        CheckpointError: the disk refuses.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "path", "label"])
    for row, (name, label) in enumerate(zip(names, _labels(labels, classes), strict=True)):
        writer.writerow([row, name, label or ""])
    atomically(path, lambda file: file.write(as_utf8(text.getvalue()).encode()))


Cells = Sequence[str] | Sequence[str | None] | Sequence[float]
"""A column of a table."""


def check_table_path(path: Path, endings: Sequence[str]) -> None:
    """Refuse a name that has none of the ``endings``, or is a folder's, before there is work to lose.

    Raises:
        ConfigError: it says what was expected.
    """
    if path.suffix not in endings:
        raise ConfigError(f"out is {path}; expected a file {' or '.join(endings)}")
    if path.is_dir():
        raise ConfigError(f"out is {path}, which is a folder; choose another name")


def write_table(path: Path, columns: Mapping[str, Cells]) -> None:
    """Write named ``columns`` of text in UTF-8 or of numbers, as ``.csv`` or ``.parquet``, where numbers are float32.

    Raises:
        CheckpointError: the disk refuses.
    """
    if path.suffix == ".csv":
        atomically(path, lambda file: file.write(as_csv(columns).encode()))
        return
    kinds = {
        name: pa.float32() if any(isinstance(c, float) for c in cells) else pa.string()
        for name, cells in columns.items()
    }
    table = pa.table({name: pa.array(cells, kinds[name]) for name, cells in columns.items()})
    atomically(path, lambda file: pq.write_table(table, file))


def as_csv(columns: Mapping[str, Cells]) -> str:
    """``columns`` as CSV with a header; a missing cell is empty, a number has the digits that float32 has.

    >>> print(as_csv({"path": ["a,b.png"], "probability": [0.1], "label": [None]}), end="")
    path,probability,label
    "a,b.png",0.1,
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if c is None else f"{c:.9g}" if isinstance(c, float) else c for c in row])
    return text.getvalue()


def _write_groups(file: BinaryIO, groups: Iterator[pa.Table]) -> None:
    first = next(groups)
    with pq.ParquetWriter(file, first.schema) as writer:
        for group in itertools.chain([first], groups):
            writer.write_table(group)


def _row_groups(
    features: Features, names: Sequence[str], classes: Sequence[str], thumbnails: Thumbnails | None
) -> Iterator[pa.Table]:
    """The rows as tables of at most ``ROW_GROUP``, of which one is in memory at a time."""
    width = features.x.shape[1]
    labels = _labels(features.y, classes)
    fields = [
        pa.field("path", pa.string()),
        pa.field("label", pa.string()),
        pa.field("embedding", pa.list_(pa.float32(), width)),
    ]
    described: dict[str, Any] = {
        "path": {"dtype": "string", "_type": "Value"},
        "label": {"dtype": "string", "_type": "Value"},
        "embedding": {"feature": {"dtype": "float32", "_type": "Value"}, "length": width, "_type": "Sequence"},
    }
    metadata = None
    if thumbnails is not None:
        fields.append(pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()})))
        described["image"] = {"_type": "Image"}
        metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    schema = pa.schema(fields, metadata)
    for start in range(0, len(features), ROW_GROUP):
        rows = range(start, min(start + ROW_GROUP, len(features)))
        x = features.x[rows.start : rows.stop].flatten().numpy()
        columns = [names[rows.start : rows.stop], labels[rows.start : rows.stop]]
        arrays = [pa.array(column, pa.string()) for column in columns]
        arrays.append(pa.FixedSizeListArray.from_arrays(x, type=fields[2].type))
        if thumbnails is not None:
            arrays.append(pa.array([{"bytes": thumbnails[row], "path": names[row]} for row in rows], fields[3].type))
        yield pa.table(arrays, schema=schema)


def _labels(labels: Tensor, classes: Sequence[str]) -> list[str | None]:
    """The name of each label; its number where it has no name, None where there is no label.

    >>> import torch
    >>> _labels(torch.tensor([1, -1, 2]), ["cat", "dog"])
    ['dog', None, '2']
    """
    return [None if y < 0 else classes[y] if y < len(classes) else str(y) for y in labels.tolist()]
