"""``evaluate.py RUN --protocol one-shot``: its figures, what it writes, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import simclr
from conftest import Command
from linear_eval import evaluate_one_shot, few_shot, lake_trials, load_runs
from linear_eval.evaluate_few_shot import _parents
from linear_eval.matching.trials import LAKE
from linear_eval.scored_run import ScoredRun
from simclr.config.yaml import load_config
from simclr.data import load_source
from simclr.exchange.classifier import export_head, load_classifier
from simclr.losses import SiameseConfig, TripletConfig
from simclr.objectives import build_objective

QUICK = ["--eval.episodes", "50", "--eval.pixel-size", "8"]


@pytest.fixture
def evaluate(script) -> Command:
    return script("evaluate")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two alphabets of six and of five letters, eight drawings each: a shape, moved and with noise."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("letters")
    for alphabet, count in (("Greek", 6), ("Klingon", 5)):
        for letter in range(count):
            shape = np.kron(rng.random((4, 4)) < 0.5, np.ones((4, 4), bool))
            folder = root / alphabet / f"character{letter:02d}"
            folder.mkdir(parents=True)
            for number in range(8):
                moved = np.roll(shape, rng.integers(-3, 4, 2), (0, 1)) ^ (rng.random((16, 16)) < 0.05)
                Image.fromarray(~moved).save(folder / f"{number}.png")
    return root


def cosines(x: torch.Tensor, rows: torch.Tensor, shots: int) -> torch.Tensor:
    """Whether queries of episodes (E, N, K + 1) are nearest to the mean of their class's K images, (E, N)."""
    z = torch.nn.functional.normalize(x.double(), dim=1)[rows]
    means = torch.nn.functional.normalize(z[:, :, :shots].mean(2), dim=2)
    return (z[:, :, shots] @ means.mT).argmax(2) == torch.arange(rows.shape[1])


@pytest.mark.pictures
def test_images_and_given_trials(
    pretrained: Path, letters: Path, lake_runs: Path, evaluate: Command, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "runs"), "zip", lake_runs)
    words = ["--data.source", "folder", "--data.path", letters, "--data.labels", "path"]
    code, out, err = evaluate(
        pretrained, "--protocol", "one-shot", "--runs", archive, *words, *QUICK, "--out", tmp_path / "out"
    )
    assert code == 0, err
    said = " ".join(out.split())
    for words_of_the_screen in ("given trials", "5-way 5-shot, within", "untrained", "raw pixels", "over 3 runs"):
        assert words_of_the_screen in said
    assert "20-way 1-shot needs 20 classes of 2 images, there are 11" in said
    assert "Lake's 400 trials" not in said and LAKE not in said
    result = json.loads((tmp_path / "out" / "one-shot.json").read_text())
    assert result["data"]["test"]["images"] == 88 and len(result["data"]["test"]["classes"]) == 11
    assert result["runs"] == {
        "name": "runs.zip", "runs": 3, "trials": 9, "ways": [2, 4, 5], "key": result["runs"]["key"], "lake": False,
    }  # fmt: skip
    # The figures again, from the files and the loaded encoder.
    run = ScoredRun.at(pretrained)
    data = replace(run.data, source="folder", path=letters, labels="path")
    parts = [load_source(data, part) for part in ("train", "test")]
    images = parts[0].joined(parts[1]).resident(torch.device("cpu"))
    encoder = simclr.load_encoder(pretrained)
    with torch.no_grad():
        x = encoder(images.pixels)
    row = result["rows"]["encoder"]
    for ways, shots, within in ((5, 1, False), (5, 5, False), (5, 1, True)):
        group = torch.tensor([name.startswith("K") for name in images.classes]).long()[images.labels]
        drawn = few_shot(x, images.labels, ways, shots, episodes=50, within=group if within else None)
        mine = cosines(x, drawn.rows, shots).double().mean().item()
        assert row[f"{ways}-way {shots}-shot{', within' if within else ''}"]["accuracy"] == pytest.approx(
            mine, abs=0.01
        )
    trials = load_runs(lake_runs, size=32)
    with torch.no_grad():
        z = torch.nn.functional.normalize(encoder(trials.images.pixels).double(), dim=1)
    right = [
        int((z[one.candidates] @ z[query]).argmax()) == int(answer)
        for one in trials.runs
        for query, answer in zip(one.queries, one.answers, strict=True)
    ]
    assert row["given trials"]["accuracy"] == pytest.approx(np.mean(right))
    gain = result["comparison"]["encoder - raw pixels"]["5-way 1-shot"]
    assert gain["difference"] == pytest.approx(
        row["5-way 1-shot"]["accuracy"] - result["rows"]["raw pixels"]["5-way 1-shot"]["accuracy"]
    )
    with Image.open(tmp_path / "out" / "one-shot.png") as picture:
        assert picture.mode == "P" and picture.size[1] > 300 and picture.size[0] > 400
        assert len(picture.getcolors()) > 8
    assert {Path(line).name for line in err.splitlines() if line.startswith(str(tmp_path))} == {
        "one-shot.json",
        "one-shot.png",
    }


