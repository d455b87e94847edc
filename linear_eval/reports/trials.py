"""A picture of one-shot trials: each query, the images to choose from, which was chosen and which was right."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from simclr.data import ImageSet
from simclr.data.channels import shown_bands
from simclr.files import AGAIN, atomically, refused
from simclr.names import drawn, legible, shortened

__all__ = ["ShownTrial", "ShownTrials", "draw_trials"]

MOST, MOST_WAYS = 8, 20
"""Trials in a picture, and images to choose from of each."""

SIDE, GAP, FRAME, LABEL, DPI = 40, 3, 3, 130, 150
"""Pixels of an image's side, between two images, of a frame, and of the words before a trial."""

RIGHT, WRONG, NONE = (31, 111, 139), (209, 96, 61), (225, 225, 225)


@dataclass(frozen=True)
class ShownTrial:
    """One query."""

    label: str
    query: int
    candidates: Tensor
    answer: int


@dataclass(frozen=True)
class ShownTrials:
    """Trials of one set of images, and what an encoder answered."""

    name: str
    images: ImageSet
    trials: list[ShownTrial]
    chosen: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    hits: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))


def draw_trials(shown: ShownTrials, path: Path) -> Path:
    """Up to 8 trials, wrong ones first, evenly taken from all of them: the query, then what there was to choose from.

    Blue is the right image, orange the one that was chosen in its place. Of more than 20 candidates others are left out.

    Raises:
        CheckpointError: the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrong = _evenly((~shown.hits).nonzero().flatten().tolist(), MOST)
    picked = wrong + _evenly(shown.hits.nonzero().flatten().tolist(), MOST - len(wrong))
    rows = [_row(shown, number) for number in picked]
    width = max((row.shape[1] for row in rows), default=300)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    board = np.concatenate(rows) if rows else np.full((SIDE, width, 3), 255, dtype=np.uint8)
    height, top = len(board), 50
    figure = Figure(figsize=((LABEL + width) / DPI, (top + height) / DPI), dpi=DPI)
    axes = figure.add_axes((LABEL / (LABEL + width), 0, width / (LABEL + width), height / (top + height)))
    axes.imshow(board, interpolation="nearest", aspect="auto")
    axes.axis("off")
    each = height / max(1, len(picked))
    for place, number in enumerate(picked):
        label = drawn(shortened(shown.trials[number].label, 18))
        axes.text(-6, (place + 0.5) * each, label, ha="right", va="center", fontsize=5)
    errors = int((~shown.hits).sum())
    title = f"{drawn(shown.name, 40)}: {errors:,} of {len(shown.hits):,} wrong" if len(shown.hits) else "no trials"
    figure.text(6 / (LABEL + width), 1 - 14 / (top + height), title, fontsize=7, va="center")
    said = "first the query; blue: its class; orange: chosen instead"
    figure.text(6 / (LABEL + width), 1 - 34 / (top + height), said, fontsize=5, va="center", color="#555555")
    canvas = FigureCanvasAgg(legible(figure))
    canvas.draw()
    gray = bool((board.max(2) == board.min(2)).mean() > 0.8)  # all but the frames
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(32 if gray else 256)
    with refused(path, AGAIN):
        atomically(path, lambda file: picture.save(file, "png", optimize=True))
    return path


def _row(shown: ShownTrials, number: int) -> np.ndarray:
    """A trial as pixels (H, W, 3) uint8."""
    trial, chosen = shown.trials[number], int(shown.chosen[number])
    hit = bool(shown.hits[number])
    columns = list(range(len(trial.candidates)))
    if len(columns) > MOST_WAYS:  # the two that matter, and the first of the others
        kept = {trial.answer, chosen}
        kept |= set([column for column in columns if column not in kept][: MOST_WAYS - len(kept)])
        columns = sorted(kept)
    index = torch.cat([torch.tensor([trial.query]), trial.candidates[columns]])
    tiles = interpolate(shown_bands(shown.images.shown(index)).float(), size=(SIDE, SIDE), mode="area")
    pixels = tiles.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).round().byte().cpu().numpy()
    framed = [_framed(pixels[0], NONE), np.full((SIDE + 2 * (FRAME + GAP), 4 * GAP, 3), 255, dtype=np.uint8)]
    for column, tile in zip(columns, pixels[1:], strict=True):
        colour = RIGHT if column == trial.answer else WRONG if column == chosen and not hit else NONE
        framed.append(_framed(tile, colour))
    return np.concatenate(framed, axis=1)


def _framed(tile: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    inner = np.full((SIDE + 2 * FRAME, SIDE + 2 * FRAME, 3), colour, dtype=np.uint8)
    inner[FRAME:-FRAME, FRAME:-FRAME] = tile
    return np.pad(inner, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def _evenly(numbers: list[int], most: int) -> list[int]:
    """Up to ``most`` of ``numbers``, evenly spread."""
    if len(numbers) <= most:
        return numbers
    return [numbers[place * len(numbers) // most] for place in range(most)]
