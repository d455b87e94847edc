"""Very many files as arrays: the bytes of their names one after the other, the number of each one's folder; a Path when asked.

A Path takes 200 bytes, and a worker that looks at one makes its page of memory its own; here a file takes some 40, which
processes share.

>>> files = FileList.of([Path("pets/cat/1.png"), Path("pets/cat/2.png"), Path("pets/dog/1.png")], Path("pets"))
>>> len(files), files[2] == Path("pets/dog/1.png"), files.name(1), files.folders, files.find("cat/2.png")
(3, True, 'cat/2.png', ('cat', 'dog'), 1)
"""

import os
import statistics
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from simclr.data.mapped_arrays import map_arrays
from simclr.data.places import Chosen
from simclr.errors import DataError

__all__ = ["LONG", "FileList", "Numbers", "backing", "decoded", "encoded", "evenly", "positions_of", "starts_of"]

LONG = 100_000
"""Of more files than this, things that ask the disk about each are asked about so many, evenly drawn."""

THREADS = 16
"""That ask a disk at once: a network folder answers each in its time, and all of them in the same time."""

_ASKED, _NEAR = 256, 1e-4
"""Files by which a near disk is told from one that answers slowly, and the seconds of a near one: mostly Python's own work, for
which several threads only wait for one another."""

_FEW, _PART, _LOOKED_UP = 4096, 1 << 18, 1 << 22
"""Names that are taken one by one, those that are made at once, and those that are looked up at once."""

Numbers = npt.NDArray[np.int64]

_ARRAYS = ("folder", "ends", "names")


