"""The parts of a table of images: who is trained on and who is tested on, and what their labels and groups are."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr.config.data import DataConfig
from simclr.data.class_cells import in_order
from simclr.data.groups import across_parts
from simclr.data.image_set import ImageSet
from simclr.data.packed.table import Table
from simclr.data.part_names import PARTS, PartName, part_of
from simclr.data.places import chosen
from simclr.data.rows import StoredRows
from simclr.data.survey import reader_for
from simclr.errors import ConfigError

__all__ = ["parts_of_table"]


def parts_of_table(config: DataConfig, table: Table) -> dict[PartName, ImageSet]:
    """The parts that a table has by itself: ``train`` always; ``validation``, ``test`` and ``unlabeled`` perhaps.

    Raises:
        ConfigError: ``data.group`` is neither a column nor a pattern that fits, ``data.labels`` names no column.
        DataError: as ``reader_for``.
    """
    if config.pages == "all":
        raise ConfigError(
            f"data.pages=all is for folders; of files in {config.source} the first page or frame is taken: leave it out"
        )
    count = len(table.store)
    labels, classes, values, notes = _labels(config, table)
    groups, said = _groups(config, table)
    notes += said
    division = _divided(table, notes)
    told = (
        labels if labels is not None else torch.full((count,), -1) if values is None else values.isfinite().long() - 1
    )
    known = told >= 0
    _drop_unscored(division, known, notes)
    if labels is not None and "unlabeled" in division:
        labels[division["unlabeled"]] = -1
    if "test" not in division:
        notes.append(
            f"no test part: {100 * config.test_fraction:g} % of every class are held out (--data.test-fraction)"
        )
    if config.validation and "validation" in division:
        notes.append("data.validation gives way to the validation part of the set's own")
    training = torch.cat([division["train"], division.get("unlabeled", torch.empty(0, dtype=torch.int64))])
    if groups is not None and "test" in division:
        both, images = across_parts(groups, training, division["test"])
        if both:
            notes.append(
                f"{both} groups are in training and in the test part, with {images} test images; these are the set's own"
            )
    rows = StoredRows(table.store)
    looked_at = training if table.near is None else training[torch.isin(training, table.near)]
    reader, values_in_words = reader_for(chosen(rows, looked_at), config)
    everything = ImageSet(
        name=str(config.path),
        reader=reader,
        rows=rows,
        labels=labels,
        classes=classes,
        values=values,
        groups=groups,
        broken=config.broken,
        notes=(*table.notes, *notes, *values_in_words),
    )
    parts = {part: everything.subset(numbers) for part, numbers in division.items()}
    if labels is not None:  # a class that training has not seen is none of training's, where it comes behind the others
        parts["train"], classes = _own_classes_first(parts, classes)
        parts = {
            part: replace(images, classes=classes) if part != "train" else images for part, images in parts.items()
        }
    return parts


def _own_classes_first(parts: dict[PartName, ImageSet], classes: tuple[str, ...]) -> tuple[ImageSet, tuple[str, ...]]:
    train = parts["train"]
    assert train.labels is not None
    seen = set(train.labels.unique().tolist()) - {-1}
    later = (
        {label for images in parts.values() if images.labels is not None for label in images.labels.unique().tolist()}
        - seen
        - {-1}
    )
    if not later:
        return train, classes
    order = [label for label in range(len(classes)) if label not in later] + sorted(later)
    number = torch.empty(len(classes) + 1, dtype=torch.int64)
    number[torch.tensor([*order, len(classes)])] = torch.tensor([*range(len(classes)), -1])
    for part, images in parts.items():
        if images.labels is not None:
            parts[part] = replace(images, labels=number[images.labels])
    classes = tuple(classes[label] for label in order)
    return replace(parts["train"], classes=classes[: len(classes) - len(later)]), classes


def _labels(config: DataConfig, table: Table) -> tuple[Tensor | None, tuple[str, ...], Tensor | None, list[str]]:
    """Labels, their names, values, and words on where they come from."""
    if config.labels == "none":
        return None, (), None, []
    named = isinstance(config.labels, Path)
    if table.labels is None and table.values is None:
        if named:
            raise ConfigError(f"data.labels is {config.labels}, and nothing in {config.path} is called so")
        by_folder = _by_folder(config, table)
        if by_folder is None:
            return None, (), None, ["no labels"]
        return (
            by_folder[0],
            by_folder[1],
            None,
            [f"labels: the folders in the names of its images, {len(by_folder[1])} classes"],
        )
    if config.labels in ("first", "last", "path") and (by_folder := _by_folder(config, table)) is not None:
        return (
            by_folder[0],
            by_folder[1],
            None,
            [f"labels: the folders in the names of its images, {len(by_folder[1])} classes"],
        )
    if table.labels is None:
        return None, (), table.values, ["labels are numbers to predict"]
    labels, classes = table.labels
    return labels.clone(), classes, table.values, []


def _by_folder(config: DataConfig, table: Table) -> tuple[Tensor, tuple[str, ...]] | None:
    """Labels by the folders in the keys; None where they are in none, or all in one."""
    number: dict[str, int] = {}
    keys = table.keys()
    codes = np.fromiter((number.setdefault(key.rpartition("/")[0], len(number)) for key in keys), dtype=np.int64)
    folders = [
        tuple(part for part in name.split("/") if part not in ("", ".") and part_of(part) is None) for name in number
    ]
    while (
        folders
        and all(folder and folder[0] == folders[0][0] for folder in folders)
        and any(len(folder) > 1 for folder in folders)
    ):
        folders = [folder[1:] for folder in folders]
    if config.labels == "path":
        names = ["/".join(folder) for folder in folders]
    else:
        names = [folder[-1 if config.labels == "last" else 0] if folder else "" for folder in folders]
    there = sorted(set(names) - {""})
    if len(there) < 2:
        return None
    of = {name: i for i, name in enumerate(in_order(set(there)))}
    to = torch.tensor([of.get(name, -1) for name in names])
    return to[torch.from_numpy(codes)], tuple(of)


def _groups(config: DataConfig, table: Table) -> tuple[Tensor | None, list[str]]:
    if table.groups is not None:
        return table.groups, [f"{len(table.groups.unique())} groups"]
    if config.group is None:
        return None, []
    try:
        pattern = re.compile(config.group)
    except re.error as error:
        raise ConfigError(
            f"data.group is {config.group!r}, which is no column and no regular expression: {error}"
        ) from error
    number: dict[str, int] = {}

    def of(key: str) -> int:
        fits = pattern.search(key)
        return -1 if fits is None else number.setdefault(fits[1 if pattern.groups else 0], len(number))

    groups = torch.from_numpy(np.fromiter(map(of, table.keys()), dtype=np.int64))
    if not number:
        raise ConfigError(
            f"data.group is {config.group!r}, which is no column of {config.path} and, as a pattern, fits no name in it"
        )
    alone = int((groups < 0).sum())
    return groups, [
        f"{len(number)} groups by the pattern {config.group}" + (f"; {alone} images fit none" if alone else "")
    ]


def _divided(table: Table, notes: list[str]) -> dict[PartName, Tensor]:
    """The numbers of each part's images, rising."""
    every = torch.arange(len(table.store))
    if table.splits is None:
        return {"train": every}
    codes, names = table.splits
    parts: dict[PartName, Tensor] = {}
    said = []
    numbers = torch.from_numpy(codes.astype(np.int64))
    known = {i: part_of(name) for i, name in enumerate(names)}
    known[-1] = "train"
    for part in PARTS:
        of = torch.tensor([i for i, named in known.items() if named == part], dtype=torch.int64)
        mine = torch.isin(numbers, of).nonzero().flatten()
        if len(mine):
            parts[part] = mine
            said.append(f"{part} ({len(mine)} images)")
    left = [(name, int((numbers == i).sum())) for i, name in enumerate(names) if known[i] is None]
    if not parts:
        return {"train": every}
    if "train" not in parts and "unlabeled" in parts:
        parts["train"] = parts.pop("unlabeled")
    if "train" not in parts:
        notes.append(f"parts: {', '.join(said)}, of which none is for training: all are divided anew")
        return {"train": every}
    joins = "; unlabeled images join training without a label" if "unlabeled" in parts else ""
    if len(said) > 1 or left:
        notes.append(f"parts: {', '.join(said)}{joins}")
    notes += [f"left out: {count} images in {name}, which is no part by its name" for name, count in left]
    return parts


def _drop_unscored(division: dict[PartName, Tensor], known: Tensor, notes: list[str]) -> None:
    """As ``simclr.data.folder_layout.scored_parts``: parts without a label cannot be scored where training has labels."""
    if bool(known[division["train"]].any()):
        asked: tuple[PartName, ...] = ("test", "validation")
        for part in asked:
            if part in division and not bool(known[division[part]].any()):
                notes.append(
                    f"no labels in the {part} part: its {len(division.pop(part))} images are neither scored nor trained on"
                )
    if "test" not in division and "validation" in division:
        notes.append("the validation part is the test part, since there is no other")
        division["test"] = division.pop("validation")
