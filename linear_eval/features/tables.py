"""Embeddings of images in files that other programs read: ``.npz``, ``.parquet``, or a folder for sets larger than memory.

Each file is whole or not there.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from linear_eval.features.extract import Features
from linear_eval.features.rows import parts_of
from simclr.errors import ConfigError
from simclr.files import atomically
from simclr.names import as_utf8

__all__ = ["check_embedding_path", "write_embeddings", "write_names"]


def check_embedding_path(path: Path) -> None:
    """Refuse a name whose ending says another format than those that are written, before there is work to lose.

    Raises:
        ConfigError: an unknown ending, or a folder where a file is to be.
    """
    if path.suffix not in (".npz", ".parquet", ""):
        raise ConfigError(f"out is {path}; expected a file .npz or .parquet, or a name without an ending for a folder")
    if path.suffix and path.is_dir():
        raise ConfigError(f"out is {path}, which is a folder; choose another name")


def write_embeddings(path: Path, features: Features, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write ``features`` to ``path``, in the format that its ending names.

    ``.npz`` holds ``features`` (N, F) float32, ``index`` and ``labels`` (N,) int64, -1 where there is no label, and as text
    ``paths`` (N,) and ``classes``. ``.parquet`` has a row an image: ``path``, ``label`` (its name, or null) and ``embedding``, a
    list of F float32. Bytes of a name that are not UTF-8 are escaped there (``caf\\udce9``).

    Args:
        path: a file ending in .npz or .parquet; one that is there is replaced.
        features: of N images.
        names: what each image is called, N of them.
        classes: name of each label.

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
        atomically(path, lambda file: pq.write_table(_table(features, names, classes), file))


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


def _table(features: Features, names: Sequence[str], classes: Sequence[str]) -> pa.Table:
    width = features.x.shape[1]
    kind = pa.list_(pa.float32(), width)
    # A chunk at a time: Arrow counts the values of an array in 32 bits.
    rows = [pa.FixedSizeListArray.from_arrays(x.flatten().numpy(), type=kind) for _, x in parts_of(features.x)]
    return pa.table(
        {
            "path": pa.array(map(as_utf8, names), pa.string()),
            "label": pa.array(_labels(features.y, tuple(map(as_utf8, classes))), pa.string()),
            "embedding": pa.chunked_array(rows, kind),
        }
    )


def _labels(labels: Tensor, classes: Sequence[str]) -> list[str | None]:
    """The name of each label; its number where it has no name, None where there is no label.

    >>> import torch
    >>> _labels(torch.tensor([1, -1, 2]), ["cat", "dog"])
    ['dog', None, '2']
    """
    return [None if y < 0 else classes[y] if y < len(classes) else str(y) for y in labels.tolist()]
