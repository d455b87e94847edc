"""Tables of images in files that other programs read: embeddings as ``.npz`` or beside a folder, and predictions.

Each file is whole or not there.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from linear_eval.features.extract import Features
from simclr.errors import ConfigError
from simclr.files import atomically
from simclr.names import as_utf8

__all__ = [
    "Cells",
    "as_csv",
    "check_embedding_path",
    "check_table_path",
    "is_parts_folder",
    "label_names",
    "write_embeddings",
    "write_names",
    "write_table",
]


def check_embedding_path(path: Path) -> None:
    """Refuse a name whose ending says another format than those that are written, before there is work to lose.

    Raises:
        ConfigError: an unknown ending, or a folder where a file is to be, unless it is one of embeddings in parts.
    """
    if path.suffix not in (".npz", ".parquet", ""):
        raise ConfigError(f"out is {path}; expected a file .npz or .parquet, or a name without an ending for a folder")
    if path.is_dir() and path.suffix and not (path.suffix == ".parquet" and is_parts_folder(path)):
        raise ConfigError(f"out is {path}, which is a folder; choose another name")


def is_parts_folder(path: Path) -> bool:
    """Whether ``path`` is a folder that holds parts of embeddings, and nothing else."""
    names = [one.name for one in path.iterdir()] if path.is_dir() else []
    return bool(names) and all(name.startswith("part-") and name.endswith(".parquet") for name in names)


def write_embeddings(path: Path, features: Features, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write ``features`` to ``path``, an ``.npz``.

    It holds ``features`` (N, F) float32, ``index`` and ``labels`` (N,) int64, -1 where there is no label, and as text ``paths``
    (N,) and ``classes``.

    Args:
        path: a file; one that is there is replaced.
        features: of N images.
        names: what each image is called, N of them.
        classes: name of each label.

    Raises:
        CheckpointError: the disk refuses.
    """
    arrays: dict[str, Any] = {
        "features": features.x.numpy(),
        "index": features.index.numpy(),
        "labels": features.y.numpy(),
        "classes": np.array(classes, dtype=np.str_),
        "paths": np.array(list(names), dtype=np.str_),
    }
    atomically(path, lambda file: np.savez(file, **arrays))  # none is of objects: no pickle


def write_names(path: Path, labels: Tensor, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write what the rows of a folder of features are: a CSV with ``row,path,label``, the label empty where there is none.

    Raises:
        CheckpointError: the disk refuses.
    """

    def write(file: BinaryIO) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "path", "label"])
        for row, (name, label) in enumerate(zip(names, label_names(labels, classes), strict=True)):
            writer.writerow([row, name, label or ""])
            if text.tell() > 1 << 20:
                file.write(as_utf8(text.getvalue()).encode())
                text.seek(text.truncate(0))
        file.write(as_utf8(text.getvalue()).encode())

    atomically(path, write)


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


def label_names(labels: Tensor, classes: Sequence[str]) -> list[str | None]:
    """The name of each label; its number where it has no name, None where there is no label.

    >>> import torch
    >>> label_names(torch.tensor([1, -1, 2]), ["cat", "dog"])
    ['dog', None, '2']
    """
    return [None if y < 0 else classes[y] if y < len(classes) else str(y) for y in labels.tolist()]
