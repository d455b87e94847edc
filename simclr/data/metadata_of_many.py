"""Metadata of very many images: columns instead of rows, in which a row says something of one image and no two of the same.

What is read here is what is read row by row (`simclr.data.metadata`). Where a file is not that simple, it is left to that: rows
whose image is not there, several rows of an image, a mistake, whose line a message has to name.
"""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simclr.data.class_cells import Said, classes_of_cells, in_order, one_text
from simclr.data.file_list import FileList, Numbers, backing
from simclr.data.metadata_cells import number_in, parts_in
from simclr.data.metadata_columns import Columns, Role, columns_of
from simclr.data.open_columns import NotSimpleError, open_columns
from simclr.data.part_names import PARTS, PartName
from simclr.data.places import Chosen
from simclr.data.rows_of_images import ImageFinder
from simclr.errors import DataError

__all__ = ["MANY", "told_by_columns"]

MANY = 100_000
"""Images, or bytes / 100 of the file, from which it is worth it."""

_PART = 1 << 18

_MOST_CELLS = 1_000_000
"""Different cells of a column that are read one by one."""

_ELSEWHERE = -1


def told_by_columns(
    files: Sequence[Path], root: Path, paths: Sequence[Path], group: str | None, *, found: bool, only_groups: bool
) -> tuple[Columns, "ToldColumns"] | None:
    """The columns of one metadata file and what it says of ``paths``; None where it is to be read row by row.

    Arguments are those of `simclr.data.metadata.read_metadata`.
    """
    of = paths.items if isinstance(paths, Chosen) else paths
    if len(files) != 1 or not isinstance(of, FileList) or of.linked:
        return None
    import pyarrow as pa

    try:
        if len(paths) < MANY and files[0].stat().st_size < 100 * MANY:
            return None
        table, read = open_columns(files[0])
        columns = columns_of(table, group)
        if only_groups:
            columns = columns.only(("path", "group"))
        elif not {"label", "value"} & set(columns.at) and len(columns.at) < len(table.columns):
            return None  # a column a class, perhaps
        if "path" not in columns.at or len(columns.at) < 2 or (not found and not {"label", "value"} & set(columns.at)):
            return None
        cells = read(sorted(columns.at.values()))
        told = ToldColumns({role: cells[at] for role, at in columns.at.items() if role != "path"}, len(paths))
        told.match(cells[columns.at["path"]], *backing(paths, root), root, files[0], found)
        told.try_all(f"column {' '.join(columns.names('label'))}", table.decimal_comma)
    except (OSError, ValueError, KeyError, TypeError, DataError, csv.Error, pa.ArrowException, NotSimpleError):
        return None
    return columns, told