@pytest.fixture(scope="module")
def siamese(tmp_path_factory: pytest.TempPathFactory, letters: Path) -> Path:
    """A Siamese run of two steps that held nothing out."""
    config = simclr.preset("digits")
    config = replace(
        config,
        name="pairs",
        out=tmp_path_factory.mktemp("siamese"),
        objective=SiameseConfig(distance="manhattan"),
        data=replace(config.data, source="folder", path=letters, labels="path", size=16, workers=0),
        augment=replace(config.augment, size=16),
        encoder=replace(config.encoder, name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=replace(config.head, out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=0),
        train=replace(config.train, epochs=1, batch_size=32, precision="fp32", knn_every=0, evaluate=False),
    )
    return simclr.pretrain(config).run_dir


def test_a_siamese_run_is_also_compared_as_it_was_trained(siamese: Path, lake_runs: Path) -> None:
    result = evaluate_one_shot(siamese, runs=lake_runs)
    assert list(result["rows"]) == ["encoder", "p(same)", "untrained", "raw pixels"]
    assert result["data"] is None and "was trained on the labels of every class" in result["left_out"]
    classifier, trials = load_classifier(siamese), load_runs(lake_runs, size=16)
    with torch.no_grad():
        z = torch.nn.functional.normalize(classifier.embed(trials.images.pixels).double(), dim=1)
    right = [
        int((z[one.candidates] - z[query]).abs().sum(1).argmin()) == int(answer)
        for one in trials.runs
        for query, answer in zip(one.queries, one.answers, strict=True)
    ]
    assert result["rows"]["p(same)"]["given trials"]["accuracy"] == pytest.approx(np.mean(right))
    assert (siamese / "one-shot.json").exists() and (siamese / "one-shot.png").exists()


def test_another_supervised_run_has_a_row_with_its_head(siamese: Path, lake_runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(siamese, tmp_path / "triplets")
    config, head = load_config(run / "config.yaml"), load_classifier(run).head
    objective = build_objective(TripletConfig(), classes=2, dim=16, samples=9, seed=0)
    export_head(
        run / "encoder", head, objective, head_config=config.head, objective_config=TripletConfig(), classes=("a", "b"),
        sizes={"classes": 2, "dim": 16, "samples": 9},
    )  # fmt: skip
    result = evaluate_one_shot(run, runs=lake_runs)
    trials = load_runs(lake_runs, size=16)
    with torch.no_grad():
        mine = lake_trials(load_classifier(run).embed(trials.images.pixels), trials)
    assert list(result["rows"]) == ["encoder", "with head", "untrained", "raw pixels"]
    assert result["rows"]["with head"]["given trials"]["accuracy"] == pytest.approx(mine.accuracy)
    plain = shutil.copytree(Path(__file__).parent / "written_before" / "classes", tmp_path / "classes")
    assert list(evaluate_one_shot(plain, runs=lake_runs)["rows"]) == [
        "encoder",
        "untrained",
        "raw pixels",
    ]  # a head of no layer


def test_without_runs_a_supervised_run_needs_new_classes(siamese: Path, evaluate: Command) -> None:
    code, out, err = evaluate(siamese, "--protocol", "one-shot")
    assert code == 2 and out == "" and "--data.held-out-classes 0.4" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "x.zip"], "--runs x.zip is for one-shot trials; add --protocol one-shot"),
        (["--protocol", "one-shot", "--runs", "x.zip"], "x.zip is not there; expected Lake's form"),
        (["--protocol", "one-shot", "--eval.episodes", "0"], "episodes is 0: expected at least 1"),
        (["--protocol", "one-shot", "--save-probe"], "leave out --protocol one-shot, or --save-probe"),
        (["--protocol", "oneshot"], "'closed', 'open-set', 'one-shot'"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(pretrained: Path, evaluate: Command, words: list[str], said: str) -> None:
    code, out, err = evaluate(pretrained, *words)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_parents_need_two_and_enough_classes() -> None:
    names = tuple(f"{alphabet}/{letter}" for alphabet in "ab" for letter in "cdefg")
    assert _parents(names, torch.arange(10)).tolist() == [0] * 5 + [1] * 5
    assert _parents(names, torch.arange(4)) is None  # one alphabet, of four letters
    assert _parents(names, torch.tensor([0, 1, 2, 3, 5, 6])) is None  # none of five
    assert _parents(tuple("abcdefgh"), torch.arange(8)) is None
