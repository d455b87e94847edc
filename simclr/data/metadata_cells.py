"""What stands in the cells of a metadata file's columns of numbers and of parts, and what several rows of one image agree on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from simclr.data.class_cells import Said, one_text
from simclr.data.folder_layout import PartName, part_of
from simclr.data.metadata_table import brief
from simclr.errors import DataError

__all__ = ["PART_NAMES", "agreed", "number_in", "parts_in"]

PART_NAMES = "train, test, validation, unlabeled"
"""The parts of a set, as a message lists them; `part_of` knows other spellings of each."""

T = TypeVar("T")


def number_in(row: Said, role: str, commas: bool) -> float | None:
    """The number in a cell of the column ``role``, or None where a value is not given; ``commas``: it may have a decimal comma.

    Raises:
        DataError: no number, one that is not finite, a quality that is not given or outside [0, 1]; with the line.
    """
    text = one_text(row.cell)
    if text is None and role == "value":
        return None
    written = text or ""
    if commas and "." not in written:
        written = written.replace(",", ".")
    try:
        value = float(written)
    except ValueError:
        raise DataError(f"{row.where}: {role} is {brief(written)!r}, expected a number") from None
    if not math.isfinite(value) or (role == "quality" and not 0 <= value <= 1):
        wanted = "a number in [0, 1]" if role == "quality" else "a finite number"
        raise DataError(f"{row.where}: {role} is {brief(text)}, expected {wanted}")
    return value


def agreed(cells: Sequence[Said], told: Sequence[T | None], role: str) -> T | None:
    """What the rows of one image say; a row that says nothing leaves it to the others.

    Raises:
        DataError: two say different things; with the line of the last.
    """
    different = list(dict.fromkeys(one for one in told if one is not None))
    if len(different) > 1:
        last, shown = cells[-1], f"{brief(different[0])} and {brief(different[1])}"
        raise DataError(f"{last.where}: {brief(last.image)} is there twice, with {role} {shown}; keep one row")
    return different[0] if different else None


def parts_in(said: Mapping[Path, Sequence[Said]]) -> dict[Path, PartName | None] | None:
    """The part of each image, or None where the column holds the name of none.

    Raises:
        DataError: a name that is no part beside others that are, or two parts of one image; with the line.
    """
    names = {image: [one_text(row.cell) or "" for row in cells] for image, cells in said.items()}
    parts = {name: part_of(name) for told in names.values() for name in told}
    if not any(parts.values()):
        return None
    for image, cells in said.items():
        for row, name in zip(cells, names[image], strict=True):
            if name and parts[name] is None:
                raise DataError(f"{row.where}: the part is {brief(name)!r}, expected one of {PART_NAMES}, or nothing")
    return {image: agreed(said[image], [parts[name] for name in told], "part") for image, told in names.items()}
