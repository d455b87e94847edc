"""Which class each image of a folder is of, by the names of folders, and the words that say so.

>>> from simclr.data.folder_layout import find_layout
>>> folders = [("Train", "cat"), ("Train", "dog"), ("Test", "cat"), ("Test", "dog")]
>>> layout = find_layout(folders, torch.arange(4), ["1.png"] * 4)
>>> read_classes(layout, "auto").classes
('cat', 'dog')
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from simclr.data.folder_tree import Folders, Layout, few, some_of
from simclr.data.part_names import PartName

__all__ = ["Classes", "read_classes"]


@dataclass(frozen=True)
class Classes:
    """Labels by folders."""

    labels: Tensor | None
    """int64 (N,), the number of each image's class, -1 where it has none; None where the set has no labels."""

    classes: tuple[str, ...] = ()
    """Their names; those that training has come first."""
    trained: int = 0
    """How many classes training has."""
    notes: list[str] = field(default_factory=list)


def read_classes(layout: Layout, how: Literal["auto", "none", "first", "last", "path"]) -> Classes:
    """Number the classes that the folders of ``layout`` name.

    Args:
        how: ``first`` and ``auto`` take the first folder, ``last`` the one that holds the image, ``path`` all of them with "/"
            between; ``none`` takes none.
    """
    if how == "none":
        return Classes(None, notes=["no labels: --data.labels none"])
    train = layout.parts["train"]
    class_of = [_class(folder, how) if folder else None for folder in layout.folders]
    without = torch.tensor([name is None for name in class_of])
    known = _classes_in(layout, "train", class_of)
    strays = train[without[layout.of[train]]]
    if len(known) < 2 or not few(len(strays), len(train)):
        return Classes(None, notes=_why_no_labels(layout, known, strays))
    names = tuple(sorted(known))
    others = sorted(set(_classes_in(layout, "test", class_of)) - set(names))
    others += sorted(set(_classes_in(layout, "validation", class_of)) - set(names) - set(others))
    number = {name: i for i, name in enumerate((*names, *others))}
    labels = torch.tensor([-1 if c is None else number.get(c, -1) for c in class_of])[layout.of]
    if "unlabeled" in layout.parts:
        labels[layout.parts["unlabeled"]] = -1
    notes = _on_classes(layout, how, names, others)
    parts: tuple[PartName, ...] = ("train", "validation", "test")
    for part in parts:
        images = layout.parts.get(part, train[:0])
        lacking = images[without[layout.of[images]]]
        if len(lacking) and len(lacking) < len(images):
            notes.append(f"no label: {some_of(layout.names, lacking, 'has', 'have')} no class folder")
    return Classes(labels, (*names, *others), len(names), notes)


def _folders_in(layout: Layout, part: PartName) -> list[int]:
    """The folders that images of a part are in, in the order of the first image of each."""
    of = layout.of[layout.parts.get(part, torch.empty(0, dtype=torch.int64))]
    first = torch.full((len(layout.folders),), len(of))
    first.scatter_reduce_(0, of, torch.arange(len(of)), "amin")
    return [i for i in first.argsort(stable=True).tolist() if first[i] < len(of)]


def _classes_in(layout: Layout, part: PartName, class_of: list[str | None]) -> list[str]:
    """The classes of a part, each once, in the order of their first images."""
    named = (class_of[i] for i in _folders_in(layout, part))
    return list(dict.fromkeys(name for name in named if name is not None))


def _class(folder: Folders, how: str) -> str:
    return folder[-1] if how == "last" else "/".join(folder) if how == "path" else folder[0]


def _why_no_labels(layout: Layout, known: list[str], strays: Tensor) -> list[str]:
    if not known:
        return ["no labels: the images are in one folder, without class folders"]
    if len(known) == 1 and not len(strays):
        return [f"no labels: all images are of the one class {known[0]}"]
    return [f"no labels: {some_of(layout.names, strays, 'has', 'have')} no class folder"]


def _on_classes(layout: Layout, how: str, names: tuple[str, ...], others: list[str]) -> list[str]:
    train = [layout.folders[i] for i in _folders_in(layout, "train") if layout.folders[i]]
    what = {"last": "the folders that hold images", "path": "the paths of folders"}.get(how, "the first sub-folders")
    notes = []
    if layout.around:
        where = "/".join(layout.around)
        notes.append(
            f"{_levels(len(layout.around))} down are {len(names)} classes: labels are {what} of {where}, as with --data.path "
            f"DIR/{where}"
        )
    else:
        notes.append(f"labels: {len(names)} classes, {what}")
    deeper = {folder for folder in train if len(folder) > 1}
    if how in ("auto", "first") and deeper:
        more = "1 folder more" if len(deeper) == 1 else f"{len(deeper)} folders more"
        notes[-1] += f"; below them are {more}, which --data.labels last or path takes for classes"
    if how == "last":
        places: dict[str, set[Folders]] = {}
        for folder in train:
            places.setdefault(folder[-1], set()).add(folder[:-1])
        shared = [name for name, above in places.items() if len(above) > 1]
        if shared:
            notes[-1] += (
                f"; {shared[0]} lies in {len(places[shared[0]])} folders and is one class"
                + (f", as are {len(shared) - 1} others" if len(shared) > 1 else "")
                + "; --data.labels path keeps them apart"
            )
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        notes.append(f"classes that training lacks: {shown}")
    tested = {layout.folders[i] for i in _folders_in(layout, "test") if layout.folders[i]}
    if tested and how != "last" and how != "path":
        lacking = sorted(set(names) - {folder[0] for folder in tested})
        if lacking:
            notes.append(
                f"classes that the test part lacks: {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
            )
    return notes


def _levels(count: int) -> str:
    return {1: "one level", 2: "two levels"}.get(count, f"{count} levels")
