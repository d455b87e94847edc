"""Arrays in one file that processes map instead of reading: their memory is the system's, once for all of them.

A line of JSON says what they are; each begins at a multiple of 64 bytes behind it.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from simclr.files import atomically

__all__ = ["map_arrays", "write_arrays"]

_STEP = 64

Arrays = dict[str, npt.NDArray[Any]]


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], head: Mapping[str, Any]) -> None:
    """Write one-dimensional ``arrays``, and what ``head`` says of them as JSON, atomically.

    Raises:
        WriteError: the disk refuses.
    """
    places, end, check = {}, 0, 0
    for name, array in arrays.items():
        places[name] = [array.dtype.str, len(array), end]
        end += _padded(array.nbytes)
        check = zlib.crc32(_bytes(array), check)
    line = json.dumps({**head, "arrays": places, "crc32": check}).encode()

    def write(file: BinaryIO) -> None:
        file.write(line.ljust(_padded(len(line) + 1) - 1) + b"\n")
        for array in arrays.values():
            file.write(_bytes(array))
            file.write(bytes(_padded(array.nbytes) - array.nbytes))

    atomically(path, write)


def map_arrays(path: Path, check: bool = True) -> tuple[dict[str, Any], Arrays] | None:
    """What ``write_arrays`` was given; None where there is no such file, or it is not whole.

    Args:
        path: the file.
        check: read every byte once and compare their CRC-32.
    """
    try:
        with path.open("rb") as file:
            line = file.readline()
        head = json.loads(line)
        whole = np.memmap(path, mode="r", dtype=np.uint8)
        found, read = {}, 0
        for name, (kind, length, begin) in head.pop("arrays").items():
            size = length * np.dtype(kind).itemsize
            part = whole[len(line) + begin : len(line) + begin + size]
            if len(part) != size:
                return None
            found[name] = np.asarray(part).view(kind)
            read = zlib.crc32(part.data, read) if check else read
        return (head, found) if not check or head["crc32"] == read else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).view(np.uint8).data


def _padded(size: int) -> int:
    return -(-size // _STEP) * _STEP
