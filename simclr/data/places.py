"""Where each of very many images is: rows of one long list that all parts of a set share, and that nobody copies.

>>> letters = "abcdef"
>>> part = chosen(letters, torch.tensor([4, 0, 2]))
>>> list(part), list(chosen(part, torch.tensor([2, 1]))), "".join(joined(part, part))
(['e', 'a', 'c'], ['c', 'a'], 'eaceac')
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeVar, overload

import torch
from torch import Tensor

__all__ = ["Chosen", "chosen", "joined"]

Item = TypeVar("Item")


class Chosen(Sequence[Item]):
    """The items of ``items`` at ``rows``, int64 (M,), in that order; each is looked up when it is asked for."""

    def __init__(self, items: Sequence[Item], rows: Tensor) -> None:
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Chosen[Item]": ...
    def __getitem__(self, index: int | slice) -> "Item | Chosen[Item]":
        if isinstance(index, slice):
            return Chosen(self.items, self.rows[torch.arange(len(self))[index]])
        return self.items[int(self.rows[index])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list, which is compared item by item

    def __iter__(self) -> Iterator[Item]:
        for part in self.rows.split(65_536):
            for row in part.tolist():
                yield self.items[row]


class _Chained(Sequence[Item]):
    """The items of one list and then those of the next."""

    def __init__(self, *parts: Sequence[Item]) -> None:
        self.parts, self.ends = parts, list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return Chosen(self, torch.arange(len(self))[index])
        index = range(len(self))[index]
        part = bisect_right(self.ends, index)
        return self.parts[part][index - self.ends[part] + len(self.parts[part])]


def chosen(items: Sequence[Item], rows: Tensor) -> Sequence[Item]:
    """The items at ``rows``, int64 (M,): a tuple of a tuple, and of a longer list a view on the list itself."""
    if isinstance(items, tuple):
        return tuple(items[row] for row in rows.tolist())
    return Chosen(items.items, items.rows[rows]) if isinstance(items, Chosen) else Chosen(items, rows)


def joined(first: Sequence[Item], second: Sequence[Item]) -> Sequence[Item]:
    """The items of both, one after the other."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return first + second
    if isinstance(first, Chosen) and isinstance(second, Chosen) and first.items is second.items:
        return Chosen(first.items, torch.cat([first.rows, second.rows]))
    return _Chained(first, second)
