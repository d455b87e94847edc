"""``runs/NAME/images.csv``: a run's list of images as the table that it is written as and read from, millions of rows a second.

The first line is a comment with a digest of the others; ``pandas.read_csv(file, comment="#")`` reads it.
"""

import csv
import hashlib
import io
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from simclr.data.file_list import FileList, Numbers, decoded, encoded, starts_of
from simclr.data.listed_files import ListedFiles, Words

__all__ = ["escaped", "read_table", "unescaped", "write_table"]

_COLUMNS = ("part", "of", "name", "bytes", "label")

_PART = 1 << 18
"""Rows that are made or looked at at once."""


def write_table(file: BinaryIO, listed: ListedFiles, head: dict[str, Any]) -> None:
    """Write the table of ``listed`` behind a line of ``head`` and of the digest."""
    digest = hashlib.sha256(json.dumps(head).encode())
    file.write(_first_line(head, "0" * digest.digest_size * 2))
    for part in _lines(listed):
        digest.update(part)
        file.write(part)
    file.seek(0)
    file.write(_first_line(head, digest.hexdigest()))


def _first_line(head: dict[str, Any], digest: str) -> bytes:
    return f"# {json.dumps(head | {'sha256': digest})}\n".encode()


def _lines(listed: ListedFiles) -> Iterator[bytes | memoryview]:
    """The lines of the table as bytes, very many at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_binary()

    def words(column: Words, end: str = "") -> Any:
        return pa.array([_cell(escaped(word)) + encoded(end) for word in column.words], kind)

    parts, ofs, labels = words(listed.part), words(listed.of), words(listed.label, "\n")
    yield f"{','.join(_COLUMNS)}\n".encode()
    for begin in range(0, len(listed), _PART):
        here = slice(begin, begin + _PART)
        names = listed.files.joined_names(listed.rows[here])
        odd = _odd(names)
        if odd.any():
            written = [_cell(escaped(decoded(name))) for name in names.filter(pa.array(odd)).to_pylist()]
            names = pc.replace_with_mask(names, pa.array(odd), pa.array(written, kind))
        columns = (
            parts.take(pa.array(listed.part.of[here])),
            ofs.take(pa.array(listed.of.of[here])),
            names,
            pa.array(listed.bytes[here]).cast(pa.string()).cast(pa.binary()).cast(kind),
            labels.take(pa.array(listed.label.of[here])),
        )
        lines = pc.binary_join_element_wise(*columns, pa.scalar(b",", kind))
        content, ends = lines.buffers()[2], np.frombuffer(lines.buffers()[1], dtype=np.int64)
        yield memoryview(content)[: int(ends[len(lines)])]


def _odd(names: Any) -> npt.NDArray[np.bool_]:
    """Which of the names cannot stand in a table as they are: bool (N,)."""
    ends = np.frombuffer(names.buffers()[1], dtype=np.int64)[: len(names) + 1]
    content = np.frombuffer(names.buffers()[2], dtype=np.uint8)[: ends[-1]]
    try:
        content.tobytes().decode()
        above = 256
    except UnicodeDecodeError:
        above = 128
    table = np.zeros(256, dtype=bool)
    table[[*range(32), 127, *b'\\",', *range(above, 256)]] = True
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(table[content])])
    odd: npt.NDArray[np.bool_] = before[ends[1:]] > before[ends[:-1]]
    return odd


def _cell(text: str) -> bytes:
    """A cell of CSV, in quotes where it needs them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow((text, ""))
    return line.getvalue()[:-1].encode()


def read_table(file: Path) -> tuple[ListedFiles, dict[str, Any]]:
    """The files that a file of ``write_table`` lists, and its head.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: what is no such table.
    """
    import pyarrow as pa
    import pyarrow.csv

    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.find(b"\n") + 1
        head = json.loads(content[:end].removeprefix(b"# "))
        said = head.pop("sha256")
        digest = hashlib.sha256(json.dumps(head).encode())
        for begin in range(end, len(content), _PART):
            digest.update(content[begin : begin + _PART])
        if digest.hexdigest() != said:
            raise ValueError("its digest is another")
    word = pa.dictionary(pa.int32(), pa.string())
    kinds = {"part": word, "of": word, "name": pa.large_string(), "bytes": pa.int64(), "label": word}
    rows = _Rows()
    try:
        with pa.csv.open_csv(
            file,
            read_options=pa.csv.ReadOptions(skip_rows=1, block_size=1 << 24),
            convert_options=pa.csv.ConvertOptions(column_types=kinds, include_columns=list(_COLUMNS)),
        ) as batches:
            for batch in batches:
                rows.add(batch)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return rows.listed(), head


