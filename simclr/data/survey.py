"""What the files of a set have in common, found before the first is used: their range of values, their pages, and notes on it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from simclr.config.data import DataConfig
from simclr.cores import share_of_cores
from simclr.data.bands import Bands, without_opacity
from simclr.data.decode import Reader
from simclr.data.file_list import FileList, Numbers, backing
from simclr.data.file_order import evenly_in_order
from simclr.data.opening import bands_are_pages, open_picture, page_numbers
from simclr.data.pixel_faults import pixel_faults
from simclr.data.places import Chosen
from simclr.data.rows import Row
from simclr.errors import DataError
from simclr.progress import each

__all__ = ["Survey", "expand_pages", "page_groups", "pixel_faults", "reader_for", "survey"]

_T = TypeVar("_T")
_Item = TypeVar("_Item")

_Image = tuple[Path | Row, int]
"""A file and a page of it."""

_MOST_FILES = 1_000
_MOST_PIXELS = 400_000_000
"""Of the deep files so many are decoded, evenly drawn from those looked at, as have so many pixels: seconds, not minutes."""

_MOST_VALUES = 8_000_000
"""Percentiles are those of so many values, drawn evenly from every image."""

_CAN_BE_DEEP = frozenset({"", ".tif", ".tiff", ".png", ".npy", ".pgm", ".pnm", ".ppm", ".jp2"})
_CAN_HAVE_PAGES = frozenset({"", ".tif", ".tiff", ".gif", ".webp", ".png", ".apng", ".avif"})

_NATURAL = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""Largest values of floats and of integers of 8, 10, 12, 14 and 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found."""

    value_range: tuple[float, float] | None
    """Values that become 0 and 255; None is each file's own full range."""

    deep_only: bool
    """Whether files of 8 bits are left alone."""

    notes: tuple[str, ...]
    """What was decided, from what: a line each."""


_made: OrderedDict[object, Survey] = OrderedDict()
"""The last surveys, so that the parts of one set, which are loaded one by one, do not read its files again."""


def survey(paths: Sequence[Path] | Sequence[Row], config: DataConfig) -> Survey:
    """Look at up to 1,000 files, drawn evenly from the sorted ``paths``; of a set of 8-bit pictures at the headers alone.

    Rows count as files, drawn evenly as they come.

    ``data.value_range`` of ``auto`` is one range for all images deeper than 8 bits. From the least to the largest value found:
    without negative ones 0 to 1, 255, 1023, 4095, 16383 or 65535, where the largest is between half of that and that, else 0 to
    the largest; with negative ones -1 to 1, where all lie within and some beyond half of it on both sides, else the two
    themselves. ``percentiles`` are the 0.1 and the 99.9 percentile of all images, 8 bits or deeper. What is not finite counts
    for neither. Files that do not decode are passed over: they are named where they are used.
    """
    chosen, count = _drawn(paths)
    key = (
        count,
        tuple(map(_identity, chosen)),
        config.value_range,
        config.channels,
        config.max_pixels,
        config.pages,
    )
    if key not in _made:
        _made[key] = _survey(chosen, count, config)
        while len(_made) > 8:
            _made.popitem(last=False)
    return _made[key]


def reader_for(paths: Sequence[Path] | Sequence[Row], config: DataConfig) -> tuple[Reader, list[str]]:
    """How the files of a set become pixels, and what to say about it; ``paths`` are those of training, or the whole folder.

    Every part of a set is read by the reader of the same ``paths``, else a value would be another gray in the test images.
    """
    found = survey(paths, config)
    reader = Reader(
        size=config.size,
        channels=config.channels,
        fit=config.fit,
        value_range=found.value_range,
        deep_only=found.deep_only,
        max_pixels=config.max_pixels,
    )
    return reader, list(found.notes)


