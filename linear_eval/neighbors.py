"""Looking for alike images in a set: of some images, of a sample of all, of copies, and of labels that surprise."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from linear_eval.look.copies import copies
from linear_eval.look.neighbours import Index, check_index, nearest_rows
from linear_eval.look.pages import (
    copies_sheet,
    copies_table,
    drawn_rows,
    neighbours_sheet,
    share_alike,
    surprising_sheet,
    surprising_table,
)
from linear_eval.look.seen import Seen, look_at
from linear_eval.look.surprising import surprising
from linear_eval.look.thumbnails import picture_of
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.data.file_list import positions_of
from simclr.errors import require
from simclr.exchange.given import EncoderWords
from simclr.paths import expand_fields

__all__ = ["NeighborsOptions", "find_alike"]

_SAMPLE, _SHOWN = 12, 6
"""Images that a sheet without queries shows, and the nearest of each on it."""

_SIDE, _NAMED = 160, 20
"""Pixels of a picture, and groups or labels that are printed; the tables have all."""


@dataclass(frozen=True, kw_only=True)
class NeighborsOptions(EncoderWords):
    """What looking for alike images can be told; the images default to the run's own."""

    query: tuple[Path, ...] = ()
    """Image files to look for; without any, and without `copies` and `surprising`, a sample of the set itself."""

    copies: bool = False
    """Groups of near-duplicates: the same shot again, re-encoded, resized, brighter or moved by a little."""

    surprising: bool = False
    """Images that are likely mislabelled: a probe that was fitted on the other images is sure of another class."""

    k: int = 12
    """Nearest images of each."""

    index: Index = "exact"
    """`exact` compares with every image; `faiss`, an extra, does it in its own way."""

    out: Path | None = None
    """Folder for the contact sheets and tables; `neighbors` in the run's folder if it is not given."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images."""

    def __post_init__(self) -> None:
        expand_fields(self, "query", "out")
        require(self.k >= 1, "k", self.k, "at least 1")


def find_alike(run: ScoredRun, options: NeighborsOptions) -> Iterator[str]:
    """Look for what ``options`` ask for, write contact sheets and tables, and say what was found, line by line.

    Args:
        run: whose encoder says what is alike.
        options: what to look for.

    Raises:
        CheckpointError: no encoder there, or a disk that refuses.
        DataError: images or queries that do not decode; nothing labelled to be surprised by.
        MissingExtraError: an index that is not installed.
    """
    check_index(options.index)
    data = run.images(options.data)
    out = options.out or run.report_folder(data) / "neighbors"
    queries = _read(run, data, options.query)  # a bad one is refused before the work
    seen = look_at(run, data)
    yield seen.note
    if len(queries):
        yield from _of_queries(run, options, queries, seen, out)
    if options.copies:
        yield from _of_copies(seen, out)
    if options.surprising:
        yield from _of_labels(seen, out)
    if not (len(queries) or options.copies or options.surprising):
        yield from _of_sample(options, seen, out)


def _read(run: ScoredRun, data: DataConfig, files: tuple[Path, ...]) -> ImageSet:
    """The images to look for, each read once to see that it decodes."""
    reader = replace(run.description.reader, size=data.size)
    images = ImageSet.from_files(files, reader, labels=None, classes=(), name="queries")
    return images.resident(torch.device("cpu")) if files else images


@torch.no_grad()
def _of_queries(run: ScoredRun, options: NeighborsOptions, queries: ImageSet, seen: Seen, out: Path) -> Iterator[str]:
    assert queries.pixels is not None
    encoder = run.encoder()
    x = torch.cat([encoder(pixels[None]) for pixels in queries.pixels])  # (Q, F)
    own = torch.tensor([_row_of(seen, query) for query in options.query])
    cosines, rows = nearest_rows(seen.x, x, options.k, own=own, index=options.index)
    for query, near, found in zip(options.query, cosines.tolist(), rows.tolist(), strict=True):
        yield f"nearest to {query}, cosine and image:"
        yield from (f"  {cosine:7.4f}  {seen.names[row]}" for cosine, row in zip(near, found, strict=True))
    files = replace(queries, pixels=None)
    asked = [
        (picture_of(files, i, _SIDE), ("query", query.name), int(seen.y[own[i]]) if own[i] >= 0 else -1)
        for i, query in enumerate(options.query)
    ]
    title = f"nearest to {len(asked)} images" if len(asked) > 1 else f"nearest to {options.query[0].name}"
    yield _wrote(
        neighbours_sheet(out / "query.png", title, seen, asked, cosines, rows, note="below: the cosine, the class")
    )


