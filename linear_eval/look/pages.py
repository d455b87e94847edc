"""What was found in a set, as contact sheets and as tables of all of it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from linear_eval.features.tables import write_table
from linear_eval.look.copies import CopyGroup
from linear_eval.look.seen import Seen
from linear_eval.look.sheet import RIGHT, WRONG, Tile, draw_sheet
from linear_eval.look.surprising import Surprise
from linear_eval.look.thumbnails import picture_of

__all__ = [
    "copies_sheet",
    "copies_table",
    "drawn_rows",
    "neighbours_sheet",
    "share_alike",
    "surprising_sheet",
    "surprising_table",
]

_SIDE = 160
"""Pixels of a picture."""

_ACROSS = 6
"""Pictures that a phone shows side by side."""

_GROUPS = 24
"""Of copies on a sheet, and images of a group in its row."""
_MEMBERS = 4


def neighbours_sheet(
    path: Path,
    title: str,
    seen: Seen,
    asked: Sequence[tuple[Image.Image | None, tuple[str, ...], int]],
    cosines: Tensor,
    rows: Tensor,
    note: str = "",
) -> Path:
    """Each image that was ``asked`` for (picture, words, label or -1), and those at ``rows`` (Q, k), the nearest first.

    A frame tells whether one is of the same class, where both have a label.
    """
    lines: list[list[Tile]] = []
    for (picture, words, label), near, found in zip(asked, cosines.tolist(), rows.tolist(), strict=True):
        tiles = [
            Tile(
                picture=picture_of(seen.images, row, _SIDE),
                words=(_with(f"{cosine:.3f}", seen.label(row)), _tail(seen.names[row])),
                colour=None if label < 0 or int(seen.y[row]) < 0 else RIGHT if int(seen.y[row]) == label else WRONG,
            )
            for cosine, row in zip(near, found, strict=True)
        ]
        first = Tile(picture=picture, words=words)
        for start in range(0, max(1, len(tiles)), _ACROSS):
            lines.append([first if start == 0 else Tile(), *tiles[start : start + _ACROSS]])
    return draw_sheet(path, title, lines, note=note)


def copies_sheet(path: Path, seen: Seen, groups: Sequence[CopyGroup]) -> Path:
    """The first groups of copies, a row each."""
    shown = groups[:_GROUPS]
    lines = []
    for group in shown:
        tiles = []
        for place, row in enumerate(group.rows[:_MEMBERS]):
            more = len(group.rows) - _MEMBERS if place == _MEMBERS - 1 else 0
            tiles.append(
                Tile(
                    picture=picture_of(seen.images, row, _SIDE),
                    words=(
                        _with(seen.part(row), seen.label(row)),
                        _tail(seen.names[row]),
                        f"and {more} more" if more > 0 else "",
                    ),
                    colour=WRONG if group.crosses or len(group.labels) > 1 else None,
                )
            )
        lines.append(tiles)
    some = f"the first {len(shown)} of {len(groups)}" if len(groups) > len(shown) else f"{len(groups)}"
    return draw_sheet(
        path,
        f"{some} groups of near-duplicates",
        lines,
        note="a row is a group; orange: in several parts or classes, which makes a score or a label wrong",
    )


def copies_table(path: Path, seen: Seen, groups: Sequence[CopyGroup]) -> Path:
    """All groups: a line an image."""
    rows = [(number, row, group) for number, group in enumerate(groups) for row in group.rows]
    write_table(
        path,
        {
            "group": [str(number) for number, _, _ in rows],
            "path": [seen.names[row] for _, row, _ in rows],
            "part": [seen.part(row) for _, row, _ in rows],
            "label": [seen.label(row) or None for _, row, _ in rows],
            "agreement": [group.agreement for _, _, group in rows],
        },
    )
    return path


def surprising_sheet(path: Path, seen: Seen, found: Sequence[Surprise]) -> Path:
    """Images that are likely mislabelled, the likeliest first, with what they are called and what they look like."""
    tiles = [
        Tile(
            picture=picture_of(seen.images, one.row, _SIDE),
            words=(
                f"is {seen.name_of(one.given)}?",
                f"{seen.name_of(one.said)} {100 * one.confidence:.0f} %",
                _tail(seen.names[one.row]),
            ),
        )
        for one in found
    ]
    lines = [tiles[start : start + _ACROSS] for start in range(0, len(tiles), _ACROSS)]
    return draw_sheet(
        path,
        f"{len(found)} images whose label surprises",
        lines,
        note="the label, and what a probe of the other images and the nearest say; the likeliest wrong label first",
    )


def surprising_table(path: Path, seen: Seen, found: Sequence[Surprise]) -> Path:
    """The same as a table."""
    write_table(
        path,
        {
            "path": [seen.names[one.row] for one in found],
            "part": [seen.part(one.row) for one in found],
            "label": [seen.name_of(one.given) for one in found],
            "said": [seen.name_of(one.said) for one in found],
            "confidence": [one.confidence for one in found],
            "neighbours": [one.neighbours for one in found],
        },
    )
    return path


def share_alike(seen: Seen, asked: Tensor, rows: Tensor) -> float | None:
    """Share of the neighbours ``rows`` (Q, k) of images ``asked`` (Q,) that are of the same class; None without labels."""
    mine, theirs = seen.y[asked][:, None], seen.y[rows]
    both = (mine >= 0) & (theirs >= 0)
    return float(((mine == theirs) & both).sum() / both.sum()) if both.any() else None


def drawn_rows(seen: Seen, count: int, seed: int = 0) -> Tensor:
    """(count,) int64: images drawn so that every class has as many as another, in the order of their classes."""
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))
    turn: dict[int, int] = {}
    keys = list[tuple[int, int, int]]()
    for row in order.tolist():
        label = int(seen.y[row])
        turn[label] = turn.get(label, 0) + 1
        keys.append((turn[label], len(keys), row))
    rows = torch.tensor([row for _, _, row in sorted(keys)[:count]])
    return rows[seen.y[rows].argsort(stable=True)]


def _with(first: str, second: str) -> str:
    return f"{first}  {second}" if second else first


def _tail(name: str) -> str:
    return PurePosixPath(name).name
