"""How a folder of images is divided, by the names of its folders, and the words that say so. A function of the paths alone.

What is decided is decided for each folder, with the number of its images; the images follow, however many they are.

>>> folders = [("Train", "cat"), ("Train", "dog"), ("Test", "cat"), ("Test", "dog")]
>>> layout = find_layout(folders, torch.tensor([0, 1, 1, 2, 3]), ["1.png"] * 5)
>>> {part: numbers.tolist() for part, numbers in layout.parts.items()}
{'train': [0, 1, 2], 'test': [3, 4]}
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from simclr.data.folder_tree import Folders, Layout, Tree, some_of
from simclr.data.part_names import PARTS, PartName, part_of
from simclr.data.places import Chosen

__all__ = ["PartName", "by_column", "find_layout", "part_of", "scored_parts"]


def find_layout(folders: Sequence[Folders], of: Tensor, names: Sequence[str]) -> Layout:
    """Divide images by the names of the folders that lead to them.

    Folders that are parts by name divide the set where one of them is for training and another is not, or where all are parts;
    they may stand below one folder around everything, and below each class. Images of folders beside them are left out. One
    folder named like a part among class folders is a class.

    Args:
        folders: each once, from the set's folder down, in the order of the first image of each.
        of: int64 (N,), which of them each image is in.
        names: of each image, for messages.
    """
    tree, every = Tree(folders, of, names), list(range(len(folders)))
    depth = tree.inside(every, 0)
    around = folders[next(i for i in every if len(folders[i]) >= depth)][:depth]
    inner = tree.grouped(every, depth)
    of_name = {name: part_of(name) for name in inner if name is not None}
    found = {part for part in of_name.values() if part is not None}
    notes: list[str] = []
    by_class = _parts_below_classes(tree, inner, depth)
    beside = _parts_beside_classes(tree, inner, of_name, depth)
    if len(found) > 1 and ("train" in found or "unlabeled" in found or None not in of_name.values()):
        if "train" not in found and "unlabeled" not in found:
            named = " and ".join(name for name, part in of_name.items() if part is not None)
            notes.append(f"no part for training beside {named}: all their images are divided anew")
            return tree.divided({"train": every}, [folder[depth + 1 :] for folder in folders], around, notes)
        return _by_parts(tree, inner, of_name, depth, around)
    if "train" in found and _is_part_beside_others(tree, inner, of_name, depth):
        return _by_parts(tree, inner, of_name, depth, around)
    if beside:
        return _with_classes_to_train(tree, inner, beside, depth, around)
    if by_class is not None:
        notes.append("parts: the folders " + ", ".join(sorted(set(by_class.values()))) + " in each class")
        parts: dict[PartName, list[int]] = {}
        for i in every:
            part = by_class.get(i)
            parts.setdefault(_named(part) if part is not None else "train", []).append(i)
        rest = [folder[depth : depth + 1] + folder[depth + 2 :] for folder in folders]
        return tree.divided(parts, rest, around, notes)
    for name, part in of_name.items():
        if part is not None:
            notes.append(
                f"{name} is taken for a class, like {next((other for other in of_name if other != name), 'the rest')}: "
                "beside folders that are no parts of a set it is none"
            )
    return tree.divided({"train": every}, [folder[depth:] for folder in folders], around, notes)


def by_column(layout: Layout, splits: Sequence[str | None]) -> Layout:
    """The same images divided by what a column of a metadata file says of each; without a word it is for training."""
    if isinstance(splits, Chosen):  # which of a few words each is
        words, said = list(splits.items), splits.rows
    else:
        words = list(dict.fromkeys(splits))
        number = {word: i for i, word in enumerate(words)}
        said = torch.tensor([number[word] for word in splits], dtype=torch.int64)
    part_of_word = [word if word in PARTS else "train" for word in words]
    names: tuple[PartName, ...] = tuple(PARTS)
    code = torch.tensor([names.index(part) for part in part_of_word])[said]
    parts = {part: rows for i, part in enumerate(names) if len(rows := (code == i).nonzero().flatten())}
    counts = ", ".join(f"{part} ({len(parts[part])} images)" for part in PARTS if part in parts)
    if "train" not in parts:
        parts = {"train": torch.arange(len(splits))}
        counts += ", of which none is for training: all are divided anew"
    return replace(layout, parts=parts, notes=[f"parts by the metadata file: {counts}"])


def scored_parts(layout: Layout, known: Tensor) -> tuple[dict[PartName, Tensor], list[str]]:
    """The parts of ``layout`` that are of use, and words on the others, once it is ``known`` (N,) which images have labels.

    Where training images have labels, a test or validation part without any is left out: it could be neither scored nor
    chosen by. A validation part is the test part where there is no other.
    """
    parts, notes = dict(layout.parts), []
    asked: tuple[PartName, ...] = ("test", "validation")
    if bool(known[parts["train"]].any()):
        for part in asked:
            if part in parts and not bool(known[parts[part]].any()):
                without = len(parts.pop(part))
                notes.append(f"no labels in the {part} part: its {without} images are neither scored nor trained on")
    if "test" not in parts and "validation" in parts:
        notes.append("the validation part is the test part, since there is no other")
        parts["test"] = parts.pop("validation")
    return parts, notes


def _by_parts(
    tree: Tree, inner: dict[str | None, list[int]], of_name: dict[str, PartName | None], depth: int, around: Folders
) -> Layout:
    parts: dict[PartName, list[int]] = {}
    rest: list[Folders] = [()] * len(tree.folders)
    said: dict[PartName, list[str]] = {}
    classes: set[str] = set()
    # Training first: what its classes are tells a folder around a part's images from a class.
    for name, part in sorted(of_name.items(), key=lambda item: (item[1] != "train", item[0])):
        if part is None:
            continue
        start = tree.inside(inner[name], depth + 1, classes)
        for i in inner[name]:
            rest[i] = tree.folders[i][start:]
        own: dict[PartName, list[int]] = {part: inner[name]}
        if part == "train":
            own = _labelled_or_not(rest, inner[name])
            classes |= {rest[i][0] for i in own["train"] if rest[i]}
        for divided, folders in own.items():
            parts.setdefault(divided, []).extend(folders)
            said.setdefault(divided, []).append(name if divided == part else f"those in {name}")
    notes = []
    left = {name: folders for name, folders in inner.items() if name is None or of_name[name] is None}
    if "train" not in parts:  # of unlabelled images beside a test part is learned all the same
        parts["train"], said["train"] = parts.pop("unlabeled"), said.pop("unlabeled")
    order: tuple[PartName, ...] = ("train", "validation", "test", "unlabeled")
    listed = [f"{part} ({tree.images(parts[part])} images: {', '.join(said[part])})" for part in order if part in parts]
    joins = "; unlabeled images join training without a label" if "unlabeled" in parts else ""
    notes.append(f"parts: {', '.join(listed)}{joins}")
    for beside, folders in left.items():
        if beside is None:
            notes.append(f"left out: {some_of(tree.names, tree.numbers(folders))} in no part")
        else:
            notes.append(
                f"left out: {tree.images(folders)} images in {beside}, which is no part by its name; in a folder named unlabeled "
                "they would join training"
            )
    return tree.divided(parts, rest, around, notes)


def _labelled_or_not(rest: list[Folders], inside: list[int]) -> dict[PartName, list[int]]:
    """The folders of a training part by its folders ``labeled`` and ``unlabeled``, where those are all it has."""
    own: dict[PartName | None, list[int]] = {}
    for i in inside:
        own.setdefault(part_of(rest[i][0]) if rest[i] else None, []).append(i)
    if own.keys() != {"train", "unlabeled"}:
        return {"train": inside}
    for i in inside:
        rest[i] = rest[i][1:]
    return {"train": own["train"], "unlabeled": own["unlabeled"]}


def _parts_beside_classes(
    tree: Tree, inner: dict[str | None, list[int]], of_name: dict[str, PartName | None], depth: int
) -> dict[str, PartName]:
    """Parts among class folders: of unlabelled images by its name, any other where its own folders bear names of those."""
    classes = {name for name, part in of_name.items() if part is None}
    found: dict[str, PartName] = {}
    for name, part in of_name.items():
        if part is None or len(classes) < 2:
            continue
        below = {tree.folders[i][depth + 1] if len(tree.folders[i]) > depth + 1 else None for i in inner[name]}
        if below <= classes or (part == "unlabeled" and re.search("lab|sup|annot", name.lower())):
            found[name] = part
    return found


def _with_classes_to_train(
    tree: Tree, inner: dict[str | None, list[int]], beside: dict[str, PartName], depth: int, around: Folders
) -> Layout:
    rest = [folder[depth:] for folder in tree.folders]
    parts: dict[PartName, list[int]] = {"train": [i for name in inner if name not in beside for i in inner[name]]}
    said = []
    for name, part in beside.items():
        parts.setdefault(part, []).extend(inner[name])
        said.append(f"{part} ({tree.images(inner[name])} images: {name})")
        for i in inner[name]:
            rest[i] = rest[i][1:]
    joins = "; unlabeled images join training without a label" if "unlabeled" in parts else ""
    note = f"parts: {', '.join(said)}; the class folders beside are for training{joins}"
    return tree.divided(parts, rest, around, [note])


def _is_part_beside_others(
    tree: Tree, inner: dict[str | None, list[int]], of_name: dict[str, PartName | None], depth: int
) -> bool:
    """Whether one folder named like a training part holds the classes, and the folders beside it hold images alone."""
    deep = {
        name
        for name, inside in inner.items()
        if name and tree.images([i for i in inside if len(tree.folders[i]) > depth + 1]) > tree.images(inside) / 2
    }
    return deep == {name for name, part in of_name.items() if part is not None}


def _parts_below_classes(tree: Tree, inner: dict[str | None, list[int]], depth: int) -> dict[int, str] | None:
    """The part's folder of each folder, where every class is divided by itself: ``cat/train``, ``cat/test``, ``dog/train``."""
    found: dict[int, str] = {}
    if len(inner) < 2 or None in inner:
        return None
    for inside in inner.values():
        for i in inside:
            folder = tree.folders[i]
            if len(folder) <= depth + 1 or part_of(folder[depth + 1]) is None:
                return None
            found[i] = folder[depth + 1]
    named = {part_of(name) for name in found.values()}
    return found if "train" in named and len(named) > 1 else None


def _named(folder: str) -> PartName:
    part = part_of(folder)
    assert part is not None
    return part
