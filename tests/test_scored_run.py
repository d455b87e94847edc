"""Test images that pretraining saw: labels that come later divide a folder in another way, and the report says so."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import simclr
from linear_eval.config import EvalConfig
from linear_eval.evaluate import evaluate_run
from linear_eval.evaluate_open import evaluate_open_set
from linear_eval.finetuned import evaluate_finetuned
from linear_eval.scored_run import ScoredRun, count_trained_on
from simclr.config import DataConfig, HeadConfig, TrainConfig
from simclr.data import load_source
from simclr.losses import CrossEntropyConfig


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


@pytest.fixture
def labelled(unlabelled_run: TrainConfig, photos: Path, tmp_path: Path) -> DataConfig:
    """30 of the 40 photos, of two classes that a file names after pretraining."""
    names = sorted(path.name for path in photos.iterdir())
    chosen = random.Random(0).sample(names, 30)
    (tmp_path / "names.csv").write_text("path,label\n" + "".join(f"{n},{'ab'[int(n[:2]) % 2]}\n" for n in chosen))
    return replace(unlabelled_run.data, labels=tmp_path / "names.csv")


def both(unlabelled_run: TrainConfig, labelled: DataConfig) -> tuple[int, int]:
    """Test images with a label that were trained on, and test images with a label."""
    trained = {path.name for path in load_source(unlabelled_run.data, "train").paths}
    tested = {path.name for path in load_source(labelled, "test").labelled().paths}
    assert len(trained & tested) > 0
    return len(trained & tested), len(tested)


def test_images_that_were_labelled_afterwards(
    unlabelled_run: TrainConfig, labelled: DataConfig, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The run's list holds whatever file the labels are in.
    assert (
        evaluate_run(unlabelled_run.run_dir, labelled, EvalConfig(trials=0, resamples=20))["data"]["test"]["trained_on"]
        == 0
    )
    capsys.readouterr()
    (unlabelled_run.run_dir / "images.csv").unlink()  # as a run of an earlier version: divided anew, by class
    result = evaluate_run(unlabelled_run.run_dir, labelled, EvalConfig(trials=0, resamples=20))
    seen, tested = both(unlabelled_run, labelled)
    assert result["data"]["test"]["trained_on"] == seen
    assert f"the encoder was trained on {seen} of the {tested} test images" in " ".join(capsys.readouterr().out.split())
    # Another report than that of the run's own labels, which it leaves alone.
    (report,) = unlabelled_run.run_dir.glob(f"on-folder-{photos.name}-names-*")
    assert (report / "result.json").exists()
    assert not (unlabelled_run.run_dir / "result.json").exists()


def test_fine_tuning_and_the_open_set_say_it_too(
    unlabelled_run: TrainConfig, labelled: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, tested = both(unlabelled_run, labelled)
    (unlabelled_run.run_dir / "images.csv").unlink()  # as a run of an earlier version: divided anew, by class
    config = replace(
        unlabelled_run,
        name="tuned",
        data=labelled,
        encoder=replace(unlabelled_run.encoder, init=str(unlabelled_run.run_dir)),
        head=HeadConfig(layers=0),
        objective=CrossEntropyConfig(),
        augment=replace(unlabelled_run.augment, views=1),
        train=replace(unlabelled_run.train, scratch=False),
    )
    assert simclr.pretrain(config).finished
    result = evaluate_finetuned(config)
    assert result["data"]["trained_on"] == seen
    assert f"the encoder was trained on {seen} of the {tested} test images" in " ".join(capsys.readouterr().out.split())
    found = evaluate_open_set(unlabelled_run.run_dir, labelled)
    assert found["data"]["test"]["trained_on"] == seen
    assert f"the encoder was trained on {seen} of the {tested} test images" in " ".join(capsys.readouterr().out.split())


def test_a_runs_own_test_images_are_new_and_what_is_gone_cannot_be_told(
    unlabelled_run: TrainConfig, photos: Path
) -> None:
    test = load_source(unlabelled_run.data, "test")
    assert count_trained_on(unlabelled_run.data, test) == 0
    photos.rename(photos.with_name("elsewhere"))
    assert count_trained_on(unlabelled_run.data, test) is None
    assert ScoredRun(unlabelled_run.run_dir.with_name("elsewhere")).count_trained_on(test) is None