def _row_of(seen: Seen, query: Path) -> int:
    """Which image of the set a file is, or -1."""
    if seen.images.paths is None:
        return -1
    file, root = os.path.realpath(query), os.path.realpath(seen.root or ".")
    if seen.root is None or not file.startswith(f"{root.rstrip(os.sep)}{os.sep}"):
        return -1
    there = str(seen.root / os.path.relpath(file, root))
    return next(iter(positions_of([there], seen.images.paths)), -1)


def _of_copies(seen: Seen, out: Path) -> Iterator[str]:
    groups = copies(seen)
    crossing = sum(group.crosses for group in groups)
    images = sum(len(group.rows) for group in groups)
    if not groups:
        yield "no near-duplicates"
        return
    yield f"{len(groups)} groups of near-duplicates, {images} images; groups in several parts: {crossing}"
    for group in groups[:_NAMED]:
        names = " = ".join(seen.names[row] for row in group.rows[:5])
        more = f" = {len(group.rows) - 5} more" if len(group.rows) > 5 else ""
        yield f"  {'(' + ', '.join(group.parts) + ') ' if group.crosses else ''}{names}{more}"
    if len(groups) > _NAMED:
        yield f"  and {len(groups) - _NAMED} more, which the table has"
    yield _wrote(copies_sheet(out / "copies.png", seen, groups))
    yield _wrote(copies_table(out / "copies.csv", seen, groups))


def _of_labels(seen: Seen, out: Path) -> Iterator[str]:
    found = surprising(seen)
    if not found:
        yield "no label surprises: the probe says of every image what it is called"
        return
    yield f"{len(found)} labels that surprise, the likeliest wrong one first: label, what a probe and the nearest say, image:"
    for one in found[:_NAMED]:
        said = f"{seen.name_of(one.said)} {100 * one.confidence:.0f} %"
        yield f"  {seen.name_of(one.given)} -> {said}  {seen.names[one.row]}"
    if len(found) > _NAMED:
        yield f"  and {len(found) - _NAMED} more, which the sheet and the table have"
    yield _wrote(surprising_sheet(out / "surprising.png", seen, found))
    yield _wrote(surprising_table(out / "surprising.csv", seen, found))


def _of_sample(options: NeighborsOptions, seen: Seen, out: Path) -> Iterator[str]:
    drawn = drawn_rows(seen, _SAMPLE)
    cosines, rows = nearest_rows(seen.x, seen.x[drawn], options.k, own=drawn, index=options.index)
    share = share_alike(seen, drawn, rows[:, :_SHOWN])
    note = (
        "" if share is None else f"blue: the same class, orange: another one; {100 * share:.0f} % are of the same class"
    )
    asked = [
        (
            picture_of(seen.images, row, _SIDE),
            (seen.label(row) or "image", Path(seen.names[row]).name),
            int(seen.y[row]),
        )
        for row in drawn.tolist()
    ]
    yield f"{len(drawn)} images, drawn evenly from the classes, and the {_SHOWN} nearest of each" + (
        "" if share is None else f": {100 * share:.0f} % are of the same class"
    )
    title = f"{len(drawn)} images of {Path(seen.images.name).name}, and the nearest of each"
    yield _wrote(
        neighbours_sheet(out / "sample.png", title, seen, asked, cosines[:, :_SHOWN], rows[:, :_SHOWN], note=note)
    )


def _wrote(file: Path) -> str:
    return f"wrote {file}"
