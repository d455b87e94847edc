"""Output that brings no command down (a closed terminal, a reader that left, a full disk), and its lines on a terminal."""

import io
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["in_lines", "undisturbed"]


class _Deaf(io.FileIO):
    """A file that takes what cannot be written as well."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def undisturbed(stream: TextIO | None) -> TextIO:
    """``stream`` as one that neither its other end nor a letter that its encoding lacks can bring down; None is a closed one."""
    if stream is None:
        return Path(os.devnull).open("w")
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


def in_lines(text: str, on: "Console", indent: int = 0) -> str:
    """``text`` broken between words for a terminal, the further lines indented; a log has one line, and no path is ever cut."""
    if not on.is_terminal or len(text) <= on.width:
        return text
    behind = " " * indent
    return textwrap.fill(text, on.width, break_long_words=False, break_on_hyphens=False, subsequent_indent=behind)