def expand_pages(paths: Sequence[Path]) -> tuple[Numbers, list[int]]:
    """Every page of every file: which of ``paths`` each is of, int64 (N,), and its number in that file."""
    each = _pages(paths)
    return np.repeat(np.arange(len(paths)), list(map(len, each))), [page for pages in each for page in pages]


def page_groups(files: Numbers) -> Tensor:
    """int64 (N,): a number for each of the ``files`` (N,) that is there several times, for its pages belong together; else -1.

    >>> page_groups(np.array([4, 5, 4])).tolist()
    [0, -1, 0]
    """
    found, first, number, times = np.unique(files, return_index=True, return_inverse=True, return_counts=True)
    several = np.where(times > 1, first, len(files))  # numbered as they come
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.argsort(several, kind="stable")] = np.arange(len(found))
    return torch.from_numpy(np.where(times > 1, rank, -1)[number])


def _drawn(paths: Sequence[Path] | Sequence[Row]) -> tuple[Sequence[Path | Row], int]:
    """The files to look at, and how many there are."""
    if len(paths) and isinstance(paths[0], Row):
        return [paths[i] for i in _evenly(range(len(paths)), _MOST_FILES)], len(paths)
    files = paths.items if isinstance(paths, Chosen) else paths
    if isinstance(files, FileList):
        rows = backing(cast(Sequence[Path], paths), files.root)[1]
        rows = np.unique(rows) if (np.diff(rows) <= 0).any() else rows
        return evenly_in_order(files, rows, _MOST_FILES), len(rows)
    every = sorted({str(path) for path in paths})
    return [Path(path) for path in _evenly(every, _MOST_FILES)], len(every)


def _survey(chosen: Sequence[Path | Row], total: int, config: DataConfig) -> Survey:
    seen = f"{total} files" if len(chosen) == total else f"{len(chosen)} of {total} files, which were looked at"
    each = _pages(chosen)
    notes = []
    several = {path: pages for path, pages in zip(chosen, each) if len(pages) > 1}
    banded = sum(bands_are_pages(path, config.channels) for path in several)
    if banded:
        notes.append(f"bands: {banded} of {seen} hold their {config.channels} bands as pages")
    if len(several) > banded:
        hold = f"pages: {len(several) - banded} of {seen} hold several pages or frames, up to {max(map(len, several.values()))}"
        what = "each is an image" if config.pages == "all" else "the first is taken (--data.pages all takes each)"
        notes.append(f"{hold}; {what}")
    images = [
        (path, page) for path, pages in zip(chosen, each) for page in (pages if config.pages == "all" else pages[:1])
    ]
    images = _evenly(images, _MOST_FILES)
    value_range: tuple[float, float] | None = None
    if not isinstance(config.value_range, str):
        value_range = config.value_range
        notes.append(f"values: {_range(value_range)} become black and white in every image (--data.value-range)")
    elif config.value_range == "percentiles":
        values = _sampled_values(_affordable(images, config, every=True), config)
        if len(values):
            low, high = (float(p) for p in np.percentile(values, (0.1, 99.9)))
            value_range = (low, high) if low < high else None
        if value_range is None:
            notes.append("values: the 0.1 and the 99.9 percentile are the same; each file's full range is taken")
        else:
            notes.append(
                f"values: {_range(value_range)}, the 0.1 and 99.9 percentile of {seen}, become black and white "
                "(--data.value-range)"
            )
    else:
        value_range, said = _auto(images, config)
        notes += said
    return Survey(value_range=value_range, deep_only=config.value_range == "auto", notes=tuple(notes))


