"""What folders are taken for: each layout by hand, what it is divided into, its classes, and the words that say so."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.data.folder_layout import part_of
from simclr.errors import ConfigError, DataError

Tree = Mapping[str, int]


def build(root: Path, tree: Tree) -> Path:
    """Images at ``{i}`` of each path, so many; a file that is none where it is 0."""
    for path, count in tree.items():
        for i in range(max(1, count)):
            file = root / path.format(i=i)
            file.parent.mkdir(parents=True, exist_ok=True)
            if count:
                Image.new("RGB", (8, 8), (i, 0, 0)).save(file)
            else:
                file.write_text("no image")
    return root


def classes_in(images: ImageSet) -> dict[str, int] | None:
    if images.labels is None:
        return None
    names = [images.classes[label] if label >= 0 else "-" for label in images.labels.tolist()]
    return dict(sorted(Counter(names).items()))


def of_cats_and_dogs(*parts: str, count: int = 5) -> dict[str, int]:
    return {f"{part}/{name}/{{i}}.png": count for part in parts for name in ("cat", "dog")}


BOTH = {"cat": 5, "dog": 5}
HELD_OUT = "no test part: 20 % of every class are held out"

LAYOUTS: dict[str, tuple[Tree, dict[str, int] | None, dict[str, int] | None, dict[str, int] | None, list[str]]] = {
    "parts in capitals": (
        of_cats_and_dogs("Train", "Test"), BOTH, None, BOTH,
        ["parts: train (10 images: Train), test (10 images: Test)", "labels: 2 classes, the first sub-folders"],
    ),
    "three parts": (
        of_cats_and_dogs("TRAIN", "VAL", "TEST"), BOTH, BOTH, BOTH, ["validation (10 images: VAL)"],
    ),
    "unlabelled images beside": (
        of_cats_and_dogs("train") | {"Unlabelled/{i}.png": 9},
        {"-": 9, "cat": 4, "dog": 4}, None, {"cat": 1, "dog": 1},
        ["unlabeled (9 images: Unlabelled); unlabeled images join training without a label", HELD_OUT],
    ),
    "parts inside folders of their names": (
        of_cats_and_dogs("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred/{i}.png": 3},
        {"-": 3, **BOTH}, None, BOTH, ["test (10 images: seg_test)"],
    ),
    "parts with images folders": (of_cats_and_dogs("train_set/images", "val-set/images"), BOTH, None, BOTH,
        ["the validation part is the test part, since there is no other"],
    ),
    "a folder around parts": (
        of_cats_and_dogs("chest/train", "chest/test") | {"__MACOSX/chest/train/cat/{i}.png": 3},
        BOTH, None, BOTH, ["one level down are 2 classes: labels are the first sub-folders of chest"],
    ),
    "a folder around classes": (
        {"images/cat/{i}.png": 5, "images/dog/{i}.png": 5, "readme.md": 0},
        {"cat": 4, "dog": 4}, None, {"cat": 1, "dog": 1},
        ["one level down are 2 classes: labels are the first sub-folders of images, as with --data.path DIR/images"],
    ),
    "one picture that is astray": (
        {"cat/{i}.png": 30, "dog/{i}.png": 30, "overview.png": 1},
        {"-": 1, "cat": 24, "dog": 24}, None, {"cat": 6, "dog": 6}, ["no label: overview.png has no class folder"],
    ),
    "most pictures astray": (
        {"{i}.png": 40, "cat/{i}.png": 5, "dog/{i}.png": 5}, None, None, None,
        ["no labels: 0.png and 39 others have no class folder"],
    ),
    "one astray beside parts": (
        of_cats_and_dogs("train", "test") | {"montage.png": 1}, BOTH, None, BOTH, ["left out: montage.png is in no part"],
    ),
    "a folder beside parts that is none": (
        of_cats_and_dogs("train", "test") | {"masks/{i}.png": 7}, BOTH, None, BOTH,
        ["left out: 7 images in masks, which is no part by its name"],
    ),
    "a test part without labels": (
        of_cats_and_dogs("train") | {"test/{i}.png": 8}, {"cat": 4, "dog": 4}, None, {"cat": 1, "dog": 1},
        ["no labels in the test part: its 8 images are neither scored nor trained on", HELD_OUT],
    ),
    "a class that is named like a part": (
        {"cat/{i}.png": 5, "dog/{i}.png": 5, "test/{i}.png": 5},
        {"cat": 4, "dog": 4, "test": 4}, None, {"cat": 1, "dog": 1, "test": 1}, ["test is taken for a class, like cat"],
    ),
    "no part for training": (
        of_cats_and_dogs("val", "test"), {"cat": 8, "dog": 8}, None, {"cat": 2, "dog": 2},
        ["no part for training beside test and val"],
    ),
    "classes divided one by one": (
        {"cat/train/{i}.png": 5, "cat/test/{i}.png": 5, "dog/train/{i}.png": 5, "dog/test/{i}.png": 5},
        BOTH, None, BOTH, ["parts: the folders test, train in each class"],
    ),
    "another class in the test part": (
        of_cats_and_dogs("train", "test") | {"test/fox/{i}.png": 2}, BOTH, None, {**BOTH, "fox": 2},
        ["classes that training lacks: fox"],
    ),
    "files that are not read": (
        {"cat/{i}.png": 5, "dog/{i}.png": 5, "dog/a.dng": 0, "dog/b.DNG": 0, "film.mp4": 0, "Thumbs.db": 0, "notes.txt": 0},
        {"cat": 4, "dog": 4}, None, {"cat": 1, "dog": 1}, ["left out: 2 .dng, 1 .mp4, which are not read as images"],
    ),
    "unlabelled images beside classes": (
        {"cat/{i}.png": 5, "dog/{i}.png": 5, "Unlabeled/{i}.png": 7},
        {"-": 7, "cat": 4, "dog": 4}, None, {"cat": 1, "dog": 1},
        ["parts: unlabeled (7 images: Unlabeled); the class folders beside are for training", HELD_OUT],
    ),
    "a test part of the same classes beside them": (
        {"cat/{i}.png": 5, "dog/{i}.png": 5, "Test/cat/{i}.png": 3, "Test/dog/{i}.png": 3},
        BOTH, None, {"cat": 3, "dog": 3}, ["parts: test (6 images: Test); the class folders beside are for training"],
    ),
    "labelled and unlabelled images in the training part": (
        of_cats_and_dogs("train/labelled", "test") | {"train/unlabelled/{i}.png": 6},
        {"-": 6, **BOTH}, None, BOTH, ["train (10 images: train)", "unlabeled (6 images: those in train)"],
    ),
    "labelled beside unlabelled": (
        of_cats_and_dogs("labeled") | {"unlabeled/{i}.png": 6},
        {"-": 6, "cat": 4, "dog": 4}, None, {"cat": 1, "dog": 1}, ["unlabeled (6 images: unlabeled)", HELD_OUT],
    ),
    "one folder": ({"cats/{i}.png": 10}, None, None, None, ["no labels: the images are in one folder"]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_taken_for_what_it_is_and_that_is_said(layout: str, tmp_path: Path) -> None:
    tree, training, validation, test, words = LAYOUTS[layout]
    config = DataConfig(source="folder", path=build(tmp_path, tree), size=8)
    images = load_source(config, "train")
    tested = load_source(config, "test")
    if layout == "one picture that is astray":  # chance decides on which side it falls
        found = Counter(classes_in(images)) + Counter(classes_in(tested))
        assert found == Counter(training) + Counter(test)
    else:
        assert (classes_in(images), classes_in(tested)) == (training, test)
    if validation is None:
        with pytest.raises(DataError, match="no validation images"):
            load_source(config, "validation")
    else:
        assert classes_in(load_source(config, "validation")) == validation
    assert len(set(images.notes)) == len(images.notes)
    for line in words:
        assert sum(line in note for note in images.notes) == 1, images.notes


@pytest.mark.parametrize(
    ("how", "classes", "words"),
    [
        (
            "auto",
            ("greek", "latin"),
            "below them are 4 folders more, which --data.labels last or path takes for classes",
        ),
        ("first", ("greek", "latin"), "below them are 4 folders more"),
        ("last", ("a", "b", "c"), "a lies in 2 folders and is one class; --data.labels path keeps them apart"),
        ("path", ("greek/a", "greek/b", "latin/a", "latin/c"), "labels: 4 classes, the paths of folders"),
        ("none", (), "no labels: --data.labels none"),
    ],
)
def test_labels_are_the_first_folder_the_last_or_the_whole_path(
    how: str, classes: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    tree = {f"{place}/{{i}}.png": 5 for place in ("greek/a", "greek/b", "latin/a", "latin/c")}
    config = DataConfig(source="folder", path=build(tmp_path, tree), size=8, labels=how)  # type: ignore[arg-type]
    images = load_source(config, "train")
    assert images.classes == classes
    assert any(words in note for note in images.notes), images.notes
    if classes:
        assert images.labels is not None and images.paths is not None
        for path, label in zip(images.paths, images.labels.tolist(), strict=True):
            folders = path.relative_to(tmp_path).parts[:-1]
            assert classes[label] == {"last": folders[-1], "path": "/".join(folders)}.get(how, folders[0])


def test_a_validation_part_of_the_sets_own_is_never_trained_on_whatever_share_is_asked_for(tmp_path: Path) -> None:
    build(tmp_path, of_cats_and_dogs("train", "valid", "test"))
    for share in (0.0, 0.2):
        config = DataConfig(source="folder", path=tmp_path, size=8, validation=share)
        train, validation = (load_source(config, split) for split in ("train", "validation"))
        assert len(train) == len(validation) == 10
        assert {path.relative_to(tmp_path).parts[0] for path in validation.paths or ()} == {"valid"}
        assert {path.relative_to(tmp_path).parts[0] for path in train.paths or ()} == {"train"}


def test_folders_that_link_to_each_other_are_entered_once(tmp_path: Path) -> None:
    build(tmp_path, {"a/{i}.png": 4, "b/{i}.png": 4})
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    config = DataConfig(source="folder", path=tmp_path, size=8, test_fraction=0.25)
    assert len(load_source(config, "train")) + len(load_source(config, "test")) == 8


def test_a_folder_is_named_by_itself_and_not_by_a_link_to_it_that_comes_first(tmp_path: Path) -> None:
    build(tmp_path, {"cougar/{i}.png": 4, "wolf/{i}.png": 4, ".store/lynx/{i}.png": 4})
    (tmp_path / "a_link").symlink_to(tmp_path / "cougar")
    (tmp_path / "lynx").symlink_to(tmp_path / ".store" / "lynx")  # a store that is hidden is met by its link alone
    config = DataConfig(source="folder", path=tmp_path, size=8, test_fraction=0.25)
    assert load_source(config, "train").classes == ("cougar", "lynx", "wolf")
    assert len(load_source(config, "train")) + len(load_source(config, "test")) == 12


def test_a_process_says_once_what_a_folder_is_taken_for(tmp_path: Path) -> None:
    config = DataConfig(source="folder", path=build(tmp_path, of_cats_and_dogs("train", "test")), size=8)
    first, again = (load_source(config, split) for split in ("train", "test"))
    assert first.first_lines() == list(first.notes)
    assert again.notes == first.notes and again.first_lines() == []


def test_a_group_is_found_in_the_path(tmp_path: Path) -> None:
    build(tmp_path, {f"{name}/p{patient}_{{i}}.png": 2 for name in ("cat", "dog") for patient in (1, 2, 10)})
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "unknown.png")
    config = DataConfig(source="folder", path=tmp_path, size=8, group=r"/p(\d+)_", test_fraction=0.3)
    images = load_source(config, "train").joined(load_source(config, "test"))
    assert images.groups is not None and images.paths is not None
    by_number: dict[int, set[str]] = {}
    for path, group in zip(images.paths, images.groups.tolist(), strict=True):
        by_number.setdefault(group, set()).add(path.name.split("_")[0])
    assert sorted(map(sorted, by_number.values())) == [["p1"], ["p10"], ["p2"], ["unknown.png"]]
    assert any(note.startswith("3 groups by the pattern") and "1 images fit none" in note for note in images.notes)
    for pattern, error, words in (("(", ConfigError, "no regular expression"), ("frame", ConfigError, "fits no path")):
        with pytest.raises(error, match=words):
            load_source(DataConfig(source="folder", path=tmp_path, group=pattern), "train")


def test_words_that_are_no_parts_are_none() -> None:
    for name in ("trainers", "latest", "values", "contest", "images", "cat", "2024", "device", "dev-board"):
        assert part_of(name) is None, name
    for name in ("Training Set", "train2017", "TrainImages", "train_01"):
        assert part_of(name) == "train", name
    assert (part_of("val_large"), part_of("held-out"), part_of("no label")) == (None, "test", "unlabeled")
