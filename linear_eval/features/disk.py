"""Features on disk: a folder of ``x.npy``, ``y.npy`` and ``index.npy``, whole or not there, that need not fit in memory.

Where the images have groups there is ``groups.npy`` as well.

numpy's own format, so that anything can read them. A folder is filled under another name, synced, and renamed when it
is complete. Rows are written one after the other to a plain file and never through a mapping: a full disk is then an
error with a message, where a write to mapped memory would end the process. ``digests.json`` vouches for every byte
(``linear_eval/features/digests.py``).
"""

import errno
import io
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from linear_eval.features.digests import DIGESTS, Pieces, refuse_changed_files, write_digests
from simclr.errors import CheckpointError

__all__ = ["FeatureWriter", "read_features", "write_features"]

_FILES: dict[str, tuple[np.dtype[Any], int]] = {
    "x": (np.dtype("<f4"), 2),
    "y": (np.dtype("<i8"), 1),
    "index": (np.dtype("<i8"), 1),
}
"""Type and number of dimensions of the array in each file."""

_GROUPS = "groups.npy"


class FeatureWriter:
    """Fills a folder with the features of ``count`` images, row after row.

    Several processes can share the work, if all of them see the folder: each gives the first of its own rows, and what
    they write does not overlap. One of them calls ``begin`` before and ``finish`` after all others wrote.
    """

    def __init__(self, folder: Path, count: int, start: int = 0) -> None:
        self.folder = folder
        self.count = count
        self.start = start
        self.partial = folder.with_name(f".partial-{folder.name}")
        self._open: dict[str, BinaryIO] = {}
        self._pieces = Pieces()

    def begin(self) -> None:
        """Check that ``folder`` may be written, and make the one beside it.

        Raises:
            CheckpointError: it holds something else, or the disk refuses.
        """
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise CheckpointError(f"{self.folder} is a file; features are a folder: choose another name")
            if self.folder.exists():
                others = sorted({path.name for path in self.folder.iterdir()} - _names())
                if others:
                    raise CheckpointError(
                        f"{self.folder} holds files that are no features ({', '.join(others[:3])}); choose another folder"
                    )
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise self._refused(error) from error

    def append(self, x: Tensor, y: Tensor, index: Tensor) -> None:
        """The next rows: x (n, F) float32, y and index (n,) int64, on the CPU."""
        try:
            for name, rows in (("x", x), ("y", y), ("index", index)):
                if name not in self._open:
                    self._open[name] = self._start(name, rows)
                content = rows.numpy().astype(_FILES[name][0], copy=False).tobytes()
                self._pieces.take(f"{name}.npy", content)
                self._open[name].write(content)
        except OSError as error:
            raise self._refused(error) from error

    def _start(self, name: str, rows: Tensor) -> BinaryIO:
        """The file of ``name``, its header written, at this process's first row."""
        kind = _FILES[name][0]
        shape = (self.count, *rows.shape[1:])
        # Not "wb": another process may have opened it already. All write the same header.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(self.partial / f"{name}.npy", flags, 0o666), "r+b")
        description = {"descr": kind.str, "fortran_order": False, "shape": shape}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, description)
        file.write(header.getvalue())
        if self.start == 0:
            self._pieces.take(f"{name}.npy", header.getvalue())
        file.seek(self.start * int(np.prod(shape[1:])) * kind.itemsize, os.SEEK_CUR)
        return file

    def close(self) -> None:
        """The rows of this process are on the disk."""
        try:
            for file in self._open.values():
                file.flush()
                os.fsync(file.fileno())
            self._pieces.leave(self.partial, self.start)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files, come what may; what is in them is never taken for features."""
        for file in self._open.values():
            with suppress(OSError):  # a write that failed is tried again when the file is closed, and fails again
                file.close()
        self._open = {}

    def finish(self, groups: Tensor | None = None) -> None:
        """Put the folder in its place; features that stood there before are gone after that, not sooner.

        Args:
            groups: (N,) int64 of all images, to be kept with them.

        Raises:
            CheckpointError: the files are not whole, or the disk refuses.
        """
        try:
            if groups is not None:
                content = io.BytesIO()
                np.save(content, groups.numpy().astype("<i8", copy=False))
                self._pieces.take(_GROUPS, content.getvalue())
                with (self.partial / _GROUPS).open("wb") as file:
                    file.write(content.getvalue())
                    file.flush()
                    os.fsync(file.fileno())
            write_digests(self.partial, self._pieces)
        except OSError as error:
            raise self._refused(error) from error
        read_features(self.partial, mapped=True, check=False)
        old = self.folder.with_name(f".old-{self.folder.name}")
        try:
            if old.exists():
                shutil.rmtree(old)
            if self.folder.exists():
                self.folder.rename(old)
            try:
                self.partial.rename(self.folder)
            except OSError:
                if old.exists():
                    old.rename(self.folder)
                raise
            if old.exists():
                shutil.rmtree(old)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"features could not be written to {self.folder} ({error.strerror}); what stood there before is untouched; "
            "free some space or choose another folder"
        )


def _names() -> set[str]:
    return {f"{name}.npy" for name in _FILES} | {_GROUPS, DIGESTS}


def write_features(folder: Path, x: Tensor, y: Tensor, index: Tensor, groups: Tensor | None = None) -> None:
    """Write x (N, F), y and index (N,), and groups (N,) where there are any, as a folder, a few rows at a time.

    Raises:
        CheckpointError: the folder holds something else, or the disk refuses.
    """
    writer = FeatureWriter(folder, len(x))
    writer.begin()
    try:
        size = max(1, (1 << 22) // max(1, x.shape[1]))
        for start in range(0, max(1, len(x)), size):
            part = slice(start, start + size)
            writer.append(x[part], y[part], index[part])
        writer.close()
    finally:
        writer.abandon()
    writer.finish(groups)


def read_features(folder: Path, mapped: bool, check: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x (N, F) float32, y and index (N,) int64 of a folder, and groups (N,) int64 where it has them.

    ``mapped``: x is the file itself, read as it is used. ``check``: every byte is looked at first.

    Raises:
        CheckpointError: a file is missing, shorter than it says, was changed since it was written, or holds something else.
    """
    arrays = {}
    wanted = _FILES | ({"groups": _FILES["y"]} if (folder / _GROUPS).exists() else {})
    for name, (kind, dimensions) in wanted.items():
        path = folder / f"{name}.npy"
        try:
            array = _load(path, mapped and name == "x")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} holds no whole set of features: {path.name} is missing; take them again"
            ) from error
        # Of a damaged header numpy raises what its parser met: an EOFError, a SyntaxError, a TokenError.
        except Exception as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(f"{path} is damaged or no .npy file ({said}); take the features again") from error
        if array.dtype != kind or array.ndim != dimensions or not array.flags.c_contiguous:
            raise CheckpointError(
                f"{path} holds {array.dtype} of shape {array.shape}: expected {kind.name} of {dimensions} dimensions, "
                "in C order"
            )
        arrays[name] = array
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise CheckpointError(f"the files in {folder} have {lengths} rows: expected as many in each; take them again")
    if check:
        refuse_changed_files(folder, {f"{name}.npy" for name in wanted})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        x, y, index, *groups = (torch.from_numpy(array) for array in arrays.values())
    return x, y, index, groups[0] if groups else None


def _load(path: Path, mapped: bool) -> np.ndarray[Any, Any]:
    if not mapped or path.stat().st_size == 0:
        return np.load(path, allow_pickle=False)
    try:
        # Copy on write: who changes x in place changes neither the file nor, as with a read-only map, ends the process.
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        # Linux refuses a writable map that is larger than memory and swap together, whatever is written to it.
        if error.errno != errno.ENOMEM:
            raise
        return np.load(path, mmap_mode="r", allow_pickle=False)
