"""A folder of images as sets: listed, divided, labelled, by what its folders, metadata files and the list of a run say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from simclr.config import DataConfig
from simclr.data.file_list import FileList, Numbers
from simclr.data.file_order import order_of
from simclr.data.folder_classes import read_classes
from simclr.data.folder_layout import by_column, find_layout, scored_parts
from simclr.data.folder_tree import Layout
from simclr.data.groups import across_parts, with_pages
from simclr.data.image_set import ImageSet
from simclr.data.listing import list_images
from simclr.data.metadata import Metadata
from simclr.data.parts_list import Kept, PartsList
from simclr.data.places import Chosen, chosen
from simclr.data.set_metadata import metadata_of_set
from simclr.data.survey import expand_pages, page_groups, reader_for
from simclr.errors import ConfigError

__all__ = ["folder_parts", "load_whole"]


def folder_parts(config: DataConfig, kept: PartsList | None = None) -> dict[str, ImageSet]:
    """The parts that a folder has by itself: ``train`` always; ``validation``, ``test`` and ``unlabeled`` perhaps."""
    root = config.path
    if root is None:
        raise ConfigError("data.source is folder but data.path is not set; give the folder of images: --data.path DIR")
    listing = list_images(root) if kept is None else kept.list_images(root)
    files, rows, listed, kept_notes = Kept(listing.paths, np.arange(len(listing.paths)), np.empty(0, np.int64), [])
    if kept is not None:
        files, rows, listed, kept_notes = kept.choose(listing, skip=config.broken == "skip")
    paths, pages, of_file = _at(files, rows), None, None
    if config.pages == "all":
        of_page, pages = expand_pages(paths)
        of_file = page_groups(of_page)
        rows, listed = rows[of_page], listed[of_page] if kept is not None else listed
        paths = _at(files, rows)
    layout, said = _layout(files, rows), metadata_of_set(config, paths)
    groups = with_pages(said.groups, of_file)
    labels, classes, trained, notes = _labels(config, layout, said)
    values = said.values
    if kept is not None and labels is not None and (as_listed := kept.numbered(labels, classes)) is not None:
        labels, classes, trained = as_listed
    layout = layout if said.splits is None else by_column(layout, said.splits)
    if labels is not None:
        known = labels >= 0
    else:
        known = torch.zeros(len(paths), dtype=torch.bool) if values is None else values.isfinite()
    division, more = scored_parts(layout, known) if kept is None else (kept.division(listed), kept_notes)
    if "test" not in division and kept is None:
        more.append(
            f"no test part: {100 * config.test_fraction:g} % of every class are held out (--data.test-fraction)"
        )
    training = torch.cat([division["train"], division.get("unlabeled", division["train"][:0])])
    if config.validation and "validation" in division:
        more.append("data.validation gives way to the validation part of the set's own")
    if groups is not None and "test" in division:
        both, images = across_parts(groups, training, division["test"])
        if both:
            more.append(
                f"{both} groups are in training and in the test part, with {images} test images; these are the set's own"
            )
    # One reader for all parts, else a value would be another gray in the test images.
    reader, values_in_words = reader_for(chosen(paths, training), config)
    everything = ImageSet.from_files(
        paths,
        reader,
        labels=labels,
        classes=classes,
        values=values,
        groups=groups,
        pages=pages,
        name=str(root),
        broken=config.broken,
        notes=[*layout.notes, *notes, *more, *listing.notes(), *values_in_words],
    )
    parts: dict[str, ImageSet] = {}
    for part, numbers in division.items():
        parts[part] = everything if len(numbers) == len(paths) else everything.subset(numbers)
    # A class that training has not seen is none of training's.
    parts["train"] = replace(parts["train"], classes=classes[:trained])
    return parts


def _at(files: FileList, rows: Numbers) -> Sequence[Path]:
    """The files at ``rows``."""
    return files if np.array_equal(rows, np.arange(len(files))) else Chosen(files, torch.from_numpy(rows))


class _Names(Sequence[str]):
    """What messages call the files at ``rows``."""

    def __init__(self, files: FileList, rows: Numbers) -> None:
        self.files, self.rows = files, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.files.name(self.rows[index])


def _layout(files: FileList, rows: Numbers) -> Layout:
    """How the files at ``rows`` are divided by their folders."""
    of = files.folder[rows]
    first = np.full(len(files.folders), len(rows))
    first[of[::-1]] = np.arange(len(rows))[::-1]
    used = np.argsort(first, kind="stable")[: int((first < len(rows)).sum())]
    number = np.zeros(len(files.folders), dtype=np.int64)
    number[used] = np.arange(len(used))
    folders = [PurePosixPath(files.folders[i]).parts for i in used]
    return find_layout(folders, torch.from_numpy(number[of]), _Names(files, rows))


def _labels(
    config: DataConfig, layout: Layout, said: Metadata
) -> tuple[torch.Tensor | None, tuple[str, ...], int, list[str]]:
    """The labels of a folder's images, their names, how many of them training knows, and words on where they come from."""
    labels, classes, notes = said.labels, said.classes, list(said.notes)
    if labels is not None or said.values is not None or isinstance(config.labels, Path):
        return labels, classes, len(classes), notes
    found = read_classes(layout, config.labels)
    return found.labels, found.classes, found.trained, notes + found.notes


def load_whole(config: DataConfig) -> ImageSet:
    """Every image below the folder ``config.path``, undivided, in the order of the paths, with labels where there are any.

    Raises:
        DataError: nothing there, or nothing readable.
    """
    root = config.path
    assert root is not None
    listing = list_images(root)
    files, rows, pages = listing.paths, order_of(listing.paths, np.arange(len(listing.paths)), by_parts=True), None
    if config.pages == "all":
        of_page, pages = expand_pages(_at(files, rows))
        rows = rows[of_page]
    paths = _at(files, rows)
    labels, classes, _, notes = _labels(config, _layout(files, rows), said := metadata_of_set(config, paths))
    reader, values_in_words = reader_for(paths, config)
    return ImageSet.from_files(
        paths,
        reader,
        labels=labels,
        classes=classes,
        values=said.values,
        pages=pages,
        name=str(root),
        broken=config.broken,
        notes=[*notes, *listing.notes(), *values_in_words],
    )