def _auto(images: list[_Image], config: DataConfig) -> tuple[tuple[float, float] | None, list[str]]:
    deep = _affordable([image for image in images if image[0].suffix.lower() in _CAN_BE_DEEP], config, every=False)
    extremes = [found for found in _in_threads(lambda image: _extremes(image, config), deep) if found is not None]
    if not extremes:
        return None, []
    kinds = sorted({kind for kind, _, _ in extremes})
    low, high = min(low for _, low, _ in extremes), max(high for _, _, high in extremes)
    value_range = _natural(low, high, all(kind.startswith("float") for kind in kinds))
    if value_range is None:
        return None, [
            f"values: the {len(extremes)} {' and '.join(kinds)} images that were looked at are {low:g} throughout"
        ]
    return value_range, [
        f"values: {_range(value_range)} of the set's {' and '.join(kinds)} images become black and white, since "
        f"{len(extremes)} that were looked at hold {_range((low, high))} (--data.value-range)"
    ]


def _natural(low: float, high: float, floats: bool) -> tuple[float, float] | None:
    if low >= 0:
        bound = next((bound for bound in _NATURAL if bound / 2 <= high <= bound), high)
        return (0.0, bound) if high > 0 else None
    if floats and -1 <= low < -0.5 and 0.5 < high <= 1:
        return -1.0, 1.0
    return (low, high) if low < high else None


def _pages(paths: Sequence[Path | Row]) -> list[tuple[int, ...]]:
    able = [path for path in paths if path.suffix.lower() in _CAN_HAVE_PAGES]
    found = dict(zip(able, _in_threads(page_numbers, able)))
    return [found.get(path, (0,)) for path in paths]


def _affordable(images: list[_Image], config: DataConfig, every: bool) -> list[_Image]:
    """Those of the images, deep ones or ``every`` one, that there is time to decode, evenly drawn."""

    def pixels(image: _Image) -> int:
        try:
            with open_picture(*image, config.max_pixels) as opened:
                return opened.pixels if every or opened.deep else 0
        except DataError:
            return 0

    sizes = _in_threads(pixels, images)
    wanted = [image for image, size in zip(images, sizes) if size]
    return _evenly(wanted, max(1, int(len(wanted) * min(1.0, _MOST_PIXELS / max(1, sum(sizes))))))


def _values(image: _Image, config: DataConfig) -> tuple[str, np.ndarray] | None:
    """The dtype and the stored values of a file, opacity left out; None where it does not decode."""
    try:
        with open_picture(*image, config.max_pixels) as opened:
            decoded = opened.decode(config.channels, 1.0)
            if isinstance(decoded, Bands):
                return opened.deep, without_opacity(decoded, config.channels)
        reader = Reader(size=config.size, channels=config.channels, max_pixels=config.max_pixels)
        return "", reader.read(*image)[0].numpy()
    except DataError:
        return None


def _extremes(image: _Image, config: DataConfig) -> tuple[str, float, float] | None:
    found = _values(image, config)
    if found is None:
        return None
    kind, values = found
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        values = values[np.isfinite(values)]
        if not len(values):
            return None
        low, high = float(values.min()), float(values.max())
    return kind, low, high


def _sampled_values(images: list[_Image], config: DataConfig) -> np.ndarray:
    each = max(4096, _MOST_VALUES // max(1, len(images)))

    def some(image: _Image) -> np.ndarray:
        found = _values(image, config)
        if found is None:
            return np.empty(0)
        values = found[1].reshape(-1)
        # An odd step goes through all columns and bands.
        values = values[:: -(-len(values) // each) | 1] if len(values) > each else values
        values = values.astype(np.float64)
        return values[np.isfinite(values)]

    return np.concatenate([np.empty(0), *_in_threads(some, images)])


def _in_threads(work: Callable[[_Item], _T], items: Sequence[_Item]) -> list[_T]:
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(share_of_cores()) as pool:
        return list(each(pool.map(work, items), "looking at files", len(items), "files"))


def _evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _identity(path: Path | Row) -> tuple[str, int, int]:
    try:
        if isinstance(path, Row):
            return str(path), -1, -1
        found = path.stat()
        return str(path), found.st_size, found.st_mtime_ns
    except OSError:
        return str(path), -1, -1


def _range(value_range: tuple[float, float]) -> str:
    return f"{value_range[0]:.7g} to {value_range[1]:.7g}"
