"""Metadata files: what ``metadata.csv``, ``.jsonl`` or ``.parquet`` says of each image, by the names of its columns."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from simclr.data.class_cells import one_text
from simclr.data.folder_layout import PartName
from simclr.data.metadata_cells import PART_NAMES
from simclr.data.metadata_columns import Columns, Role, columns_of, expected, is_path
from simclr.data.metadata_of_many import told_by_columns
from simclr.data.metadata_table import ENDINGS, brief, read_table
from simclr.data.metadata_told import Rows, Told, ToldRows, are
from simclr.data.rows_of_images import ImageFinder
from simclr.errors import DataError

__all__ = ["Metadata", "find_metadata", "read_labels", "read_metadata"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Metadata:
    """What metadata files say of N images, in the order of the images."""

    columns: tuple[str, ...] = ()
    """All columns there are, as the files write them."""

    labels: Tensor | None = None
    """int64 (N,), -1 where an image has none; None without a label column."""

    classes: tuple[str, ...] = ()
    """Name of each label, also of those that only images elsewhere in the set have; numbers in their order, else as text."""

    values: Tensor | None = None
    """float32 (N,), NaN where an image has none: the quality of each label, or without labels a number to predict."""

    groups: Tensor | None = None
    """int64 (N,), numbered by first appearance in the files, -1 where an image is a group of its own; or None."""

    splits: Sequence[PartName | None] | None = None
    """The part of each image: train, test, validation or unlabeled, None where nothing is said; None without a column."""

    notes: tuple[str, ...] = ()
    """What was taken from which column, and what was left out."""


def find_metadata(root: Path) -> tuple[Path, ...]:
    """The metadata files that a folder of images brings along: one in ``root``, else one in each folder right below it.

    A single folder in ``root`` is one around everything, which is looked into in the same way.

    They are called ``metadata`` or ``labels``, with the ending of a table; the first of several in a folder counts.
    """
    names = [stem + ending for stem in ("metadata", "labels") for ending in ENDINGS]

    def first(folder: Path) -> list[Path]:
        found = (path for name in names if os.path.isfile(path := os.path.join(folder, name)))  # noqa: PTH113, PTH118
        return [Path(path) for path in islice(found, 1)]  # of each of very many folders

    try:
        below = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    except OSError:
        return ()
    files = first(root) or [file for folder in below for file in first(folder)]
    return find_metadata(below[0]) if not files and len(below) == 1 and not below[0].is_symlink() else tuple(files)


def read_metadata(
    files: Path | Sequence[Path],
    root: Path,
    paths: Sequence[Path],
    *,
    group: str | None = None,
    found: bool = False,
    only_groups: bool = False,
) -> Metadata:
    """What ``files`` together say of ``paths``, images below ``root``.

    A path is relative to ``root`` or to the file's own folder, or absolute; it may lack its ending or its first folders
    where one image alone fits. Rows of images that are not among ``paths`` are left to the other part of the set.
    ``group`` names a column of groups; whether there is one is for the caller to see (``groups`` is None).

    ``found``: the files came with the folder (`find_metadata`) and were not named by the user. Then columns of parts or
    groups are enough, rows without an image are noted, and files that have no column of paths or name no image are not
    used, which a note says. ``only_groups``: the other columns are not looked at.

    Raises:
        DataError: no such file, no column of paths or of labels, a number that is none, a quality outside [0, 1], an
            image with several labels or two values, an unknown part, rows without an image, or nothing said of ``paths``;
            the message gives the line.
    """
    files = (files,) if isinstance(files, Path) else tuple(files)
    try:
        if (many := told_by_columns(files, root, paths, group, found=found, only_groups=only_groups)) is not None:
            columns, told = many
            said = _read([columns], told, len(paths), root, str(columns.table.file), [], found=found)
            return replace(said, columns=columns.table.columns)
        tables = [columns_of(read_table(file, is_path), group) for file in files]
        names = tuple(dict.fromkeys(name for columns in tables for name in columns.table.columns))
        if only_groups:
            tables = [columns.only(("path", "group")) for columns in tables]
        unfit = [columns.table for columns in tables if _unfit(columns, found)]
        if unfit and not found:
            raise DataError(
                f"the first line of {unfit[0].file} is {brief(','.join(unfit[0].columns), 500)!r}; {expected()}"
            )
        aside = [
            f"{table.file} not used: no paths with labels, parts or groups in its columns {brief(', '.join(table.columns), 500)}"
            for table in unfit
        ]
        tables = [columns for columns in tables if not _unfit(columns, found)]
        read = [str(columns.table.file) for columns in tables]
        source = " and ".join(read[:3]) + (f" and {len(read) - 3} more" if len(read) > 3 else "")
        finder = ImageFinder(root, paths)
        rows, notes = _rows(tables, finder, source, found=found)
        if found and not rows:
            return Metadata(
                columns=names,
                notes=(*(f"{file} not used: no row names an image below {root}" for file in read), *notes, *aside),
            )
        said = _read(tables, ToldRows(rows, finder.images), len(paths), root, source, [*notes, *aside], found=found)
        return replace(said, columns=names)
    except DataError as error:
        raise DataError(f"{error}; to leave the file out: --data.labels first" if found else str(error)) from error


def read_labels(file: Path, root: Path, paths: Sequence[Path]) -> tuple[Tensor | None, tuple[str, ...], Tensor | None]:
    """What ``file`` says of ``paths``: labels int64 (N,) or None, the classes' names, values float32 (N,) or None.

    Raises:
        DataError: as `read_metadata`.
    """
    said = read_metadata(file, root, paths)
    return said.labels, said.classes, said.values


_WORDS: Mapping[Role, str] = {
    **{"label": "labels", "value": "values to predict", "quality": "qualities"},
    **{"group": "groups", "split": "parts"},
}


def _unfit(columns: Columns, found: bool) -> bool:
    says = bool({"label", "value"} & set(columns.at) or columns.one_hot)
    return "path" not in columns.at or not (says or (found and {"split", "group"} & set(columns.at)))


def _rows(tables: Sequence[Columns], finder: ImageFinder, source: str, *, found: bool) -> tuple[Rows, list[str]]:
    rows: Rows = {}
    absent: list[str] = []
    unclear: list[str] = []
    for columns in tables:
        folders = (columns.table.file.parent, finder.root) if found else (finder.root, columns.table.file.parent)
        for where, row in columns.table.rows:
            cell = row[columns.at["path"]]
            text = cell if isinstance(cell, str) else one_text(cell) or ""
            try:
                image = finder.find(text, folders, where)
            except DataError as error:
                if not found:
                    raise
                unclear.append(str(error))
                continue
            if image is None:
                absent.append(brief(text))
            else:
                rows.setdefault(image, []).append((where, text, columns.cells(row)))
    notes = []
    if absent:
        shown = f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        if not found:
            raise DataError(f"{source}: {len(absent)} of its images do not exist below {finder.root}: {shown}")
        notes.append(f"rows of {source} that name no image below {finder.root}: {len(absent)} ({shown})")
    if unclear:
        notes.append(f"rows of {source} left out: {len(unclear)}, the first: {unclear[0]}")
    if finder.by_name:
        notes.append(f"rows of {source} that name their image without its folders or ending: {finder.by_name}")
    return rows, notes


def _read(
    tables: Sequence[Columns], told: Told, images: int, root: Path, source: str, notes: list[str], *, found: bool
) -> Metadata:
    taken: list[str] = []
    used = {name for table in tables for name in table.names("path")}

    def take(role: Role) -> bool:
        names = dict.fromkeys(name for table in tables for name in table.names(role))
        if names and told.any_row:
            taken.append(f"{_WORDS[role]} from column{'s' * (len(names) > 1)} {', '.join(names)}")
            used.update(names)
        return bool(names) and told.any_row

    labels = values = groups = splits = None
    classes: tuple[str, ...] = ()
    if take("label"):
        labels, classes = told.classes(taken[-1].rpartition(" from ")[2], notes)
        labels = labels if classes or not found else None
    commas = any(columns.table.decimal_comma for columns in tables)
    if take("value"):
        values = told.numbers("value", commas)
    if take("quality"):
        values = told.numbers("quality", commas)
    if take("group"):
        groups = told.groups()
    if take("split"):
        splits = told.parts()
        if splits is None:
            notes.append(f"no {taken.pop()}, which holds the name of none: {PART_NAMES}")
        else:
            without = are(splits, "unlabeled")
            if labels is not None and bool((without & (labels >= 0)).any()):
                notes.append(
                    f"labels of images in the part unlabeled, left out: {int((without & (labels >= 0)).sum())}"
                )
                labels = torch.where(without, -1, labels)
    nothing = (labels is None or not (labels >= 0).any()) and (values is None or not values.isfinite().any())
    if nothing and not found:
        raise DataError(f"{source} says nothing of the {images} images below {root}; its paths are relative to that")
    columns = tuple(dict.fromkeys(name for table in tables for name in table.table.columns))
    ignored = [name or "one without a name" for name in columns if name not in used]
    first = f"{', '.join(taken) or 'nothing taken'}, of {source}"
    first += f"; columns not used: {', '.join(ignored)}" if ignored else ""
    return Metadata(
        labels=labels,
        classes=classes,
        values=values,
        groups=groups,
        splits=splits,
        notes=tuple(brief(note, 1000) for note in (first, *notes)),
    )
