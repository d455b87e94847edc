"""The columns of a table about images: which is which by its name, and what its cells are as numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from simclr.data.metadata_columns import Role, names_of
from simclr.data.metadata_table import plain
from simclr.data.packed.table import numbered
from simclr.errors import DataError

__all__ = ["codes_of", "columns_of_splits", "labels_of", "named_column", "numbers_of"]


def columns_of_splits(splits: Mapping[str, Any]) -> list[str]:
    """The names of the columns, which all splits share."""
    first = next(iter(splits.values()))
    return list(first.column_names)


def named_column(splits: Mapping[str, Any], role: Role, own: str | None, names: Sequence[str] = ()) -> str | None:
    """The column of a role: ``own``, or the first of the known names that is there; None without one."""
    columns = columns_of_splits(splits)
    if own is not None:
        return own if own in columns else None
    of_plain = {plain(name): name for name in reversed(columns)}
    return next((of_plain[name] for name in names or names_of(role) if name in of_plain), None)


def labels_of(
    splits: Mapping[str, Any], column: str, text: str
) -> tuple[tuple[Tensor, tuple[str, ...]] | None, Tensor | None]:
    """Labels and their names, as ``Table`` has them; or numbers to predict, float32 (N,).

    Raises:
        DataError: cells of several values.
    """
    first = next(iter(splits.values()))
    kind = first.data.column(column).type
    if pa.types.is_floating(kind):
        numbers = np.concatenate([numbers_of(split, column) for split in splits.values()])
        whole = numbers[np.isfinite(numbers)]
        if len(whole) and not (whole == np.round(whole)).all():
            return None, torch.from_numpy(numbers.astype(np.float32))
    names = getattr(first.features[column], "names", None)
    if names:
        codes = np.concatenate([numbers_of(split, column, -1) for split in splits.values()])
        labels = torch.from_numpy(codes.astype(np.int64))
        return (torch.where(labels < 0, -1, labels), tuple(map(str, names))), None
    scalar = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
    )
    if not any(is_such(kind) for is_such in scalar):
        raise DataError(
            f"column {column} of {text} holds {kind}; expected one whole number, text or float an image; --data.labels none "
            "leaves it out"
        )
    codes, texts = codes_of(splits, column)
    return numbered(codes, texts), None


def numbers_of(split: Any, column: str, missing: float = float("nan")) -> np.ndarray:
    """The numbers in a column of one split, (M,), with ``missing`` where a cell is empty."""
    cells = split.data.column(column)
    if cells.null_count:
        cells = cells.cast(pa.float64()).fill_null(missing)
    return np.asarray(cells.to_numpy())


def codes_of(splits: Mapping[str, Any], column: str) -> tuple[np.ndarray, list[str]]:
    """The cells of a column as numbers (N,), -1 for none, and the text of each number; NaN and numbers below 0 are none."""
    cells = pa.chunked_array([chunk for split in splits.values() for chunk in split.data.column(column).chunks])
    coded = cells.dictionary_encode().unify_dictionaries().combine_chunks()
    coded = coded if isinstance(coded, pa.Array) else coded.chunk(0)
    values = coded.dictionary.to_pylist()
    texts = [_text(value) for value in values]
    names = list(dict.fromkeys(text for text in texts if text is not None))
    to = np.array([*(-1 if text is None else names.index(text) for text in texts), -1])
    return to[coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)], names


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, int | float) and not value >= 0):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip() or None
