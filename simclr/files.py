"""Files that are whole or not there, and one line where the disk refuses: the one place that writes what a command leaves.

A file is written beside its place, synced and renamed. What a full disk is differs from library to library: an OSError to
Python, a SafetensorError to safetensors, to torch a RuntimeError about positions in an archive. Here it is a WriteError.
"""

import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from simclr.errors import CheckpointError

__all__ = [
    "AGAIN",
    "WriteError",
    "atomically",
    "free_space",
    "is_leftover",
    "refused",
    "sync",
    "write_json",
    "write_state",
    "write_tensors",
]

AGAIN = "free some space and run the same command again"
"""How to mend what has no ``--out`` of its own, or what the same command continues."""

_ELSEWHERE = "free some space or choose another --out"


class WriteError(CheckpointError):
    """A file or folder that could not be written; ``reason`` is what the system said."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def refused(what: object, mend: str = _ELSEWHERE) -> Iterator[None]:
    """Turn what is raised inside where the disk refuses into one WriteError about ``what``, a path or words.

    Put it around writing alone: every OSError inside is taken for a refusal. A WriteError from inside is told again in
    these words, which know better what was being done.
    """
    try:
        yield
    except (OSError, SafetensorError, WriteError) as error:
        reason = _reason(error)
        raise WriteError(f"{what} could not be written ({reason}); {mend}", reason) from error


def atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside ``path`` and rename: a reader sees the old file or the new one, never half of one.

    Args:
        path: the file; its folder is made where missing. It becomes as readable as the umask says.
        write: called with a file to write bytes to.

    Raises:
        WriteError: the disk refuses, whatever ``write`` or a library in it makes of that. All else passes through.
    """
    with _replacing(path) as partial:
        disk = _Disk(partial, "wb")
        try:
            with io.BufferedWriter(disk) as file:
                write(file)
            if disk.refusal is not None:
                raise disk.refusal
        except Exception as error:
            if disk.refusal is not None:
                raise disk.refusal from error
            raise


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write ``tensors`` as safetensors, atomically; raises WriteError."""
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with _replacing(path) as partial:
        save_file(on_host, partial)  # by its name: it would be one more copy in memory as bytes


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write plain containers and tensors as ``torch.save`` does, atomically; raises WriteError."""
    atomically(path, lambda file: torch.save(state, file))


def write_json(path: Path, content: object) -> None:
    """Write JSON, atomically; raises WriteError."""
    atomically(path, lambda file: file.write(f"{json.dumps(content, indent=2)}\n".encode()))


def free_space(path: Path) -> int | None:
    """Bytes that may still be written below ``path``, which need not be there yet; None where the system does not say."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        usage = os.statvfs(path) if hasattr(os, "statvfs") else None
        if usage is not None and usage.f_files and usage.f_favail < 10:
            return 0  # room for bytes, but for no more files
        return shutil.disk_usage(path).free
    except OSError:
        return None


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is what a killed process was writing beside a file's place; nobody reads it."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk, where the system knows how: Windows opens no folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some mounted folders
            raise
    finally:
        os.close(descriptor)


class _Disk(io.FileIO):
    """A file that remembers the first refusal, since the library that writes to it may raise something else for it."""

    refusal: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.refusal = self.refusal or error
            raise


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to; it takes the place of ``path`` when the block ends well, and goes otherwise."""
    with refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            # mkstemp, and safetensors, make files that only their owner can read; a result is as public as its folder.
            umask = os.umask(0)
            os.umask(umask)
            partial.chmod(0o666 & ~umask)
            sync(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _reason(error: Exception) -> str:
    if isinstance(error, WriteError):
        return error.reason
    told = error.strerror if isinstance(error, OSError) else None
    return told or next(iter(str(error).splitlines()), type(error).__name__)
