"""Test images that pretraining saw: labels that come later divide a folder in another way, and the report says so."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import simclr
from linear_eval.config import EvalConfig
from linear_eval.evaluate import evaluate_run
from linear_eval.seen import seen_in_training
from simclr.config import TrainConfig
from simclr.data import load_source


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), (6 * number, 40, 200 - 5 * number)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def unlabelled_run(photos: Path, tiny_run: TrainConfig) -> TrainConfig:
    data = replace(tiny_run.data, source="folder", path=photos, limit=None, labels="none")
    config = replace(tiny_run, data=data, train=replace(tiny_run.train, batch_size=8, epochs=1, knn_every=0))
    assert simclr.pretrain(config).finished
    return config


def test_images_that_were_labelled_afterwards(
    unlabelled_run: TrainConfig, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in photos.iterdir())
    chosen = random.Random(0).sample(names, 30)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{n},{'ab'[int(n[:2]) % 2]}\n" for n in chosen))
    labelled = replace(unlabelled_run.data, labels=tmp_path / "labels.csv")
    result = evaluate_run(unlabelled_run.run_dir, labelled, EvalConfig(trials=0, resamples=20))
    trained = {path.name for path in load_source(unlabelled_run.data, "train").paths}
    tested = {path.name for path in load_source(labelled, "test").paths}
    assert len(trained & tested) > 0
    assert result["data"]["test"]["trained_on"] == len(trained & tested)
    said = " ".join(capsys.readouterr().out.split())
    assert f"the encoder was trained on {len(trained & tested)} of the {len(tested)} test images" in said


def test_a_runs_own_test_images_are_new_and_what_is_gone_cannot_be_told(
    unlabelled_run: TrainConfig, photos: Path
) -> None:
    test = load_source(unlabelled_run.data, "test")
    assert seen_in_training(unlabelled_run.data, test) == 0
    photos.rename(photos.with_name("elsewhere"))
    assert seen_in_training(unlabelled_run.data, test) is None
    assert seen_in_training(None, test) is None