class _Rows:
    """Rows of a table, taken in part by part."""

    def __init__(self) -> None:
        self.numbers: dict[str, dict[str, int]] = {name: {} for name in ("part", "of", "label", "folder")}
        self.columns: dict[str, list[npt.NDArray[Any]]] = {
            **{name: [np.empty(0, np.int32)] for name in self.numbers},
            **{name: [np.empty(0, np.int64)] for name in ("bytes", "lengths")},
            "names": [np.empty(0, np.uint8)],
        }

    def add(self, batch: Any) -> None:
        for name in ("part", "of", "label"):
            column = batch.column(name)
            self._words(name, column.dictionary.to_pylist(), column.indices.to_numpy())
        folders, of, ends, names = _split(batch.column("name"))
        self._words("folder", folders, of)
        self.columns["bytes"].append(batch.column("bytes").to_numpy())
        self.columns["lengths"].append(np.diff(ends))
        self.columns["names"].append(names)

    def _words(self, name: str, words: list[str], of: npt.NDArray[Any]) -> None:
        number = self.numbers[name]
        here = np.array([number.setdefault(word, len(number)) for word in words], dtype=np.int32)
        self.columns[name].append(here[of])

    def listed(self) -> ListedFiles:
        whole = {name: np.concatenate(self.columns.pop(name)) for name in list(self.columns)}
        words = {name: Words(words=tuple(self.numbers[name]), of=whole[name]) for name in ("part", "of", "label")}
        names = tuple(self.numbers["folder"]), whole["folder"], starts_of(whole["lengths"]), whole["names"]
        return ListedFiles(
            files=FileList(Path(), *names),
            rows=np.arange(len(whole["folder"])),
            part=words["part"],
            of=words["of"],
            label=Words(words=tuple(map(unescaped, words["label"].words)), of=words["label"].of),
            bytes=whole["bytes"],
        )


def _split(names: Any) -> tuple[list[str], Numbers, Numbers, npt.NDArray[np.uint8]]:
    """The folders of some names, which one each is in, and the names without them: where they end, and their bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.any(pc.match_substring(names, "\\")).as_py():
        names = pa.array([encoded(unescaped(name)) for name in names.to_pylist()], pa.large_binary())
    nothing = pa.scalar(b"", pa.large_binary())
    names = pc.binary_join_element_wise(names.cast(pa.large_binary()), nothing, nothing)  # a copy that begins at 0
    ends = np.frombuffer(names.buffers()[1], dtype=np.int64)[: len(names) + 1]
    content = np.frombuffer(names.buffers()[2], dtype=np.uint8)[: ends[-1]]
    slashes = np.concatenate([np.full(1, -1), np.flatnonzero(content == ord("/"))])
    last = slashes[np.searchsorted(slashes, ends[1:], "left") - 1]
    split = np.maximum(last, ends[:-1] - 1)  # the slash before each name, or the end of the name before
    inside = np.maximum(split - ends[:-1], 0)
    steps = np.zeros(len(content) + 1, dtype=np.int8)
    steps[ends[:-1]] += 1
    steps[split + 1] -= 1
    within = np.cumsum(steps[:-1], dtype=np.int8) > 0  # a folder or its slash
    slash = np.zeros(len(content), dtype=bool)
    slash[split[inside > 0]] = True
    parts = pa.Array.from_buffers(
        pa.large_binary(),
        len(names),
        [None, pa.py_buffer(starts_of(inside)), pa.py_buffer(content[within & ~slash])],
    ).dictionary_encode()
    folders = [decoded(name) for name in parts.dictionary.to_pylist()]
    return folders, parts.indices.to_numpy(), starts_of(ends[1:] - split - 1), content[~within]


def escaped(name: str) -> str:
    """A file's name as UTF-8 text on one line: other bytes, control characters and backslashes as escapes.

    >>> escaped("a b/ä.png"), escaped("a\\nb"), unescaped(escaped("x\\udcff\\\\y")) == "x\\udcff\\\\y"
    ('a b/ä.png', 'a\\\\x0ab', True)
    """
    return "".join(map(_escape, name))


def _escape(c: str) -> str:
    code = ord(c) - 0xDC00 if 0xDC80 <= ord(c) <= 0xDCFF else ord(c)
    return "\\\\" if c == "\\" else f"\\x{code:02x}" if code != ord(c) or code < 32 or code == 127 else c


def unescaped(name: str) -> str:
    """The name that ``escaped`` was given."""

    def one(found: re.Match[str]) -> str:
        if found[1] is None:
            return "\\"
        byte = int(found[1], 16)
        return chr(byte if byte < 128 else 0xDC00 + byte)

    return re.sub(r"\\(?:\\|x([0-9a-f]{2}))", one, name)
