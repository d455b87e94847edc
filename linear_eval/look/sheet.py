"""Contact sheets: rows of pictures with a few words under each, as a PNG that a phone can show."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from simclr.files import atomically
from simclr.names import drawn, legible, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RIGHT", "WRONG", "Tile", "draw_sheet"]

RIGHT, WRONG = "#1f6f8b", "#d1603d"
"""Blue and orange, which everybody tells apart."""

INK, FAINT = "#222222", "#666666"
_SIDE = 1.35
"""Inches of a picture; 160 px of the file."""
_GAP = 0.12
_LINE = 0.14
_LETTERS = 22
"""Of a line under a picture."""
_DPI = 120

_FEW_PIXELS = 48
"""Of an image's longer side, up to which its pixels are drawn as squares."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A picture of a sheet."""

    picture: Image.Image | None = None
    """None where there is none to show."""

    words: tuple[str, ...] = ()
    """Lines under it; a tile without words and picture is a gap."""

    colour: str | None = None
    """Of its frame."""


def draw_sheet(path: Path, title: str, rows: Sequence[Sequence[Tile]], *, note: str = "") -> Path:
    """Write ``rows`` of tiles to ``path``.

    Args:
        path: a PNG; one that is there is replaced.
        title: above it all.
        rows: from the top.
        note: in small letters below the title.

    Raises:
        CheckpointError: the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = max(4, *map(len, rows))
    tall = _SIDE + _LINE * max(len(tile.words) for row in rows for tile in row) + 0.16
    width = across * (_SIDE + _GAP) + 0.2
    said = [*_wrapped(title, int(width * 10.5)), ""]
    small = _wrapped(note, int(width * 16)) if note else []
    head = 0.2 * (len(said) - 1) + 0.15 * len(small) + 0.25
    height = len(rows) * tall + head + 0.05
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    y = height - 0.1
    for lines, size, step, colour in ((said[:-1], 11, 0.2, INK), (small, 7.5, 0.15, FAINT)):
        for line in lines:
            figure.text(0.1 / width, y / height, drawn(line), ha="left", va="top", fontsize=size, color=colour)
            y -= step
    for i, row in enumerate(rows):
        top = height - head - i * tall
        for j, tile in enumerate(row):
            if tile.picture is not None or tile.words:
                left = 0.1 + j * (_SIDE + _GAP)
                axes = figure.add_axes((left / width, (top - _SIDE) / height, _SIDE / width, _SIDE / height))
                _draw(axes, tile)
    legible(figure)
    atomically(path, lambda file: figure.savefig(file, format="png", dpi=_DPI, facecolor="white"))
    return path


def _wrapped(text: str, most: int) -> list[str]:
    return textwrap.wrap(printable(text), most, break_long_words=True) or [""]


def _draw(axes: "Axes", tile: Tile) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(tile.colour or "#dddddd")
        spine.set_linewidth(2.5 if tile.colour else 0.6)
    if tile.picture is not None:
        longest = max(tile.picture.size)
        across, down = (side / longest / 2 for side in tile.picture.size)
        extent = (0.5 - across, 0.5 + across, 0.5 - down, 0.5 + down)
        shown = "nearest" if longest <= _FEW_PIXELS else "antialiased"
        axes.imshow(np.asarray(tile.picture), extent=extent, aspect="auto", interpolation=shown)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for number, words in enumerate(tile.words):
        y, colour = -0.03 - number * _LINE / _SIDE, INK if number == 0 else FAINT
        axes.text(
            0, y, drawn(words, _LETTERS), ha="left", va="top", fontsize=7.5, color=colour, transform=axes.transAxes
        )
