"""Descriptions in JSON that know the SHA-256 of what they describe, and their own: changed bytes are noticed on load.

Under the key ``sha256`` stands one digest for each file of the description, and one for the description itself without
that digest, so that spaces and the order of its keys are free. Files of earlier versions have no such key: they load, and a
line says that nobody can tell whether they are whole.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simclr.errors import CheckpointError
from simclr.names import printable

__all__ = ["KEY", "file_sha256", "read_sealed", "refuse_changed", "sealed"]

KEY = "sha256"

_SAID: set[str] = set()
"""Folders of which the line was printed."""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; about 1 ms a MB.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def sealed(content: Mapping[str, Any], name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """``content`` with the digests of ``files`` and its own, as the description ``name`` is to be written.

    >>> sorted(sealed({"format": 1}, "a.json", {"a.bin": "00ff"})["sha256"])
    ['a.bin', 'a.json']
    """
    plain = {key: value for key, value in content.items() if key != KEY}
    return plain | {KEY: {**files, name: _digest(plain, files)}}


def read_sealed(file: Path, formats: Sequence[int]) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The content of a description of one of the ``formats``, and the digests of the files beside it.

    These are None for a description of an earlier version.

    Raises:
        CheckpointError: it cannot be read, holds no keys and values, is of a format that another version writes, or was
            changed since it was written.
    """
    try:
        content = json.loads(file.read_bytes().decode())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, a number of 5,000 digits, brackets without end
        raise CheckpointError(f"{file} is damaged: {type(error).__name__} {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is damaged: it holds {type(content).__name__}, expected keys and values")
    if "format" not in content:
        raise CheckpointError(f"{file} is damaged: it has no format")
    given = content["format"]
    if type(given) is not int or given not in formats:
        versions = " and ".join(map(str, formats))
        raise CheckpointError(
            f"{file} is of format {given!r:.60}, this version reads {versions}; install the version of simclr-pipeline that "
            "wrote it, or export it again with this one"
        )
    if KEY not in content:
        _say_once(file)
        return content, None
    digests = content.pop(KEY)
    named = isinstance(digests, dict) and all(isinstance(digest, str) for digest in digests.values())
    own = digests.pop(file.name, None) if named else None
    if own is None or own != _digest(content, digests):
        raise CheckpointError(
            f"{file} was changed since it was written: its SHA-256 is another than its key {KEY} says. Put a copy in its "
            f"place or export it again; where it was changed on purpose, take its key {KEY} out"
        )
    return content, digests


def refuse_changed(file: Path, digests: Mapping[str, str] | None) -> None:
    """Raise CheckpointError unless the bytes of ``file`` are those of ``digests``, where there are any."""
    if digests is None:
        return
    expected = digests.get(file.name)
    if file_sha256(file) != expected:
        raise CheckpointError(
            f"{file} is not as it was written: its SHA-256 is another than the description beside it says "
            f"({(expected or 'none')[:12]}...). Put a copy in its place, or export it again"
        )


def _digest(content: Mapping[str, Any], files: Mapping[str, str]) -> str:
    # Through JSON and back: a tuple is a list there, and a key a string, before and after it was written.
    plain = json.loads(json.dumps([content, files]))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _say_once(file: Path) -> None:
    where = os.path.realpath(file.parent)
    if where not in _SAID and os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).warning(
            "%s was written without a SHA-256 by an earlier version: that its weights are whole cannot be told",
            printable(str(file)),
        )
    _SAID.add(where)
