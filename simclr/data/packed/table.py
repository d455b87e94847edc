"""A table of images, however they are stored, and what is said of each."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr.config.data import DataConfig
from simclr.data.class_cells import in_order
from simclr.data.packed.scan import Asked
from simclr.data.rows import Store

__all__ = ["Table", "asked_for", "numbered", "numbers_among", "some"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """N images and what is said of each."""

    store: Store

    keys: Callable[[], Iterable[str]]
    """The name of each image, for a pattern of groups and for its folders."""

    lengths: Callable[[], np.ndarray]
    """Bytes of each image's file, int64 (N,), to tell another set by."""

    files: Mapping[str, int]
    """Images by the name of their shard, or of their split."""

    labels: tuple[Tensor, tuple[str, ...]] | None = None
    """int64 (N,), -1 where there is none, and the name of each number."""

    values: Tensor | None = None
    """float32 (N,), NaN where there is none."""

    groups: Tensor | None = None
    """int64 (N,), -1 for a group of its own."""

    splits: tuple[np.ndarray, list[str]] | None = None
    """The number of each image's split (N,), -1 for none, and their names as the data has them."""

    notes: list[str] = field(default_factory=list)

    near: Tensor | None = None
    """The numbers, rising, of the images that can be looked at without fetching many others; None for all."""

    faults: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with each damaged shard or file, by its name."""

    sums: Mapping[str, str] = field(default_factory=dict)
    """The check sum (SHA-256) that each local file should have, where somebody says so."""


def some(words: Sequence[str]) -> str:
    """The first of what is wrong, and how much more there is."""
    return "; ".join(words[:8]) + (f"; and {len(words) - 8} more" if len(words) > 8 else "")


def asked_for(config: DataConfig) -> Asked:
    """The names of the columns, keys or endings that ``data.labels`` and ``data.group`` give."""
    label = str(config.labels) if isinstance(config.labels, Path) else None
    # What is no name can only be a pattern on the key.
    group = config.group if config.group is not None and re.fullmatch(r"[\w.\- ]+", config.group) else None
    return Asked(label, group)


def numbered(codes: np.ndarray, names: Sequence[str], order: Sequence[str] = ()) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (N,) as numbers of ``names``, renumbered in ``order``, or where that lacks one as numbers or texts are sorted.

    >>> numbered(np.array([0, 1, -1, 2]), ["10", "9", "8"])
    (tensor([ 2,  1, -1,  0]), ('8', '9', '10'))
    """
    classes = tuple(order) if set(names) <= set(order) else in_order(set(names))
    number = {name: i for i, name in enumerate(classes)}
    to = torch.tensor([*(number[name] for name in names), -1])
    return to[torch.from_numpy(codes.astype(np.int64))], classes


def numbers_among(names: Sequence[str]) -> Tensor | None:
    """The names of labels as numbers to predict, float32 (C + 1,), NaN behind them; None where they are classes.

    >>> numbers_among(["0", "0.5"]), numbers_among(["0", "7"]), numbers_among(["0.5", "owl"])
    (tensor([0.0000, 0.5000,    nan]), None, None)
    """
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return None
    return None if all(number.is_integer() for number in numbers) else torch.tensor([*numbers, float("nan")])
