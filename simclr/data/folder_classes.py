"""Which class each image of a folder is of, by the names of folders, and the words that say so.

>>> from simclr.data.folder_layout import find_layout
>>> layout = find_layout([("Train", "cat"), ("Train", "dog"), ("Test", "cat"), ("Test", "dog")], ["1.png"] * 4)
>>> read_classes(layout, "auto").classes
('cat', 'dog')
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from simclr.data.folder_layout import Folders, Layout, few, some_of

__all__ = ["Classes", "read_classes"]


@dataclass(frozen=True)
class Classes:
    """Labels by folders."""

    labels: list[int] | None
    """The number of each image's class, -1 where it has none; None where the set has no labels."""

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
    known = Counter(c for i in train if (c := class_of[i]) is not None)
    strays = [i for i in train if class_of[i] is None]
    if len(known) < 2 or not few(len(strays), len(train)):
        return Classes(None, notes=_why_no_labels(layout, known, strays))
    names = tuple(sorted(known))
    others = sorted({c for i in layout.parts.get("test", []) if (c := class_of[i]) is not None} - set(names))
    others += sorted(
        {c for i in layout.parts.get("validation", []) if (c := class_of[i]) is not None} - set(names) - set(others)
    )
    number = {name: i for i, name in enumerate((*names, *others))}
    unlabeled = set(layout.parts.get("unlabeled", []))
    labels = [-1 if c is None or i in unlabeled else number.get(c, -1) for i, c in enumerate(class_of)]
    notes = _on_classes(layout, how, names, others)
    for part in ("train", "validation", "test"):
        without = [i for i in layout.parts.get(part, []) if class_of[i] is None]
        if without and len(without) < len(layout.parts[part]):
            notes.append(f"no label: {some_of(layout.names, without, 'has', 'have')} no class folder")
    return Classes(labels, (*names, *others), len(names), notes)


def _class(folder: Folders, how: str) -> str:
    return folder[-1] if how == "last" else "/".join(folder) if how == "path" else folder[0]


def _why_no_labels(layout: Layout, known: Counter[str], strays: list[int]) -> list[str]:
    if not known:
        return ["no labels: the images are in one folder, without class folders"]
    if len(known) == 1 and not strays:
        return [f"no labels: all images are of the one class {next(iter(known))}"]
    return [f"no labels: {some_of(layout.names, strays, 'has', 'have')} no class folder"]


def _on_classes(layout: Layout, how: str, names: tuple[str, ...], others: list[str]) -> list[str]:
    train = [layout.folders[i] for i in layout.parts["train"] if layout.folders[i]]
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
    tested = {layout.folders[i] for i in layout.parts.get("test", []) if layout.folders[i]}
    if tested and how != "last" and how != "path":
        lacking = sorted(set(names) - {folder[0] for folder in tested})
        if lacking:
            notes.append(
                f"classes that the test part lacks: {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
            )
    return notes


def _levels(count: int) -> str:
    return {1: "one level", 2: "two levels"}.get(count, f"{count} levels")
