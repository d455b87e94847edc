"""One process writes a run's folder. The lock is on the folder itself, so that no file is left, and goes with the process."""

import os
import sys
from pathlib import Path

from simclr.errors import ConfigError

if sys.platform != "win32":
    import fcntl

__all__ = ["holder", "release", "take"]

_held: dict[Path, int] = {}
"""Folder -> the descriptor whose lock it has."""


def take(folder: Path) -> None:
    """Lock ``folder`` for this process until ``release``, or until the process ends, however it ends.

    Again in the same process, and in processes of a run that are not its first, it does nothing; nor where a file system (some
    of those over a network) or the platform (Windows) knows no such lock.

    Raises:
        ConfigError: another process has it; the message says which, where the system tells.
    """
    key = folder.absolute()
    if sys.platform == "win32" or key in _held or os.environ.get("RANK", "0") != "0":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # what wants to write there says why it cannot
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        who = f"process {holder}" if holder is not None else "another process"
        raise ConfigError(
            f"{folder} is being written by {who}, a run of the same name that has not ended; wait for it or stop it, or give "
            "this run a name of its own with --name"
        ) from None
    except OSError:
        os.close(descriptor)
        return
    _held[key] = descriptor


def release(folder: Path) -> None:
    """Let another process have ``folder``."""
    descriptor = _held.pop(folder.absolute(), None)
    if descriptor is not None:
        os.close(descriptor)


def holder(folder: Path) -> int | None:
    """The process that writes ``folder``, 0 where there is none; None where the system does not tell. Takes no lock itself."""
    if not Path("/proc/locks").is_file():
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _holder(descriptor) or 0
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    """The process that has the lock, as Linux lists it."""
    inode = os.fstat(descriptor).st_ino
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "FLOCK" in words and len(words) > 5 and words[5].rsplit(":", 1)[-1] == str(inode) and int(words[4]) > 0:
                return int(words[4])
    except (OSError, ValueError):
        pass
    return None


def _forget() -> None:
    """A forked child, such as a worker that reads images, must not hold the lock when its parent was killed."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
