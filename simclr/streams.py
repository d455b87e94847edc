"""Output that brings no command down: to a terminal that was closed, a pipe whose reader left, a full disk."""

import io
import sys
from typing import Any, TextIO

__all__ = ["undisturbed"]


class _Deaf(io.FileIO):
    """A file that takes what cannot be written as well."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def undisturbed(stream: TextIO) -> TextIO:
    """``stream`` as one that neither its other end nor a letter that its encoding lacks can bring down."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if stream not in (sys.__stdout__, sys.__stderr__):  # somebody else's, a test's say
        stream.reconfigure(errors="backslashreplace")
        return stream
    raw = io.BufferedWriter(_Deaf(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=stream.write_through,
    )
