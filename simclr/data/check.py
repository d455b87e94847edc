"""Looking through a set of images before a night is spent on it: what does not decode, what is there twice, what is odd."""

import hashlib
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import ExifTags, Image
from torch import Tensor

from simclr.config.data import DataConfig
from simclr.config.sources import PACKED
from simclr.cores import share_of_cores
from simclr.data.check_report import FolderReport
from simclr.data.decode import Reader, to_square
from simclr.data.image_set import ImageSet
from simclr.data.near_copies import fingerprints, near_copies
from simclr.data.opening import open_picture
from simclr.data.packed.sources import damaged_files
from simclr.data.pixel_faults import pixel_faults
from simclr.data.rows import Row
from simclr.data.sources import has_validation, load_source
from simclr.errors import ConfigError, DataError
from simclr.progress import each

__all__ = ["FolderReport", "check_folder"]

_LONG = 10
"""Longer side over shorter side from which a picture is odd: its middle square shows a tenth of it."""

_CUT = 2
"""Longer side over shorter side from which the middle square shows less than half of a picture."""

_COMPARED = 50_000
"""Training images at most that are compared with one another: it takes the square of their number."""

_LOOKED_AT = 256
"""Rows and columns at most of an image whose values are looked at, evenly drawn; all of them would take longer than decoding."""

_SIDE = 64
"""Side of the squares that are compared for near-copies."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one file holds; ``reason`` is empty where it decodes."""

    path: Path
    reason: str = ""
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    kind: str = ""
    turned: bool = False
    faults: tuple[tuple[str, str], ...] = ()
    prints: Tensor | None = None


def check_folder(config: DataConfig) -> FolderReport:
    """Decode every image of a folder, of shards or of parquet once, in a thread a core, compare all files byte by byte (SHA-256)
    and the test images with those of training for near-copies. Of shards the check sums are compared with their list's.

    Args:
        config: the images; what makes training see fewer of them is not looked at.

    Raises:
        ConfigError: a source of another kind.
        DataError: no folder, or no image in it.
    """
    if config.source not in ("folder", *PACKED):
        raise ConfigError(
            f"data.source is {config.source}; only folders, shards and parquet are looked through: --data.path DIR"
        )
    whole = replace(config, held_out_classes=0.0, label_fraction=1.0, validation=0.0, limit=None)
    damaged: dict[Path, str] = {}
    if config.source in PACKED:  # whose images that are there are looked at all the same
        damaged, whole = damaged_files(whole), replace(whole, broken="skip")
    splits: list[Literal["train", "validation", "test"]] = ["train", "test"]
    if has_validation(whole):
        splits.insert(1, "validation")
    parts: dict[str, ImageSet] = {split: load_source(whole, split) for split in splits}
    where: dict[Path, str] = {}
    pages: dict[Path, list[int]] = {}
    places: dict[Path, Path | Row] = {}
    for split, images in parts.items():
        for number, place in enumerate(images.places):
            path = _called(place)
            where[path] = split
            pages.setdefault(path, []).append(images.page(number))
            places[path] = place
    class_of = {path: name for images in parts.values() for path, name in _classes(images)}
    reader = parts["train"].reader
    found: list[_Found] = []
    with ThreadPoolExecutor(share_of_cores()) as pool:
        visits = pool.map(lambda path: _visit(path, places[path], pages[path], reader), sorted(where))
        found += each(visits, "reading", len(where), "files")
    whole_files = [one for one in found if not one.reason]
    digests: dict[str, list[Path]] = {}
    for one in whole_files:
        digests.setdefault(one.digest, []).append(one.path)
    groups = tuple(tuple(group) for group in digests.values() if len(group) > 1)
    leaked = tuple(group for group in groups if len({where[path] for path in group}) > 1)
    numbers = [
        number
        for images in parts.values()
        if images.labels is None and images.values is not None
        for number in images.values[images.values.isfinite()].tolist()
    ]
    per_part = {split: Counter(name for _, name in _classes(images)) for split, images in parts.items()}
    classes = sum(per_part.values(), Counter[str]())
    return FolderReport(
        notes=tuple(dict.fromkeys(note for images in parts.values() for note in images.notes)),
        parts={split: len(images) for split, images in parts.items()},
        classes=dict(sorted(classes.items())),
        lacking={
            split: names for split, has in per_part.items() if has and (names := tuple(sorted(set(classes) - set(has))))
        },
        unlabelled=sum(map(len, parts.values())) - sum(classes.values()) - len(numbers) if classes or numbers else 0,
        numbers=tuple(sorted(numbers)),
        broken=damaged | {one.path: one.reason for one in found if one.reason},
        duplicates=groups,
        leaked=leaked,
        contradicting=tuple(group for group in groups if len({class_of[p] for p in group if p in class_of}) > 1),
        near=_near(whole_files, where, {path for group in leaked for path in group}),
        near_in_training=_near_in_training(whole_files, where, groups),
        cropped={
            one.path: one.size for one in whole_files if config.fit == "crop" and max(one.size) > _CUT * min(one.size)
        },
        odd={one.path: one.faults for one in whole_files if one.faults},
        sizes=tuple(one.size for one in whole_files),
        stored_size=config.size,
        turned=sum(one.turned for one in whole_files),
        kinds=dict(Counter(one.kind for one in whole_files).most_common()),
    )


