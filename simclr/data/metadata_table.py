"""Tables about images as rows of named cells: CSV (with , ; or tabs), TSV, JSON, JSON Lines and parquet read alike."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr.errors import DataError

__all__ = ["ENDINGS", "Table", "brief", "class_names", "plain", "read_table"]

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")
"""Endings of the files that are read; a file with another ending is read as CSV."""


@dataclass(frozen=True)
class Table:
    """The rows of one file."""

    file: Path
    columns: tuple[str, ...]
    """The columns' names as the file writes them."""

    rows: list[tuple[str, tuple[Any, ...]]]
    """Where each row stands, as a message says it ("FILE, line 3"), and its cells: text from CSV, else what JSON holds."""

    decimal_comma: bool = False
    """Whether numbers may be written with a comma: a spreadsheet that separates columns by ; writes them so."""


def plain(name: str) -> str:
    """A column's name as names are compared: without regard to case, blanks, hyphens and underscores.

    >>> plain("File Name") == plain("file_name") == "filename"
    True
    """
    return re.sub(r"[\s_\-]+", "", name).lower()


def brief(text: object, most: int = 100) -> str:
    """A cell as a message shows it: on one line, and cut after ``most`` characters.

    >>> brief("a\\nb"), brief("abcdef", 3)
    ('a\\\\nb', 'abc...')
    """
    whole = str(text)
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in whole[:most]
    )
    return shown + "..." * (len(whole) > most)


def read_table(file: Path, is_path: Callable[[str], bool]) -> Table:
    """The table in ``file``; ``is_path`` tells, of a `plain` name, a column of paths, by which a CSV's delimiter is known.

    Raises:
        DataError: the file is not there, not UTF-8, or not of the kind that its ending names; with the line.
    """
    kind = file.suffix.lower()
    name = {".parquet": "parquet", ".json": "JSON", ".jsonl": "JSON Lines", ".ndjson": "JSON Lines"}.get(kind, "CSV")
    try:
        if name == "parquet":
            return _parquet(file)
        text = _text(file)
        return _json(file, text) if name != "CSV" else _csv(file, text, "\t" if kind == ".tsv" else None, is_path)
    except (OSError, csv.Error, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} cannot be read as {name}: {reason}") from error


def _text(file: Path) -> str:
    content = file.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(content) > 3 and 0 in content[:2] and content[:2] != b"\0\0"):
        raise DataError(f"{file} is UTF-16, expected UTF-8; save it again as UTF-8 (a spreadsheet calls it CSV UTF-8)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8; save the file again as UTF-8 "
            "(a spreadsheet calls it CSV UTF-8)"
        ) from error


def _csv(file: Path, text: str, delimiter: str | None, is_path: Callable[[str], bool]) -> Table:
    skipped = 0
    announced = re.match(r'"?sep=(.)"?\r?\n', text)  # how a spreadsheet is told the delimiter
    if announced:
        text, skipped, delimiter = text[announced.end() :], 1, announced[1]
    if delimiter is None:
        # Only the header decides: a cell may hold any of the three.
        first = [(d, next((row for _, row in _csv_rows(text, d)), [])) for d in ",;\t"]
        fitting = [d for d, row in first if len(row) > 1 and any(is_path(plain(name)) for name in row)]
        delimiter = fitting[0] if fitting else ","
    rows = _csv_rows(text, delimiter)
    columns = tuple(cell.strip() for cell in next(rows, (0, []))[1])
    found: list[tuple[str, tuple[Any, ...]]] = []
    for line, row in rows:
        where = f"{file}, line {line + skipped}"
        while len(row) > len(columns) and not row[-1].strip():
            row.pop()
        if len(row) != len(columns):
            raise DataError(f"{where}: {len(row)} values, expected {len(columns)} ({brief(','.join(columns))})")
        found.append((where, tuple(row)))
    return Table(file, columns, found, decimal_comma=delimiter == ";")


def _csv_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line that it begins on: a quoted cell may hold line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 1
    for row in reader:
        if any(row):
            yield line, row
        line = reader.line_num + 1


def _json(file: Path, text: str) -> Table:
    records: list[tuple[str, Any]] = []
    if text.lstrip().startswith("["):
        records = [(f"{file}, record {i}", record) for i, record in enumerate(json.loads(text), start=1)]
    else:
        # Not splitlines: it also breaks at characters that may stand inside a JSON string.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                where = f"{file}, line {number}"
                try:
                    records.append((where, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"{where} is not JSON ({error}); expected one record a line, or one list"
                    ) from error
    columns: dict[str, None] = {}
    for where, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{where}: {brief(record)!r}, expected a record such as {{'file_name': ..., 'label': ...}}")
        columns.update(dict.fromkeys(record))
    return Table(file, tuple(columns), [(where, tuple(r.get(name) for name in columns)) for where, r in records])


def _parquet(file: Path) -> Table:
    import pyarrow.parquet

    try:
        with file.open("rb") as stream:
            table = pyarrow.parquet.ParquetFile(stream).read()
        columns = [table.column(i).to_pylist() for i in range(table.num_columns)]
    except (pyarrow.ArrowException, ArithmeticError) as error:
        raise ValueError(str(error)) from error
    names = class_names(table.schema.metadata)
    cells = []
    for column, values in zip(table.column_names, columns, strict=True):
        known = names.get(column)
        if known:
            values = [
                known[v] if isinstance(v, int) and 0 <= v < len(known) else None if v == -1 else v for v in values
            ]
        cells.append(values)
    rows = [(f"{file}, row {i}", row) for i, row in enumerate(zip(*cells, strict=True), start=1)]
    return Table(file, tuple(table.column_names), rows)


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of the columns that Hugging Face's datasets wrote as numbers."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {column: list(f["names"]) for column, f in features.items() if f.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
