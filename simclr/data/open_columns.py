"""Some columns of a CSV or parquet file of very many rows, as arrays of pyarrow."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from simclr.data.metadata_columns import is_path
from simclr.data.metadata_table import Table, class_names, plain

__all__ = ["NotSimpleError", "open_columns"]


class NotSimpleError(Exception):
    """The file is to be read row by row."""


def open_columns(file: Path) -> tuple[Table, Any]:
    """A table without rows, and what reads some of its columns: their numbers -> number and pyarrow's chunked array."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        return _open_parquet(file)
    if kind not in (".csv", ".tsv"):
        raise NotSimpleError
    return _open_csv(file, "\t" if kind == ".tsv" else None)


def _open_parquet(file: Path) -> tuple[Table, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stored = pq.ParquetFile(file, memory_map=True)
    schema = stored.schema_arrow

    def read(wanted: list[int]) -> dict[int, Any]:
        table = stored.read(columns=[schema.names[i] for i in wanted])
        known = class_names(schema.metadata)
        columns = {}
        for i in wanted:
            column = table.column(schema.names[i])
            if names := known.get(schema.names[i]):  # numbers that stand for names
                of = column.to_numpy()
                if of.dtype.kind != "i" or (len(of) and (of.min() < -1 or of.max() >= len(names))):
                    raise NotSimpleError
                words = pa.array([*names, None], pa.string())
                column = pa.chunked_array([words.take(pa.array(np.where(of < 0, len(names), of)))])
            columns[i] = column
        return columns

    if len(set(schema.names)) < len(schema.names):
        raise NotSimpleError
    return Table(file, tuple(schema.names), []), read


def _open_csv(file: Path, delimiter: str | None) -> tuple[Table, Any]:
    import pyarrow as pa
    import pyarrow.csv

    with file.open("rb") as stream:
        first = stream.readline(1 << 20)
    if 0 in first or first.lower().startswith((b"sep=", b'"sep=')):
        raise NotSimpleError
    line = first.decode("utf-8-sig").rstrip("\r\n")
    if delimiter is None:
        rows = [(d, next(csv.reader([line], delimiter=d), [])) for d in ",;\t"]
        fitting = [d for d, row in rows if len(row) > 1 and any(is_path(plain(name)) for name in row)]
        delimiter = fitting[0] if fitting else ","
    names = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    if not names or len(set(names)) < len(names):
        raise NotSimpleError
    numbered = [str(i) for i in range(len(names))]

    def read(wanted: list[int]) -> dict[int, Any]:
        table = pa.csv.read_csv(
            file,
            read_options=pa.csv.ReadOptions(column_names=numbered, skip_rows=1, use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.large_string() for name in numbered},
                include_columns=[numbered[i] for i in wanted],
            ),
        )
        return {i: table.column(numbered[i]) for i in wanted}

    return Table(file, tuple(names), [], decimal_comma=delimiter == ";"), read
