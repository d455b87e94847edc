"""Omniglot: its alphabets as its authors divide them, rotations as classes, and a run that never sees the evaluation ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw

from linear_eval.open_set_images import open_set_images
from simclr.config import DataConfig
from simclr.config.yaml import load_config
from simclr.data import load_source, place
from simclr.data.rotations import with_rotations
from simclr.errors import ConfigError, DataError

CPU = torch.device("cpu")
ALPHABETS = {"background": ("Greek", "Latin"), "evaluation": ("Angelic", "Manipuri")}


def drawn(folder: Path, prefix: str = "", drawings: int = 5) -> Path:
    """Two alphabets of two characters to train on and two to score on: strokes on white, 1 bit, 105 px, as the set has them."""
    for part, alphabets in ALPHABETS.items():
        for number, (alphabet, character) in enumerate(
            (a, c) for a in alphabets for c in ("character01", "character02")
        ):
            place = folder / f"{prefix}{part}" / alphabet / character
            place.mkdir(parents=True)
            for i in range(drawings):
                image = Image.new("1", (105, 105), 1)
                ImageDraw.Draw(image).line((20, 20 + 15 * number, 80 + i, 80), fill=0, width=3)
                image.save(place / f"{number:04d}_{i:02d}.png")
    return folder


@pytest.mark.parametrize("prefix", ["images_", "", "omniglot-py/images_"])
def test_the_alphabets_are_apart(prefix: str, tmp_path: Path) -> None:
    config = DataConfig(source="omniglot", path=drawn(tmp_path, prefix), size=28, channels=1, download=False)
    train, test, new = (load_source(config, split) for split in ("train", "test", "held-out"))
    assert train.classes == test.classes == tuple(f"{a}/character0{c}" for a in ("Greek", "Latin") for c in (1, 2))
    assert new.classes == tuple(f"{a}/character0{c}" for a in ("Angelic", "Manipuri") for c in (1, 2))
    assert (len(train), len(test), len(new)) == (16, 4, 20)
    for images in (train, test, new):
        for i, path in enumerate(images.paths):
            assert images.classes[images.labels[i]] == "/".join(path.parts[-3:-1])
    assert not {*train.paths} & {*test.paths}
    pixels = place(train, CPU).pixels
    assert pixels.shape == (16, 1, 28, 28) and pixels.amax() == 255 and pixels.float().mean() > 200  # ink is black
    # Classes that are held out of the background on top of it are for choosing a recipe, and leave the evaluation ones alone.
    known = replace(config, held_out_classes=0.5)
    trained, held_out = load_source(known, "train").classes, load_source(known, "held-out").classes
    assert {*trained, *held_out} == {*train.classes} and not {*trained} & {*held_out}


def test_it_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(tmp_path, "omniglot-py/images_")
    monkeypatch.setattr(torchvision.datasets.Omniglot, "_check_integrity", lambda self: True)
    stored = torchvision.datasets.Omniglot(str(tmp_path), background=False)
    ours = load_source(DataConfig(source="omniglot", path=tmp_path, size=105, channels=1), "held-out")
    theirs = {(np.array(image).tobytes(), stored._characters[label]) for image, label in stored}  # in the disk's order
    assert len(theirs) == len(ours)
    assert theirs == {(ours[i][0].numpy().tobytes(), ours.classes[ours[i][1]]) for i in range(len(ours))}


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    config = DataConfig(source="omniglot", path=tmp_path, size=28, download=False)
    with pytest.raises(DataError, match=r"images_background and images_evaluation.*run the same command again"):
        load_source(config, "train")
    drawn(tmp_path, drawings=1)
    Image.new("1", (8, 8)).save(tmp_path / "background" / "Greek" / "stray.png")
    with pytest.raises(DataError, match=r"stray.png does not lie in .*ALPHABET/CHARACTER"):
        load_source(config, "train")


def test_a_turned_character_is_another(tmp_path: Path) -> None:
    config = DataConfig(source="omniglot", path=drawn(tmp_path), size=28, channels=1)
    images = place(load_source(config, "train"), CPU)
    turned = with_rotations(images)
    assert len(turned) == 64 and len(turned.classes) == 16
    for quarter in range(4):
        for i in range(16):
            upright = images.pixels[i, 0].numpy()
            assert np.array_equal(turned.pixels[16 * quarter + i, 0].numpy(), np.rot90(upright, quarter))
            assert turned.labels[16 * quarter + i] == images.labels[i] + 4 * quarter
            assert turned.describe(16 * quarter + i) == images.describe(i)
    assert turned.classes[5] == "Greek/character02, turned 90 degrees"
    without = with_rotations(replace(images, labels=torch.where(images.labels == 0, -1, images.labels)))
    assert torch.equal(without.labels < 0, (images.labels == 0).repeat(4))
    with pytest.raises(ConfigError, match=r"data.rotations .*--data.device-resident yes"):
        with_rotations(load_source(config, "train"))


def test_a_run_sees_turned_images_and_is_scored_by_one_shot_of_new_alphabets(tmp_path: Path, script: Any) -> None:
    drawn(tmp_path / "data")
    words = (
        "omniglot", "--data.path", tmp_path / "data", "--data.test-fraction", "0.2", "--out", tmp_path, "--name", "o",
        "--encoder.layers", "1", "1", "1", "1", "--encoder.channels", "4", "4", "8", "8", "--train.epochs", "1",
        "--train.batch-size", "16", "--sampler.classes", "8", "--sampler.per-class", "2", "--train.knn-every", "0",
    )  # fmt: skip
    code, _, errors = script("pretrain")(*words)
    assert code == 0, errors
    assert "64 images of omniglot" in errors and "4 steps of 16 images" in errors  # 16 of them, and these turned
    scores = json.loads((tmp_path / "o" / "one-shot.json").read_text())
    assert scores["data"]["test"]["classes"] == [f"{a}/character0{c}" for a in ALPHABETS["evaluation"] for c in (1, 2)]
    assert not (tmp_path / "o" / "result.json").exists()
    config = load_config(tmp_path / "o" / "config.yaml")
    scored = open_set_images(config.data, config)
    assert scored.trained_on == (0, 1, 2, 3) and scored.disjoint.startswith("checked")
