"""Labels from a CSV file: ``path,label``, or ``path,label,quality`` with a quality in [0, 1], or ``path,value``."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from simclr.errors import DataError

__all__ = ["read_labels"]

_HEADERS = (("path", "label"), ("path", "label", "quality"), ("path", "value"))


def read_labels(file: Path, root: Path, paths: Sequence[Path]) -> tuple[Tensor | None, tuple[str, ...], Tensor | None]:
    """What ``file`` says of ``paths``: labels int64 (N,) or None, the classes' names, values float32 (N,) or None.

    The column ``path`` is relative to ``root``, or absolute. An image without a row, or with an empty label or value, has
    label -1, or value NaN. Rows of images that are not among ``paths`` are left to the other part of the set, if their
    file exists.

    Raises:
        DataError: no such file, other columns, a number that is none, a quality outside [0, 1], an image twice, or rows
            whose file does not exist; the message gives the line.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [(number, row) for number, row in enumerate(csv.reader(stream), start=1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error
    header = tuple(name.strip().lower() for name in rows[0][1]) if rows else ()
    if header not in _HEADERS:
        expected = " or ".join(",".join(names) for names in _HEADERS)
        raise DataError(f"the first line of {file} is {','.join(header)!r}; expected the columns {expected}")
    said: dict[Path, tuple[str, float]] = {}
    for number, row in rows[1:]:
        where = f"{file}, line {number}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} values, expected {len(header)} ({','.join(header)})")
        path = _real(root / row[0].strip())
        if path in said:
            raise DataError(f"{where}: {row[0]} is there twice")
        known = row[1].strip() != ""
        value = _number(row[-1], header[-1], where) if known and header[-1] != "label" else 1.0 if known else math.nan
        said[path] = (row[1].strip(), value)
    missing = [path for path in said if not path.is_file()]
    if missing:
        shown = ", ".join(str(path) for path in missing[:5])
        raise DataError(f"{file}: {len(missing)} of its images do not exist below {root}: {shown}")
    found = [said.get(_real(path)) for path in paths]
    found = [None if row is None or not row[0] else row for row in found]
    if not any(found):
        raise DataError(f"{file} says nothing of the {len(paths)} images below {root}; its paths are relative to that")
    values = torch.tensor([math.nan if row is None else row[1] for row in found])
    if header == ("path", "value"):
        return None, (), values
    classes = tuple(sorted({label for label, _ in said.values() if label}))
    number_of = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([-1 if row is None else number_of[row[0]] for row in found])
    return labels, classes, values if header[-1] == "quality" else None


def _real(path: Path) -> Path:
    return Path(
        os.path.realpath(path)
    )  # Path.resolve raises at a loop of links, which is no image but no reason to end


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: {column} is {text!r}, expected a number") from None
    if not math.isfinite(value) or (column == "quality" and not 0 <= value <= 1):
        expected = "a number in [0, 1]" if column == "quality" else "a finite number"
        raise DataError(f"{where}: {column} is {text}, expected {expected}")
    return value
