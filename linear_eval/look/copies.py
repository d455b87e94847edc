"""Groups of near-duplicates in a set: the same shot again, as it is or re-encoded, resized, brighter, moved by a little.

What makes two images copies is their pixels (``simclr/data/copy_pairs.py``). The encoder says which may be mirrored or cropped
copies: those that it puts much nearer to one another than to all others.
"""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from linear_eval.look.neighbours import nearest_rows
from linear_eval.look.prints import fingerprints_of
from linear_eval.look.seen import Seen
from linear_eval.progress import default_device
from simclr.data.copy_pairs import copy_pairs

__all__ = ["CopyGroup", "copies", "group_numbers"]

_NEAREST, _COMPARED, _RATIO = 8, 3, 0.5
"""Of each image's nearest under the encoder the first few are compared with it mirrored and cropped as well, where they are
nearer than half as far as the last."""


@dataclass(frozen=True, kw_only=True)
class CopyGroup:
    """Images that are copies of one another."""

    rows: tuple[int, ...]
    """Of ``Seen``, rising."""

    agreement: float
    """How much the two of its pairs agree that agree least: from 16, where copies begin; of equal files it is 100 or so."""

    parts: tuple[str, ...]
    """The parts that they are in, in order; more than one where a test image is known from training."""

    labels: tuple[str, ...]
    """The classes that they are in; more than one where a label is wrong."""

    @property
    def crosses(self) -> bool:
        """Whether it is in several parts."""
        return len(self.parts) > 1


def copies(seen: Seen) -> list[CopyGroup]:
    """Groups of near-duplicates among all images, the surest first.

    Args:
        seen: the images.

    Raises:
        DataError: images that do not decode.
    """
    pairs, agreement = _pairs(seen)
    number = _joined(len(seen), pairs)
    weakest: dict[int, float] = {}
    for group, value in zip(number[pairs[:, 0]].tolist(), agreement.tolist(), strict=True):
        weakest[group] = min(value, weakest.get(group, value))
    members: dict[int, list[int]] = {group: [] for group in weakest}
    for row in (number >= 0).nonzero().flatten().tolist():
        members[int(number[row])].append(row)
    groups = [
        CopyGroup(
            rows=tuple(rows),
            agreement=weakest[group],
            parts=tuple(part for part in ("train", "validation", "test") if part in {seen.part(row) for row in rows}),
            labels=tuple(sorted({seen.label(row) for row in rows if int(seen.y[row]) >= 0})),
        )
        for group, rows in members.items()
    ]
    return sorted(groups, key=lambda one: (-one.agreement, one.rows))


def group_numbers(seen: Seen) -> Tensor:
    """(N,) int64: the number of the group of copies that each image is in, -1 for none."""
    return _joined(len(seen), _pairs(seen)[0])


_FOUND: "weakref.WeakKeyDictionary[Seen, tuple[Tensor, Tensor]]" = weakref.WeakKeyDictionary()
"""Of images that are looked at: copies are asked for themselves, and again where surprising labels are."""


def _pairs(seen: Seen) -> tuple[Tensor, Tensor]:
    if seen not in _FOUND:
        _FOUND[seen] = _compared(seen)
    return _FOUND[seen]


def _compared(seen: Seen) -> tuple[Tensor, Tensor]:
    """Pairs (M, 2) int64 of rows that are copies, and how much each agrees (M,)."""
    if len(seen) < 2:
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0)
    prints = fingerprints_of(seen)
    cosines, near = nearest_rows(seen.x, k=_NEAREST)
    # Copies are much nearer than the others of an image's neighbourhood, however wide that is (Lowe 2004 has the ratio).
    distance = 1 - cosines
    close = distance[:, :_COMPARED] < _RATIO * distance[:, -1:]
    which, place = close.nonzero(as_tuple=True)
    return copy_pairs(prints, torch.stack([which, near[which, place]], 1), default_device())


def _joined(count: int, pairs: Tensor) -> Tensor:
    """(count,) int64: what is joined by ``pairs`` (M, 2) has one number, the lowest row's; -1 of what is in no pair."""
    above = list(range(count))

    def top(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for first, second in pairs.tolist():
        low, high = sorted((top(first), top(second)))
        above[high] = low
    number = torch.full((count,), -1)
    for row in pairs.flatten().unique().tolist():
        number[row] = top(row)
    return number
