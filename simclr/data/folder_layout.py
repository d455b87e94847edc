"""How a folder of images is divided, by the names of its folders, and the words that say so. A function of the paths alone.

>>> layout = find_layout([("Train", "cat"), ("Train", "dog"), ("Test", "cat"), ("Test", "dog")], ["1.png"] * 4)
>>> layout.parts
{'train': [0, 1], 'test': [2, 3]}
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from simclr.data.part_names import PARTS, PartName, part_of

__all__ = ["Folders", "Layout", "PartName", "by_column", "few", "find_layout", "part_of", "scored_parts", "some_of"]

Folders = tuple[str, ...]
"""The folders that lead to an image, from the set's own folder down."""

_FEW = 3
"""So many stray images, or a twentieth of all, do not make a folder of classes one without."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the images of a folder are divided."""

    parts: dict[PartName, list[int]]
    """The numbers of each part's images, rising; ``train`` is there always."""

    folders: list[Folders]
    """What remains of each image's folders without those of parts and without those around everything."""

    names: Sequence[str]
    """What each image is called in a message: its path below the set's folder."""

    around: Folders = ()
    """Folders around everything."""

    notes: list[str] = field(default_factory=list)


def find_layout(folders: Sequence[Folders], names: Sequence[str]) -> Layout:
    """Divide images by the names of the folders that lead to them.

    Folders that are parts by name divide the set where one of them is for training and another is not, or where all are parts;
    they may stand below one folder around everything, and below each class. Images of folders beside them are left out. One
    folder named like a part among class folders is a class.

    Args:
        folders: of each image, from the set's folder down.
        names: of each image, for messages.
    """
    every = list(range(len(folders)))
    depth = _inside(folders, every, 0)
    around = folders[next(i for i in every if len(folders[i]) >= depth)][:depth]
    inner = _grouped(folders, every, depth)
    of_name = {name: part_of(name) for name in inner if name is not None}
    found = {part for part in of_name.values() if part is not None}
    notes: list[str] = []
    by_class = _parts_below_classes(folders, inner, depth)
    beside = _parts_beside_classes(folders, inner, of_name, depth)
    if len(found) > 1 and ("train" in found or "unlabeled" in found or None not in of_name.values()):
        if "train" not in found and "unlabeled" not in found:
            named = " and ".join(name for name, part in of_name.items() if part is not None)
            notes.append(f"no part for training beside {named}: all their images are divided anew")
            rest = [folder[depth + 1 :] for folder in folders]
            return Layout(parts={"train": every}, folders=rest, names=names, around=around, notes=notes)
        return _by_parts(folders, names, inner, of_name, depth, around)
    if "train" in found and _is_part_beside_others(folders, inner, of_name, depth):
        return _by_parts(folders, names, inner, of_name, depth, around)
    if beside:
        return _with_classes_to_train(folders, names, inner, beside, depth, around)
    if by_class is not None:
        notes.append("parts: the folders " + ", ".join(sorted(set(by_class.values()))) + " in each class")
        parts: dict[PartName, list[int]] = {}
        for i in every:
            part = by_class.get(i)
            parts.setdefault(_named(part) if part is not None else "train", []).append(i)
        rest = [folder[depth : depth + 1] + folder[depth + 2 :] for folder in folders]
        return Layout(parts=parts, folders=rest, names=names, around=around, notes=notes)
    for name, part in of_name.items():
        if part is not None:
            notes.append(
                f"{name} is taken for a class, like {next((other for other in of_name if other != name), 'the rest')}: "
                "beside folders that are no parts of a set it is none"
            )
    return Layout(
        parts={"train": every}, folders=[folder[depth:] for folder in folders], names=names, around=around, notes=notes
    )


def by_column(layout: Layout, splits: Sequence[str | None]) -> Layout:
    """The same images divided by what a column of a metadata file says of each; without a word it is for training."""
    parts: dict[PartName, list[int]] = {}
    for i, split in enumerate(splits):
        part: PartName = next((known for known in PARTS if known == split), "train")
        parts.setdefault(part, []).append(i)
    counts = ", ".join(f"{part} ({len(parts[part])} images)" for part in PARTS if part in parts)
    if "train" not in parts:
        parts = {"train": list(range(len(splits)))}
        counts += ", of which none is for training: all are divided anew"
    return replace(layout, parts=parts, notes=[f"parts by the metadata file: {counts}"])


