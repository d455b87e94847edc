"""What stands in the cells of a label column: no label, one class under one name, or several labels at once."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simclr.data.metadata_table import brief
from simclr.errors import DataError

__all__ = ["Said", "classes_of", "classes_of_cells", "in_order", "one_text"]

_MISSING = frozenset({"nan", "null", "none", "na", "n/a", "<na>"})
"""Spellings, in lower case, of a cell that holds nothing: pandas, numpy, R, SQL and Python write them."""

_WHOLE = re.compile(r"\+?(-?\d+)(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def one_text(cell: Any, missing: Counter[str] | None = None) -> str | None:
    """A cell as text, or None where it holds nothing; ``missing`` counts the spellings of nothing but empty cells.

    >>> one_text(3.0), one_text(True), one_text(" cat "), one_text("NaN")
    ('3', 'true', 'cat', None)
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = str(cell).strip()
    if text.lower() in _MISSING:
        if missing is not None:
            missing[text] += 1
        return None
    return text or None


class Said(NamedTuple):
    """One cell that speaks of an image."""

    where: str
    """Where its row stands: "FILE, line 3"."""

    image: str
    """The image as the row writes it."""

    cell: Any


def classes_of(said: Mapping[Path, Sequence[Said]], column: str, notes: list[str]) -> dict[Path, str | None]:
    """The class of each image, of which ``said`` holds all cells of the label column.

    A list of one is its member. ``3.0`` is ``3`` where all labels are whole numbers, and ``True`` is ``true`` where all
    are truth values. What was decided is added to ``notes``.

    Raises:
        DataError: an image has several labels, in one cell or in two rows, or a cell holds a record; with the line.
    """
    missing: Counter[str] = Counter()
    texts: dict[Path, list[tuple[Said, str]]] = {}
    for image, rows in said.items():
        texts[image] = []
        for row in rows:
            if isinstance(row.cell, dict):
                raise DataError(f"{row.where}: {column} is a record, expected a name, a number, or nothing")
            pieces = [text for piece in _listed(row.cell) if (text := one_text(piece, missing)) is not None]
            if len(set(pieces)) > 1:
                raise _several(f"{row.where}: {brief(row.image)} has", pieces)
            texts[image] += [(row, pieces[0])] if pieces else []
    spelled = {text for rows in texts.values() for _, text in rows}
    joined = _joined(spelled, column)
    for row, text in (pair for rows in texts.values() for pair in rows):
        if text in joined:
            one_name = f"; or, if {brief(text)!r} is one name, write it without | ; and commas"
            raise _several(f"{row.where}: {brief(row.image)} has", joined[text], one_name)
    _describe(spelled, missing, column, notes)
    as_written = _one_spelling(spelled)
    found: dict[Path, str | None] = {}
    for image, pairs in texts.items():
        names = list(dict.fromkeys(as_written(text) for _, text in pairs))
        if len(names) > 1:
            raise _several(f"{pairs[-1][0].where}: {brief(pairs[-1][0].image)} is there twice, with", names)
        found[image] = names[0] if names else None
    return found


def classes_of_cells(cells: Sequence[Any], times: Sequence[int], column: str, notes: list[str]) -> list[str | None]:
    """The class that each of the different ``cells`` of a label column stands for, as ``classes_of`` has it.

    Args:
        cells: each once; ``times`` are how many rows hold it.
        column, notes: as in ``classes_of``.

    Raises:
        DataError: a cell holds several labels, or a record.
    """
    missing: Counter[str] = Counter()
    texts: list[str | None] = []
    for cell, rows in zip(cells, times, strict=True):
        nothing: Counter[str] = Counter()
        pieces = [text for piece in _listed(cell) if (text := one_text(piece, nothing)) is not None]
        if isinstance(cell, dict) or len(set(pieces)) > 1:
            raise _several(f"{column}: {brief(cell)} is", pieces)
        missing.update({text: count * rows for text, count in nothing.items()})
        texts.append(pieces[0] if pieces else None)
    spelled = {text for text in texts if text is not None}
    for text, labels in _joined(spelled, column).items():
        raise _several(f"{column}: {brief(text)} is", labels)
    _describe(spelled, missing, column, notes)
    as_written = _one_spelling(spelled)
    return [None if text is None else as_written(text) for text in texts]


def _describe(spelled: set[str], missing: Counter[str], column: str, notes: list[str]) -> None:
    kept = sorted(text for text in spelled if re.search(r"[|;]", text))
    if kept:
        notes.append(
            f"labels with | or ; in them, taken for one class each: {len(kept)} ({', '.join(map(brief, kept[:3]))})"
        )
    if missing:
        shown = ", ".join(f"{text} ({count})" for text, count in missing.most_common())
        notes.append(f"cells of {column} taken for no label: {shown}; if that is a class, give it another name")
    numbers = len(spelled) > 2 and all(map(_NUMBER.fullmatch, spelled))
    if numbers and not all(map(_WHOLE.fullmatch, spelled)):
        notes.append(
            f"the {len(spelled)} numbers of {column} are a class each; numbers to predict go into a column value"
        )


def in_order(classes: set[str]) -> tuple[str, ...]:
    """Names of classes in the order of their numbers: as numbers where all are numbers, else as text."""
    if all(_NUMBER.fullmatch(name) for name in classes):
        return tuple(sorted(classes, key=lambda name: (float(name), name)))
    return tuple(sorted(classes))


def _one_spelling(spelled: set[str]) -> Callable[[str], str]:
    """How a label is written, given all labels."""
    if all(map(_WHOLE.fullmatch, spelled)):
        return lambda text: _WHOLE.sub(r"\1", text)
    if {text.lower() for text in spelled} <= {"true", "false"}:
        return str.lower
    return lambda text: text


def _listed(cell: Any) -> list[Any]:
    """The members of a list, or of a list written as text the way JSON, Python or numpy print it; else the cell itself."""
    if isinstance(cell, list | tuple):
        return list(cell)
    if isinstance(cell, str) and re.fullmatch(r"\s*\[.*\]\s*", cell, re.DOTALL):
        try:
            return list(json.loads(cell))
        except (ValueError, RecursionError):
            inside = cell.strip()[1:-1]
        quoted = [a or b for a, b in re.findall(r"\"([^\"]*)\"|'([^']*)'", inside)]
        bare = inside.replace(",", " ").split()
        if quoted or "," in inside or all(map(_NUMBER.fullmatch, bare)):
            return quoted or bare  # and else a name in brackets
    return [cell]


def _joined(spelled: set[str], column: str) -> dict[str, list[str]]:
    """The texts that join several labels by | ; or a comma, and their pieces: pieces that occur in another label too."""
    pieces = {text: found for text in spelled if len(found := _pieces(text, column)) > 1}
    occurs = Counter(piece for text in spelled for piece in set(_pieces(text, column)))
    return {text: found for text, found in pieces.items() if any(occurs[piece] > 1 for piece in found)}


def _pieces(text: str, column: str) -> list[str]:
    separators = r"[|;,\s]" if column.lower().endswith(" tags") else r"[|;,]"
    return [piece.strip() for piece in re.split(separators, text) if piece.strip()]


def _several(begin: str, labels: Sequence[str], one_name: str = "") -> DataError:
    labels = [brief(label) for label in labels]
    shown = " and ".join(labels) if len(labels) < 4 else f"{', '.join(labels[:3])} and {len(labels) - 3} more"
    return DataError(
        f"{begin} the labels {shown}; several labels an image are not trained on or scored here: keep one in each row"
        f"{one_name}, or train without labels: --data.labels none"
    )