class ToldColumns:
    """What columns say of N images, see `simclr.data.metadata_told.Told`.

    Args:
        cells: pyarrow's chunked array of each role.
        images: how many there are.
    """

    any_row = True

    def __init__(self, cells: dict[Role, Any], images: int) -> None:
        self.cells, self.images = cells, images
        self.at = np.empty(0, np.int64)
        """int64 (R,), the image of each row; -1 for images elsewhere in the set."""
        self._known: npt.NDArray[np.bool_] | None = None

    def match(self, texts: Any, files: FileList, rows: Numbers, root: Path, file: Path, found: bool) -> None:
        """Find the image of each row."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(texts) or np.bincount(rows).max() > 1:  # pages of one file
            raise NotSimpleError
        folders = (file.parent, root) if found else (root, file.parent)
        real_root, first = os.path.realpath(root), os.path.realpath(folders[0])
        if first != real_root and not first.startswith(real_root + os.sep):
            raise NotSimpleError
        below = os.path.relpath(first, real_root).replace(os.sep, "/")
        before = b"" if first == real_root else f"{below}/".encode()
        kind = pa.large_binary()

        def named(chunk: Any) -> Any:
            trimmed = pc.utf8_trim_whitespace(chunk).cast(kind)
            return pc.binary_join_element_wise(pa.scalar(before, kind), trimmed, pa.scalar(b"", kind))

        self.at = files.rows_named(map(named, _chunks(texts)), rows)
        self._find_others(texts, files, rows, ImageFinder(root, ()), folders)
        if len(here := self.at[self.at >= 0]) and np.bincount(here).max() > 1:
            raise NotSimpleError

    def _find_others(
        self, texts: Any, files: FileList, rows: Numbers, finder: ImageFinder, folders: Sequence[Path]
    ) -> None:
        """The images of rows that write their path in another way."""
        missed = np.flatnonzero(self.at == _ELSEWHERE)
        if not len(missed):
            return
        elsewhere: set[Path] = set()
        root, names, places = os.path.realpath(finder.root), [], []
        for row in missed.tolist():
            image = _file(texts[row].as_py() or "", finder, folders)
            if image in elsewhere:
                raise NotSimpleError
            if image.is_relative_to(root):
                names.append(os.path.split(image.relative_to(root).as_posix()))
                places.append(row)
            elsewhere.add(image)
        found = files.rows_of(FileList.named(names, Path()))
        number = np.full(len(files) + 1, _ELSEWHERE)
        number[rows] = np.arange(len(rows))
        self.at[places] = number[found]

    def try_all(self, label: str, commas: bool) -> None:
        """Raise what any column holds that is no answer; ``label`` is what messages call that of labels."""
        if "label" in self.cells:
            self.classes(label, [])
        roles: tuple[Role, ...] = ("value", "quality")
        for role in roles:
            if role in self.cells:
                self.numbers(role, commas)
        if "split" in self.cells:
            self.parts()

    def _words(self, role: Role) -> tuple[list[Any], Numbers]:
        """The different cells of a column in the order in which they come, and the number of each row's: int64 (R,)."""
        import pyarrow as pa

        column = self.cells[role]
        column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        if pa.types.is_nested(column.type):
            raise NotSimpleError
        coded = pa.chunked_array([column.combine_chunks()] if column.num_chunks else [], column.type)
        coded = coded.dictionary_encode(null_encoding="encode").combine_chunks()
        coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
        return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)

    def _placed(self, told: npt.NDArray[Any], nothing: Any) -> Tensor:
        """What each row says, as said of the images."""
        of = np.full(self.images, nothing, dtype=told.dtype)
        here = self.at >= 0
        of[self.at[here]] = told[here]
        return torch.from_numpy(of)

    def classes(self, column: str, notes: list[str]) -> tuple[Tensor, tuple[str, ...]]:
        """See `Told`."""
        cells, of = self._words("label")
        names = classes_of_cells(cells, np.bincount(of, minlength=len(cells)).tolist(), column, notes)
        classes = in_order({name for name in names if name is not None})
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([-1 if name is None else number[name] for name in names], dtype=np.int64)[of]
        self._known = labels >= 0
        return self._placed(labels, -1), classes

    def numbers(self, role: Role, commas: bool) -> Tensor:
        """See `Told`."""
        wanted = np.ones(len(self.at), dtype=bool) if role == "value" or self._known is None else self._known
        found = None if commas else _floats(self.cells[role])
        if found is None:
            cells, of = self._words(role)
            if len(cells) > _MOST_CELLS:
                raise NotSimpleError
            used = np.bincount(of[wanted], minlength=len(cells)) > 0
            told = [number_in(Said("", "", cell), role, commas) if used[i] else None for i, cell in enumerate(cells)]
            found = np.array([math.nan if value is None else value for value in told], dtype=np.float64)[of]
        found = np.where(wanted, found, math.nan)
        if np.isinf(found).any() or (role == "quality" and not ((found >= 0) & (found <= 1) | ~wanted).all()):
            raise NotSimpleError
        return self._placed(found.astype(np.float32), math.nan)

    def groups(self) -> Tensor:
        """See `Told`."""
        cells, of = self._words("group")
        number: dict[str, int] = {}
        names = [one_text(cell) for cell in cells]
        groups = np.array([-1 if name is None else number.setdefault(name, len(number)) for name in names], np.int64)
        return self._placed(groups[of], -1)

    def parts(self) -> Sequence[PartName | None] | None:
        """See `Told`."""
        cells, of = self._words("split")
        found = parts_in({Path(str(i)): [Said("", "", cell)] for i, cell in enumerate(cells)})
        if found is None:
            return None
        names: tuple[PartName | None, ...] = (*PARTS, None)
        codes = np.array([names.index(part) for part in found.values()], dtype=np.int64)[of]
        return Chosen(names, self._placed(codes, len(names) - 1))


def _chunks(column: Any) -> Any:
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise NotSimpleError
    return (chunk.slice(begin, _PART) for chunk in column.chunks for begin in range(0, len(chunk), _PART))


def _file(text: str, finder: ImageFinder, folders: Sequence[Path]) -> Path:
    """The file that a cell names, as ``ImageFinder.find`` looks for it."""
    written = text.strip()
    if not written or "\0" in written:
        raise NotSimpleError
    for spelling in dict.fromkeys((written, text, written.replace("\\", "/"))):
        for folder in folders:
            image = finder.real(os.path.join(folder, spelling))  # noqa: PTH118 - for speed
            if os.path.isfile(image):  # noqa: PTH113
                return image
    raise NotSimpleError


def _floats(column: Any) -> npt.NDArray[np.float64] | None:
    """The numbers of a column, NaN where it says nothing; None where it is not that simple."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = pc.utf8_trim_whitespace(column)
        try:
            column = pc.if_else(pc.equal(texts, ""), pa.scalar(None, kind), texts).cast(pa.float64())
        except pa.ArrowInvalid:
            return None
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    found: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return found