def scored_parts(layout: Layout, known: Sequence[bool]) -> tuple[dict[PartName, list[int]], list[str]]:
    """The parts of ``layout`` that are of use, and words on the others, once it is ``known`` which images have labels.

    Where training images have labels, a test or validation part without any is left out: it could be neither scored nor
    chosen by. A validation part is the test part where there is no other.
    """
    parts, notes = dict(layout.parts), []
    asked: tuple[PartName, ...] = ("test", "validation")
    if any(known[i] for i in parts["train"]):
        for part in asked:
            if part in parts and not any(known[i] for i in parts[part]):
                without = len(parts.pop(part))
                notes.append(f"no labels in the {part} part: its {without} images are neither scored nor trained on")
    if "test" not in parts and "validation" in parts:
        notes.append("the validation part is the test part, since there is no other")
        parts["test"] = parts.pop("validation")
    return parts, notes


def _by_parts(
    folders: Sequence[Folders],
    names: Sequence[str],
    inner: dict[str | None, list[int]],
    of_name: dict[str, PartName | None],
    depth: int,
    around: Folders,
) -> Layout:
    parts: dict[PartName, list[int]] = {}
    rest: list[Folders] = [()] * len(folders)
    said: dict[PartName, list[str]] = {}
    classes: set[str] = set()
    # Training first: what its classes are tells a folder around a part's images from a class.
    for name, part in sorted(of_name.items(), key=lambda item: (item[1] != "train", item[0])):
        if part is None:
            continue
        start = _inside(folders, inner[name], depth + 1, classes)
        for i in inner[name]:
            rest[i] = folders[i][start:]
        own: dict[PartName, list[int]] = {part: inner[name]}
        if part == "train":
            own = _labelled_or_not(rest, inner[name])
            classes |= {rest[i][0] for i in own["train"] if rest[i]}
        for divided, numbers in own.items():
            parts.setdefault(divided, []).extend(numbers)
            said.setdefault(divided, []).append(name if divided == part else f"those in {name}")
    for numbers in parts.values():
        numbers.sort()
    notes = []
    left = {name: numbers for name, numbers in inner.items() if name is None or of_name[name] is None}
    if "train" not in parts:  # of unlabelled images beside a test part is learned all the same
        parts["train"], said["train"] = parts.pop("unlabeled"), said.pop("unlabeled")
    order: tuple[PartName, ...] = ("train", "validation", "test", "unlabeled")
    listed = [f"{part} ({len(parts[part])} images: {', '.join(said[part])})" for part in order if part in parts]
    joins = "; unlabeled images join training without a label" if "unlabeled" in parts else ""
    notes.append(f"parts: {', '.join(listed)}{joins}")
    for beside, numbers in left.items():
        if beside is None:
            notes.append(f"left out: {some_of(names, numbers)} in no part")
        else:
            notes.append(
                f"left out: {len(numbers)} images in {beside}, which is no part by its name; in a folder named unlabeled they "
                "would join training"
            )
    return Layout(parts=parts, folders=rest, names=names, around=around, notes=notes)


def _labelled_or_not(rest: list[Folders], numbers: list[int]) -> dict[PartName, list[int]]:
    """The images of a training part by its folders ``labeled`` and ``unlabeled``, where those are all it has."""
    own: dict[PartName | None, list[int]] = {}
    for i in numbers:
        own.setdefault(part_of(rest[i][0]) if rest[i] else None, []).append(i)
    if own.keys() != {"train", "unlabeled"}:
        return {"train": numbers}
    for i in numbers:
        rest[i] = rest[i][1:]
    return {"train": own["train"], "unlabeled": own["unlabeled"]}


