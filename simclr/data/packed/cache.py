"""What is fetched once for a machine: shards that are URLs or commands, and lists of what shards hold.

The folder is ``$SIMCLR_CACHE``, else ``simclr-pipeline`` in the user's cache folder. It takes at most ``$SIMCLR_CACHE_GB``, else
half of what its disk has to spare; what was not used for longest goes first.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from simclr.data.packed.locations import basename
from simclr.errors import ConfigError, DataError, MissingExtraError

__all__ = ["cache_folder", "fetched", "locked"]

_TRIES = 4
_PAUSE = 1.0
"""Seconds before the second try; each further one waits twice as long."""

_PATIENCE = 60
"""Seconds without a byte from a server."""


class _Failed(Exception):
    """A try that failed; ``again`` where another may not."""

    def __init__(self, said: str, again: bool = True) -> None:
        super().__init__(said)
        self.again = again


def cache_folder(name: str) -> Path:
    """A folder of that name in the cache, made where it is not there."""
    root = os.environ.get("SIMCLR_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simclr-pipeline"
    folder = (Path(root).expanduser() if root else home) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made ({error.strerror}); name another folder for what is fetched: SIMCLR_CACHE=DIR"
        ) from error
    return folder


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Of all processes of this machine one at a time is in the block, by a lock on ``file``; a process that ends frees it."""
    try:
        import fcntl
    except ImportError:  # on Windows: the worst is that two do the same
        yield
        return
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetched(name: str, sha256: str = "", optional: bool = False) -> Path | None:
    """The file that a URL or a ``pipe:`` command gives, whole, in the cache: fetched once for all processes of a machine.

    Args:
        name: of it.
        sha256: its check sum, where that is known.
        optional: give None where the server has no such file.

    Raises:
        DataError: it cannot be fetched, also when tried again; or is another than its check sum says.
        MissingExtraError: a kind of URL that webdataset opens, which is not installed.
    """
    folder = cache_folder("shards")
    named = hashlib.sha256(f"{name}\0{sha256}".encode(errors="backslashreplace")).hexdigest()[:16]
    target = folder / f"{named}-{basename(name)[-100:] or 'shard'}"
    if _used(target):
        return target
    with locked(folder / f".{named}.lock"):
        if _used(target):  # another process has fetched it meanwhile
            return target
        for number in range(_TRIES):
            try:
                _fetch(name, target, sha256)
                break
            except _Failed as error:
                if optional and not error.again:
                    return None
                if not error.again or number == _TRIES - 1:
                    tries = f" in {number + 1} tries" if number else ""
                    raise DataError(f"{name} could not be fetched{tries}: {error}") from error
                time.sleep(_PAUSE * 2**number)
    return target


def _used(target: Path) -> bool:
    try:
        os.utime(target)
    except OSError:
        return False
    return True


def _fetch(name: str, target: Path, sha256: str) -> None:
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            digest = _copy(name, file, target.parent)
            file.flush()
            os.fsync(file.fileno())
        if sha256 and digest != sha256:
            raise _Failed("it is not what its list says, by its check sum (SHA-256); it was changed since, or damaged")
        Path(partial).replace(target)
    finally:
        with suppress(OSError):
            Path(partial).unlink()


def _copy(name: str, into: BinaryIO, folder: Path) -> str:
    digest, wanted, got = hashlib.sha256(), None, 0
    try:
        with closing(_opened(name)) as source:
            length = getattr(source, "headers", {}).get("Content-Length", "")
            wanted = int(length) if str(length).isdecimal() else None
            _make_room(folder, wanted or 0)
            while block := source.read(1 << 20):
                digest.update(block)
                got += len(block)
                if not got % (64 << 20):
                    _make_room(folder, 0)
                try:
                    into.write(block)
                except OSError as error:
                    raise DataError(
                        f"{name} cannot be kept in {folder} ({error.strerror}); SIMCLR_CACHE=DIR names another"
                    ) from error
    except urllib.error.HTTPError as error:
        raise _Failed(
            f"the server says {error.code} {error.reason}", again=error.code >= 500 or error.code in (408, 429)
        ) from error
    except urllib.error.URLError as error:
        raise _Failed(str(error.reason)) from error
    except (OSError, ValueError) as error:
        raise _Failed(str(error)) from error
    if wanted is not None and got != wanted:
        raise _Failed(f"{got} of {wanted} bytes came")
    return digest.hexdigest()


def _opened(name: str) -> Any:
    if name.startswith("pipe:"):
        return _Output(name.removeprefix("pipe:"))
    if name.startswith(("http://", "https://")):
        return urllib.request.urlopen(name, timeout=_PATIENCE)
    try:
        from webdataset import gopen  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is fetched by webdataset, which is not installed: pip install 'simclr-pipeline[shards]'"
        ) from error
    return gopen(name)


class _Output:
    """What a shell command prints; it fails where the command does."""

    def __init__(self, command: str) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``close``
        self._process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=self._said)

    def read(self, count: int) -> bytes:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        block = stream.read(count)
        if not block and (code := self._process.wait()):
            self._said.seek(0)
            last = self._said.read().decode(errors="backslashreplace").strip().splitlines()
            raise _Failed(f"the command ended with exit code {code}" + (f": {last[-1]}" if last else ""))
        return block

    def close(self) -> None:
        self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()
        self._process.wait()


def _make_room(folder: Path, coming: int) -> None:
    """Remove what was not used for longest, until ``coming`` bytes more stay within the bound."""
    files = []
    for path in folder.iterdir():
        with suppress(OSError):
            if not path.name.startswith("."):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
    held = sum(size for _, size, _ in files)
    most = _bound(held + shutil.disk_usage(folder).free)
    for _, size, path in sorted(files):
        if held + coming <= most:
            return
        with suppress(OSError):
            path.unlink()
        held -= size


def _bound(available: int) -> int:
    said = os.environ.get("SIMCLR_CACHE_GB")
    if not said:
        return available // 2
    try:
        return int(float(said) * 1e9)
    except ValueError as error:
        raise ConfigError(f"SIMCLR_CACHE_GB is {said!r}; it must be a number of gigabytes, such as 200") from error
