"""Embeddings in parquet, written as they come: by one process into a file, by several into parts of a folder; read in chunks.

A folder of parts is filled under another name and renamed: it is whole or not there. ``pandas.read_parquet``,
``pyarrow.dataset``, DuckDB and Hugging Face's ``datasets`` take it as one table, whose rows are those of the parts, which their
names put in order.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from linear_eval.features.tables import label_names
from simclr.errors import CheckpointError
from simclr.files import refused, sync
from simclr.names import as_utf8

__all__ = ["ParquetRows", "PartsFolder", "embedding_chunks"]

ROW_GROUP = 1024
"""Rows that are written together; so many are in memory at a time, with their thumbnails."""

_PART = "part-{:05}.parquet"


class ParquetRows:
    """A file that rows are appended to: ``path``, ``label`` (its name, or null) and ``embedding``, a list of F float32.

    Bytes of a name that are not UTF-8 are escaped (``caf\\udce9``). With thumbnails there is ``image`` too, ``{bytes, path}`` as
    the ``Image`` of Hugging Face's datasets, which the file names as its type.

    Args:
        path: written beside its place, and put there by ``close``; one that is there is replaced then.
        classes: name of each label.
        thumbnails: whether rows come with them.
        out: what a message calls it, where that is not ``path``.
    """

    def __init__(self, path: Path, classes: Sequence[str], thumbnails: bool = False, out: Path | None = None) -> None:
        self.path, self.out, self.thumbnails = path, out or path, thumbnails
        self.classes = tuple(map(as_utf8, classes))
        self.count = self.width = 0
        self._writer: pq.ParquetWriter | None = None
        self._partial: Path | None = None
        self._made: list[Path] = []
        self._file: Any = None
        self._waiting: list[tuple[list[str], Tensor, Tensor, list[bytes]]] = []
        self._rows = 0

    def append(self, names: Sequence[str], x: Tensor, y: Tensor, thumbnails: Sequence[bytes] = ()) -> None:
        """The next rows: n names, x (n, F) float32 and y (n,) int64 on the CPU, and n thumbnails, or none.

        Raises:
            WriteError: the disk refuses.
        """
        self._waiting.append((list(map(as_utf8, names)), x, y, list(thumbnails)))
        self._rows += len(y)
        if self._rows >= ROW_GROUP:
            self._write(self._rows // ROW_GROUP * ROW_GROUP)

    def close(self) -> None:
        """Put the file in its place.

        Raises:
            WriteError: the disk refuses.
        """
        self._write(self._rows)
        assert self._writer is not None and self._partial is not None
        with refused(self.out):
            self._writer.close()
            self._file.close()
            umask = os.umask(0)
            os.umask(umask)
            self._partial.chmod(0o666 & ~umask)  # mkstemp's is its owner's alone
            sync(self._partial)
            _put(self._partial, self.path)
        self._partial = None

    def abandon(self) -> None:
        """What was written so far goes, unless it is closed."""
        if self._partial is None:
            return
        with suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()  # else it writes the end of the file when it is collected
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)
        self._partial = None
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def _write(self, count: int) -> None:
        """Write the first ``count`` of the rows that wait."""
        if not self._waiting:
            return
        names, labels = list[str](), list[str | None]()
        pictures: list[bytes] = []
        for some, _, y, shown in self._waiting:
            names += some
            labels += label_names(y, self.classes)
            pictures += shown
        x = torch.cat([part for _, part, _, _ in self._waiting])
        y = torch.cat([part for _, _, part, _ in self._waiting])
        with refused(self.out):
            writer = self._opened(x.shape[1])
            for start in range(0, count, ROW_GROUP):
                rows = slice(start, min(start + ROW_GROUP, count))
                columns = [pa.array(column[rows], pa.string()) for column in (names, labels)]
                values = x[rows].contiguous().flatten().numpy()
                columns.append(pa.FixedSizeListArray.from_arrays(values, type=writer.schema.field("embedding").type))
                if self.thumbnails:
                    items = [{"bytes": b, "path": n} for b, n in zip(pictures[rows], names[rows], strict=True)]
                    columns.append(pa.array(items, writer.schema.field("image").type))
                writer.write_table(pa.table(columns, schema=writer.schema))
        self.count += count
        self._rows -= count
        self._waiting = [(names[count:], x[count:], y[count:], pictures[count:])] if self._rows else []

    def _opened(self, width: int) -> pq.ParquetWriter:
        if self._writer is None:
            self.width = width
            self._made = [folder for folder in self.path.absolute().parents if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial")
            self._partial, self._file = Path(name), os.fdopen(handle, "wb")
            self._writer = pq.ParquetWriter(self._file, _schema(width, self.thumbnails))
        return self._writer


def _schema(width: int, thumbnails: bool) -> pa.Schema:
    fields = [
        pa.field("path", pa.string()),
        pa.field("label", pa.string()),
        pa.field("embedding", pa.list_(pa.float32(), width)),
    ]
    if not thumbnails:
        return pa.schema(fields)
    fields.append(pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()})))
    described: dict[str, Any] = {
        "path": {"dtype": "string", "_type": "Value"},
        "label": {"dtype": "string", "_type": "Value"},
        "embedding": {"feature": {"dtype": "float32", "_type": "Value"}, "length": width, "_type": "Sequence"},
        "image": {"_type": "Image"},
    }
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": described}})})


class PartsFolder:
    """A folder of parts, ``part-00000.parquet`` and so on, that several processes fill, one part each.

    One of them calls ``begin`` before and ``finish`` after all others wrote, or ``abandon``. All must see the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial = folder.with_name(f".partial-{folder.name}")

    def part(self, number: int) -> Path:
        """Where a part is written."""
        return self.partial / _PART.format(number)

    def begin(self) -> None:
        """Make the folder that is filled; what a process that was killed left there goes.

        Raises:
            WriteError: the disk refuses.
        """
        with refused(self.folder):
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self.partial.mkdir(parents=True)

    def finish(self, rows: Sequence[int]) -> None:
        """Put the folder in its place, with parts of so many ``rows``; what stood there before goes after that.

        Raises:
            CheckpointError: a part is missing, as where a process wrote to another disk.
            WriteError: the disk refuses.
        """
        kept = 0
        with refused(self.folder):
            for number, count in enumerate(rows):
                if not count:
                    continue
                part = self.part(number)
                if not part.exists() or pq.read_metadata(part).num_rows != count:
                    raise CheckpointError(
                        f"process {number} wrote its part of {self.folder} where the first one does not see it; choose a folder "
                        "that all machines share"
                    )
                part.rename(self.part(kept))
                kept += 1
            sync(self.partial)
            _put(self.partial, self.folder)

    def abandon(self) -> None:
        """Nothing of what was written stays."""
        shutil.rmtree(self.partial, ignore_errors=True)


def _put(partial: Path, target: Path) -> None:
    """Rename a file or folder to ``target``; what stands there goes after that, unless a file can take its place at once."""
    old = target.with_name(f".old-{target.name}")
    _remove(old)
    if target.is_dir() or (target.exists() and partial.is_dir()):
        target.rename(old)
    try:
        partial.replace(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def embedding_chunks(path: Path, rows: int = 1 << 16) -> Iterator[Tensor]:
    """The embeddings in the file or folder of parts at ``path``, in order: (n, F) float32, with n at most ``rows``.

    One part is open at a time, and a chunk of it in memory.

    Raises:
        CheckpointError: nothing there, or something else.
    """
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not parts:
        raise CheckpointError(f"{path} holds no part of embeddings (part-00000.parquet); was it written by embed.py?")
    try:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(batch_size=rows, columns=["embedding"]):
                    column = batch.column(0)
                    width = column.type.list_size
                    yield torch.from_numpy(np.array(column.flatten(), dtype=np.float32).reshape(-1, width))
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no embeddings that can be read ({str(error).splitlines()[0]})") from error