def _parts_beside_classes(
    folders: Sequence[Folders], inner: dict[str | None, list[int]], of_name: dict[str, PartName | None], depth: int
) -> dict[str, PartName]:
    """Parts among class folders: of unlabelled images by its name, any other where its own folders bear names of those."""
    classes = {name for name, part in of_name.items() if part is None}
    found: dict[str, PartName] = {}
    for name, part in of_name.items():
        if part is None or len(classes) < 2:
            continue
        below = {folders[i][depth + 1] if len(folders[i]) > depth + 1 else None for i in inner[name]}
        if below <= classes or (part == "unlabeled" and re.search("lab|sup|annot", name.lower())):
            found[name] = part
    return found


def _with_classes_to_train(
    folders: Sequence[Folders],
    names: Sequence[str],
    inner: dict[str | None, list[int]],
    beside: dict[str, PartName],
    depth: int,
    around: Folders,
) -> Layout:
    rest = [folder[depth:] for folder in folders]
    parts: dict[PartName, list[int]] = {"train": [i for name in inner if name not in beside for i in inner[name]]}
    said = []
    for name, part in beside.items():
        parts.setdefault(part, []).extend(inner[name])
        said.append(f"{part} ({len(inner[name])} images: {name})")
        for i in inner[name]:
            rest[i] = rest[i][1:]
    for numbers in parts.values():
        numbers.sort()
    joins = "; unlabeled images join training without a label" if "unlabeled" in parts else ""
    note = f"parts: {', '.join(said)}; the class folders beside are for training{joins}"
    return Layout(parts=parts, folders=rest, names=names, around=around, notes=[note])


def _grouped(folders: Sequence[Folders], numbers: Sequence[int], depth: int) -> dict[str | None, list[int]]:
    """The images by their folder at ``depth``; None where they are in none."""
    found: dict[str | None, list[int]] = {}
    for i in numbers:
        found.setdefault(folders[i][depth] if len(folders[i]) > depth else None, []).append(i)
    return found


def _inside(folders: Sequence[Folders], numbers: Sequence[int], depth: int, classes: set[str] | None = None) -> int:
    """The depth below the folders that hold everything else, but for a few stray images; a class holds nothing."""
    while True:
        found = _grouped(folders, numbers, depth)
        strays = len(found.pop(None, ()))
        if len(found) != 1 or not few(strays, len(numbers)) or (classes and next(iter(found)) in classes):
            return depth
        depth += 1


def few(strays: int, images: int) -> bool:
    """Whether so many images without a folder are strays, that leave the others what they are."""
    return strays <= max(_FEW, images // 20) and 4 * strays <= images


def _is_part_beside_others(
    folders: Sequence[Folders], inner: dict[str | None, list[int]], of_name: dict[str, PartName | None], depth: int
) -> bool:
    """Whether one folder named like a training part holds the classes, and the folders beside it hold images alone."""
    deep = {
        name
        for name, numbers in inner.items()
        if name and sum(len(folders[i]) > depth + 1 for i in numbers) > len(numbers) / 2
    }
    return deep == {name for name, part in of_name.items() if part is not None}


def _parts_below_classes(
    folders: Sequence[Folders], inner: dict[str | None, list[int]], depth: int
) -> dict[int, str] | None:
    """The part's folder of each image, where every class is divided by itself: ``cat/train``, ``cat/test``, ``dog/train``."""
    found: dict[int, str] = {}
    if len(inner) < 2 or None in inner:
        return None
    for numbers in inner.values():
        for i in numbers:
            if len(folders[i]) <= depth + 1 or part_of(folders[i][depth + 1]) is None:
                return None
            found[i] = folders[i][depth + 1]
    named = {part_of(name) for name in found.values()}
    return found if "train" in named and len(named) > 1 else None


def _named(folder: str) -> PartName:
    part = part_of(folder)
    assert part is not None
    return part


def some_of(names: Sequence[str], numbers: Sequence[int], one: str = "is", several: str = "are") -> str:
    """The first of the images at ``numbers`` by name, and how many more there are, as the subject of a sentence."""
    if len(numbers) == 1:
        return f"{names[numbers[0]]} {one}"
    if len(numbers) <= 3:
        return f"{', '.join(names[i] for i in numbers)} {several}"
    return f"{names[numbers[0]]} and {len(numbers) - 1} others {several}"
