"""Image sources: labels from folders, splits that do not overlap, dirt that is named, and sets that are not there."""

import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from simclr.config import DataConfig
from simclr.data import load_source, place
from simclr.errors import ConfigError, DataError

CPU = torch.device("cpu")


def test_digits_are_whole_and_split_by_class() -> None:
    train, test = (load_source(DataConfig(size=16), split) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert train.pixels.shape[1:] == (3, 16, 16)
    shares = torch.bincount(test.labels) / (torch.bincount(test.labels) + torch.bincount(train.labels))
    assert ((shares - 0.2).abs() < 0.01).all()
    both = torch.cat([train.pixels, test.pixels]).flatten(1)
    # The set has a few images twice; a split that overlapped would have hundreds.
    assert len(both.unique(dim=0)) > 1780


def test_a_labelled_folder(image_folder: Path) -> None:
    config = DataConfig(source="folder", path=image_folder, size=32, test_fraction=0.25)
    train, test = load_source(config, "train"), load_source(config, "test")
    assert train.classes == ("cats", "dogs")
    assert {p.name for p in train.paths} | {p.name for p in test.paths} == {f"{i:02d}.png" for i in range(24)}
    assert not {*train.paths} & {*test.paths}
    assert torch.bincount(test.labels).tolist() == [3, 3]
    for index, path in enumerate(train.paths):
        assert train.classes[train[index][1]] == path.relative_to(image_folder).parts[0]
        assert train[index][0].shape == (3, 32, 32)
    resident = place(train, CPU, "yes")
    assert torch.equal(resident.pixels[3], train[3][0])


def test_folders_of_their_own_for_train_and_test(tmp_path: Path) -> None:
    for part, classes in (("train", "ab"), ("val", "bac")):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / part / name / f"{i}.png")
    config = DataConfig(source="folder", path=tmp_path, size=8)
    train, test = load_source(config, "train"), load_source(config, "test")
    assert train.classes == ("a", "b")
    assert test.classes == ("a", "b", "c")  # a class that training has not seen comes last
    for index, path in enumerate(test.paths):
        assert test.classes[test.labels[index]] == path.parent.name


@pytest.mark.parametrize("layout", ["flat", "one sub-folder", "mixed", "ignored"])
def test_unlabelled_folders(layout: str, tmp_path: Path) -> None:
    places = {"flat": ["", ""], "one sub-folder": ["a", "a"], "mixed": ["", "a"], "ignored": ["a", "b"]}[layout]
    for i in range(8):
        folder = tmp_path / places[i % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    labels = "none" if layout == "ignored" else "auto"
    train = load_source(DataConfig(source="folder", path=tmp_path, size=8, labels=labels), "train")
    assert train.labels is None
    assert train[0][1] == -1


def test_a_link_that_leads_back_is_not_followed(image_folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (8, 8)).save(elsewhere / "new.png")
    (image_folder / "dogs" / "back").symlink_to(image_folder)
    (image_folder / "cats" / "more").symlink_to(elsewhere)  # another folder: followed
    config = DataConfig(source="folder", path=image_folder, size=8)
    assert len(load_source(config, "train")) + len(load_source(config, "test")) == 25


def test_a_test_part_that_takes_all_is_refused(image_folder: Path) -> None:
    with pytest.raises(DataError, match="leaves none to train on"):
        load_source(DataConfig(source="folder", path=image_folder, size=8, test_fraction=0.99), "train")


def test_hidden_and_foreign_files_are_not_images(image_folder: Path) -> None:
    (image_folder / "cats" / "notes.txt").write_text("hello")
    (image_folder / "cats" / "._00.png").write_bytes(b"\0")
    (image_folder / ".cache").mkdir()
    Image.new("RGB", (8, 8)).save(image_folder / ".cache" / "thumb.png")
    config = DataConfig(source="folder", path=image_folder, size=8)
    assert len(load_source(config, "train")) + len(load_source(config, "test")) == 24


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_broken_files_are_named_or_left_out(resident: Any, image_folder: Path) -> None:
    (image_folder / "cats" / "bad1.jpg").write_bytes(b"\xff\xd8 nothing")
    (image_folder / "dogs" / "bad2.png").write_bytes(b"")
    config = DataConfig(source="folder", path=image_folder, size=8, test_fraction=0.01)
    with pytest.raises(DataError, match=r"2 of 25 files do not decode: .*bad1\.jpg.*bad2\.png.*--data.broken skip"):
        place(load_source(config, "train"), CPU, "yes")
    kept = place(load_source(replace(config, broken="skip"), "train"), CPU, resident)
    assert len(kept) == len(kept.labels) == len(kept.paths) == 23
    assert (kept.pixels is None) == (resident == "no")


def test_limit_takes_the_same_images_every_time() -> None:
    config = DataConfig(size=8, limit=100)
    assert torch.equal(load_source(config, "train").pixels, load_source(config, "train").pixels)
    assert len(load_source(config, "train")) == 100
    assert len(load_source(config, "test")) == 359  # the test set stays whole


@pytest.mark.parametrize("fault", ["missing", "empty", "file", "unset", "locked"])
def test_a_folder_that_cannot_serve(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "photos"
    if fault == "file":
        root.write_text("")
    elif fault != "missing":
        root.mkdir()
    if fault == "locked":

        def forbidden(path: object) -> None:  # the superuser can read any folder, so the system's answer is made up
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("os.scandir", forbidden)
    said = {
        "missing": "does not exist",
        "empty": "no image below",
        "file": "is a file",
        "unset": "data.path is not set",
        "locked": "cannot be read",
    }[fault]
    with pytest.raises((DataError, ConfigError), match=said):
        load_source(DataConfig(source="folder", path=None if fault == "unset" else root), "train")


@pytest.mark.parametrize(
    ("source", "file"),
    [("cifar10", "cifar-10-python.tar.gz"), ("cifar100", "cifar-100-python.tar.gz"), ("stl10", "stl10_binary.tar.gz")],
)
def test_without_a_network_one_line_names_the_file(
    source: Any, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(DataError) as error:
        load_source(DataConfig(source=source, path=tmp_path), "train")
    assert file in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_cifar10_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of the real archive, with 20 images a part; torchvision's check of the digest is switched off."""
    import pickle

    import numpy as np
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        content = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    train = load_source(DataConfig(source="cifar10", path=tmp_path, size=32), "train")
    stored = CIFAR10(tmp_path, train=True)
    assert len(train) == 100
    assert np.array_equal(train.pixels[7].permute(1, 2, 0).numpy(), stored.data[7])
    assert train.classes == tuple("abcdefghij")
    assert load_source(DataConfig(source="cifar10", path=tmp_path, size=16), "test").pixels.shape == (20, 3, 16, 16)