class FileList(Sequence[Path]):
    """N files below ``root``.

    Args:
        root: the folder that names are below.
        folders: paths of folders below it, with slashes; the root itself is the empty one.
        folder: int32 (N,), which of them each file is in.
        ends: int64 (N + 1,), where the name of each begins in ``names``, and where the last one ends.
        names: uint8, the names without folders, see ``encoded``.
        ordered: whether the files of a folder are in the order of their names.
        linked: whether there may be links among files and folders.
    """

    def __init__(
        self,
        root: Path,
        folders: Sequence[str],
        folder: npt.NDArray[np.int32],
        ends: Numbers,
        names: npt.NDArray[np.uint8],
        *,
        ordered: bool = False,
        linked: bool = True,
    ) -> None:
        self.root, self.folders, self.ordered, self.linked = root, tuple(folders), ordered, linked
        self.folder, self.ends, self.names = folder, ends, names
        self.mapped: Path | None = None

    @classmethod
    def of(cls, paths: Iterable[Path], root: Path) -> "FileList":
        """The list of ``paths``, all of which are below ``root``."""
        return cls.named((os.path.split(path.relative_to(root).as_posix()) for path in paths), root)

    @classmethod
    def named(cls, names: Iterable[tuple[str, str]], root: Path) -> "FileList":
        """The list of files of which the folder below ``root`` and the name in it are given."""
        number: dict[str, int] = {}
        folder, lengths, content = [], [0], bytearray()
        for inside, name in names:
            folder.append(number.setdefault(inside, len(number)))
            content += encoded(name)
            lengths.append(len(content))
        return cls(
            root,
            tuple(number),
            np.array(folder, dtype=np.int32),
            np.array(lengths, dtype=np.int64),
            np.frombuffer(bytes(content), dtype=np.uint8),
        )

    def at(self, root: Path) -> "FileList":
        """The same files below another folder."""
        other = FileList(
            root, self.folders, self.folder, self.ends, self.names, ordered=self.ordered, linked=self.linked
        )
        other.mapped = self.mapped
        return other

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Its arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def map_from(self, file: Path, check: bool = True) -> None:
        """Take the same arrays from ``file``, of which processes share one copy in memory, see ``write_arrays``."""
        if (found := map_arrays(file, check)) is not None:
            self.folder, self.ends, self.names = (found[1][name] for name in _ARRAYS)
            self.mapped = file.absolute()

    def __getstate__(self) -> dict[str, Any]:
        """Of what is mapped another process is told where, and maps it too."""
        return {name: one for name, one in vars(self).items() if not self.mapped or name not in _ARRAYS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.mapped is not None:
            self.map_from(self.mapped, check=False)
            if "names" not in vars(self):
                raise DataError(
                    f"{self.mapped} is gone, by which this process finds its images; run the same command again"
                )

    def __len__(self) -> int:
        return len(self.folder)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return Chosen(self, torch.arange(len(self))[index])
        return Path(self.root, self.name(range(len(self))[index]))

    def __iter__(self) -> Iterator[Path]:
        return (Path(self.root, name) for name in self.each_name())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Path.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # as other sequences that are compared item by item

    def name(self, row: int) -> str:
        """The path of a file below the root, with slashes."""
        inside, name = (
            self.folders[self.folder[row]],
            decoded(self.names[self.ends[row] : self.ends[row + 1]].tobytes()),
        )
        return f"{inside}/{name}" if inside else name

    def each_name(self, rows: Numbers | None = None) -> Iterator[str]:
        """The paths below the root of all files, or of those at ``rows``."""
        rows = np.arange(len(self)) if rows is None else rows
        if len(rows) <= _FEW:
            yield from map(self.name, rows.tolist())
            return
        for begin in range(0, len(rows), _PART):
            yield from map(decoded, self.joined_names(rows, begin, begin + _PART).to_pylist())

    def joined_names(self, rows: Numbers, begin: int = 0, end: int | None = None) -> Any:
        """The paths below the root of the files ``rows[begin:end]``: a pyarrow array of large_binary."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = rows[begin:end]
        prefixes = pa.array([encoded(f"{inside}/") if inside else b"" for inside in self.folders], pa.large_binary())
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        if last - first == len(rows) and (np.diff(rows) == 1).all():
            buffers = [None, pa.py_buffer(self.ends[first : last + 1]), pa.py_buffer(self.names)]
            names = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
        else:
            starts, ends, content = starts_of(self.ends[rows + 1] - self.ends[rows]), self.ends[rows], self.names
            place = np.arange(starts[-1]) + np.repeat(ends - starts[:-1], np.diff(starts))
            buffers = [None, pa.py_buffer(starts), pa.py_buffer(content[place])]
            names = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
        return pc.binary_join_element_wise(
            prefixes.take(pa.array(self.folder[rows])), names, pa.scalar(b"", pa.large_binary())
        )

    def same_names(self, other: "FileList") -> bool:
        """Whether both are the same names in the same order, below whatever roots."""
        arrays = ((self.folder, other.folder), (self.ends, other.ends), (self.names, other.names))
        return self.folders == other.folders and all(a is b or np.array_equal(a, b) for a, b in arrays)

    def rows_of(self, other: "FileList") -> Numbers:
        """Of each file of ``other`` the row here of the one with the same name below its root; -1 without one."""
        if other is self or self.same_names(other):
            return np.arange(len(other))
        rows = np.arange(len(other))
        parts = (other.joined_names(rows, begin, begin + _PART) for begin in range(0, len(other), _PART))
        return self.rows_named(parts, np.arange(len(self)))

    def rows_named(self, names: Iterable[Any], among: Numbers) -> Numbers:
        """Of each of the ``names``, pyarrow's arrays of large_binary, which of the files ``among`` it is of; -1 without one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        known: Any = None
        found, waiting, begin = [np.empty(0, np.int64)], list[Any](), 0

        def look_up() -> None:
            nonlocal known
            known = self.joined_names(among) if known is None else known
            at = pc.index_in(pa.chunked_array(waiting), value_set=known)  # which hashes all that are known each time
            found.append(pc.fill_null(at, -1).to_numpy().astype(np.int64))
            waiting.clear()

        for part in names:
            end = begin + len(part)
            if not waiting and end <= len(among) and part.equals(self.joined_names(among, begin, end)):
                found.append(np.arange(begin, end))  # in the same order, as mostly
            else:
                waiting.append(part)
                if sum(map(len, waiting)) >= _LOOKED_UP:
                    look_up()
            begin = end
        if waiting:
            look_up()
        return np.concatenate(found)

    def find(self, name: str) -> int:
        """The row of the file of this name below the root, or -1."""
        inside, last = os.path.split(name)
        if inside not in self.folders:
            return -1
        wanted = encoded(last)
        rows = np.flatnonzero(self.folder == self.folders.index(inside))
        rows = rows[self.ends[rows + 1] - self.ends[rows] == len(wanted)]
        return next((int(i) for i in rows if self.names[self.ends[i] : self.ends[i + 1]].tobytes() == wanted), -1)

    def sizes(self, rows: Numbers) -> Numbers:
        """The bytes of the files at ``rows`` (M,), int64 (M,), as the disk says now; -1 of what is not there."""

        def ask(part: Numbers) -> list[int]:
            root = os.fspath(self.root)
            return [_size(f"{root}/{name}") for name in self.each_name(part)]

        first, seconds = [], []
        for row in rows[:_ASKED]:
            began = time.perf_counter()
            first += ask(row[None])
            seconds.append(time.perf_counter() - began)
        near = not seconds or statistics.median(seconds) < _NEAR
        parts = [rows[begin : begin + 4 * _FEW] for begin in range(_ASKED, len(rows), 4 * _FEW)]
        with ThreadPoolExecutor(1 if near else THREADS) as pool:
            return np.concatenate([np.array(each, dtype=np.int64) for each in (first, *pool.map(ask, parts))])


def encoded(name: str) -> bytes:
    """A file's name as bytes."""
    return name.encode("utf-8", "surrogateescape")


def decoded(name: bytes) -> str:
    """The name that ``encoded`` was given."""
    return name.decode("utf-8", "surrogateescape")


def starts_of(lengths: npt.NDArray[Any]) -> Numbers:
    """Where pieces of these lengths (N,) begin one after the other, and where the last one ends: int64 (N + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def evenly(count: int, most: int) -> Numbers:
    """At most so many of the numbers below ``count``, evenly drawn, first and last among them."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)


def backing(paths: Sequence[Path], root: Path) -> tuple[FileList, Numbers]:
    """The list that ``paths`` (N,), below ``root``, are a part of, and which of its rows they are: int64 (N,)."""
    if isinstance(paths, FileList):
        return paths, np.arange(len(paths))
    if isinstance(paths, Chosen) and isinstance(paths.items, FileList):
        return paths.items, paths.rows.numpy()
    return FileList.of(paths, root), np.arange(len(paths))


def positions_of(texts: Collection[str], places: Sequence[Any]) -> list[int]:
    """Which of the ``places``, by number and rising, are called one of the ``texts``."""
    files = places.items if isinstance(places, Chosen) else places
    if not isinstance(files, FileList):
        return [i for i, place in enumerate(places) if str(place) in texts]
    below = [Path(text).relative_to(files.root).as_posix() for text in texts if Path(text).is_relative_to(files.root)]
    rows = [row for name in below if (row := files.find(name)) >= 0]
    if not isinstance(places, Chosen):
        return sorted(rows)
    found: list[int] = np.flatnonzero(np.isin(places.rows.numpy(), rows)).tolist()
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a million of them
    except OSError:
        return -1
