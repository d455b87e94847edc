"""The SHA-256 of what is in a folder of features: taken as the rows are written, looked at when they are loaded.

``digests.json`` names every file and, in order, the pieces that it was written in: bytes and digest of each. A process that
writes its share of the rows takes the digest of that share, so nothing is read again. Looking costs one read of the files, at
some 500 MB a second of one CPU core.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from simclr.errors import CheckpointError
from simclr.names import printable

__all__ = ["DIGESTS", "Pieces", "refuse_changed_files", "write_digests"]

DIGESTS = "digests.json"

_FORMAT = 1

_AT_ONCE = 1 << 22
"""Bytes of a file that are read at a time."""


class Pieces:
    """Digests of what one process writes, one for each file."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[Any, int]] = {}

    def take(self, name: str, content: bytes) -> None:
        """Count in the next bytes of the file ``name``."""
        digest, size = self._taken.get(name) or (hashlib.sha256(), 0)
        digest.update(content)
        self._taken[name] = digest, size + len(content)

    def taken(self) -> dict[str, tuple[int, str]]:
        """Bytes and digest of what was counted in of each file since the last call."""
        taken, self._taken = self._taken, {}
        return {name: (size, digest.hexdigest()) for name, (digest, size) in taken.items()}

    def leave(self, folder: Path, start: int) -> None:
        """Leave them in ``folder`` for the process that finishes; ``start`` is this one's first row."""
        taken = self.taken()
        if taken:  # a process without rows writes nothing
            _write(folder / f".piece-{start:020d}.json", taken)


def write_digests(folder: Path, last: Pieces) -> None:
    """Make ``digests.json`` of the pieces that all processes left in ``folder``, and of ``last`` of the one that calls."""
    left = sorted(folder.glob(".piece-*.json"))
    files: dict[str, list[tuple[int, str]]] = {}
    for pieces in (*(json.loads(path.read_text()) for path in left), last.taken()):
        for name, piece in pieces.items():
            files.setdefault(name, []).append(piece)
    _write(folder / DIGESTS, {"format": _FORMAT, "files": files})
    for path in left:
        path.unlink()


def _write(path: Path, content: object) -> None:
    with path.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def refuse_changed_files(folder: Path, names: set[str]) -> None:
    """Raise CheckpointError unless the files ``names`` of ``folder`` are as they were written.

    A folder of an earlier version has no digests: it is taken as it is, and a line says so.
    """
    file = folder / DIGESTS
    try:
        said = json.loads(file.read_bytes())
        if type(said["format"]) is not int or said["format"] != _FORMAT:
            raise CheckpointError(
                f"{file} is of format {said['format']!s:.20}, this version reads {_FORMAT}; take the features again"
            )
        files = {str(name): [(int(size), str(digest)) for size, digest in told] for name, told in said["files"].items()}
    except FileNotFoundError:
        logging.getLogger(__name__).warning(
            "%s holds features of an earlier version, without digests: that they are whole cannot be told",
            printable(str(folder)),
        )
        return
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}); take the features again") from error
    if set(files) != names:
        raise CheckpointError(
            f"{file} tells of {', '.join(sorted(files)) or 'nothing'}: expected {', '.join(sorted(names))}; take the features "
            "again"
        )
    for name, pieces in files.items():
        if not _holds(folder / name, pieces):
            raise CheckpointError(
                f"{folder / name} is not as it was written: its SHA-256 is another; take the features again"
            )


def _holds(path: Path, pieces: list[tuple[int, str]]) -> bool:
    """Whether a file is ``pieces`` one after the other, and nothing behind them."""
    with path.open("rb") as file:
        for size, expected in pieces:
            digest, left = hashlib.sha256(), size
            while left > 0:
                content = file.read(min(left, _AT_ONCE))
                if not content:
                    return False
                digest.update(content)
                left -= len(content)
            if digest.hexdigest() != expected:
                return False
        return not file.read(1)