def _classes(images: ImageSet) -> list[tuple[Path, str]]:
    """Each labelled image with the name of its class."""
    if images.labels is None:
        return []
    labelled = zip(images.places, images.labels.tolist(), strict=True)
    return [(_called(place), images.classes[label]) for place, label in labelled if label >= 0]


def _called(place: Path | Row) -> Path:
    return place if isinstance(place, Path) else Path(str(place))


def _visit(path: Path, place: Path | Row, pages: list[int], reader: Reader) -> _Found:
    try:
        faults: dict[str, str] = {}
        for page in pages:
            # A JPEG comes at a smaller scale, as it does for training.
            pixels, (height, width) = reader.read(
                place, page, lambda height, width: min(height, width) / (2 * reader.size)
            )
            named = f"page {page}: " if len(pages) > 1 else ""
            faults = {kind: f"{named}{fault}" for kind, fault in _faults(pixels, height, width).items()} | faults
            if page == pages[0]:
                first = to_square(pixels, min(_SIDE, reader.size), reader.fit), (width, height)
        content = _content(place)
        digest = hashlib.sha256(content).hexdigest()
        with open_picture(place, pages[0], reader.max_pixels) as opened:
            kind = opened.kind
    except (DataError, OSError) as error:
        return _Found(path=path, reason=str(error))
    square, size = first
    return _Found(
        path=path,
        digest=digest,
        size=size,
        kind=kind,
        turned=_is_turned(content),
        faults=tuple(faults.items()),
        prints=fingerprints(square[None])[0],
    )


def _faults(pixels: Tensor, height: int, width: int) -> dict[str, str]:
    """Kind -> words for what is odd about an image, uint8 (C, H, W), whose file has ``height`` x ``width`` pixels."""
    faults = {}
    if max(height, width) > _LONG * min(height, width):
        faults[f"longer than {_LONG} : 1"] = f"{width} x {height} px"
    rows, columns = (-(-side // _LOOKED_AT) for side in pixels.shape[1:])
    for words in pixel_faults(pixels[:, ::rows, ::columns]):
        faults[words.partition("(")[0].partition(",")[0].rstrip(" 0123456789")] = words
    return faults


def _content(place: Path | Row) -> bytes:
    content = place.image() if isinstance(place, Row) else place.read_bytes()
    assert isinstance(content, bytes)
    return content


def _is_turned(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except Exception:  # whatever Pillow makes of a file that it is not asked to decode
        return False


def _near(found: list[_Found], where: dict[Path, str], exact: set[Path]) -> tuple[tuple[Path, Path], ...]:
    """Each test file with a near-copy in training, and that; those with an ``exact`` one are named already."""
    parts: dict[str, list[tuple[Path, Tensor]]] = {"train": [], "test": []}
    for one in found:
        part = where[one.path]
        if one.prints is not None and part in parts and (part == "train" or one.path not in exact):
            parts[part].append((one.path, one.prints))
    if not parts["train"] or not parts["test"]:
        return ()
    train, test = (torch.stack([prints for _, prints in parts[part]]) for part in ("train", "test"))
    copies = near_copies(train, test)
    return tuple(
        (path, parts["train"][nearest][0])
        for (path, _), copied, nearest in zip(
            parts["test"], copies.copied.tolist(), copies.nearest.tolist(), strict=True
        )
        if copied
    )


def _near_in_training(
    found: list[_Found], where: dict[Path, str], groups: tuple[tuple[Path, ...], ...]
) -> tuple[tuple[Path, Path], ...] | None:
    """Pairs of training files that are near-copies and no exact ones, each file with its nearest; None of too many to look."""
    again = {path for group in groups for path in group[1:]}
    files = [
        (one.path, one.prints)
        for one in found
        if one.prints is not None and where[one.path] == "train" and one.path not in again
    ]
    if len(files) > _COMPARED:
        return None
    if len(files) < 2:
        return ()
    prints = torch.stack([print_ for _, print_ in files])
    copies = near_copies(prints, prints, same=True)
    pairs = [
        tuple(sorted((files[one][0], files[int(copies.nearest[one])][0])))
        for one in copies.copied.nonzero().flatten().tolist()
    ]
    return tuple((first, second) for first, second in dict.fromkeys(pairs))
