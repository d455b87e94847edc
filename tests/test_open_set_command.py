"""``evaluate.py RUN --protocol open-set``: its figures by brute force, what it writes, and what it refuses."""

import hashlib
import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve

import linear_eval
import simclr
from linear_eval import EvalConfig, load_verification
from linear_eval.features.extract import Features
from linear_eval.open_set_images import open_set_images
from linear_eval.reports import embeddings as embedding_report
from linear_eval.reports.open_set import write_open_set
from linear_eval.reports.projector import checkpoint_encoders, write_run_projector
from linear_eval.scored_run import ScoredRun
from simclr.command_line import run_command
from simclr.config import EncoderConfig, HeadConfig, LoopConfig, TrainConfig
from simclr.config.yaml import load_config
from simclr.data import load_source
from simclr.errors import CheckpointError, DataError
from simclr.losses import TripletConfig

ROOT = Path(__file__).parent.parent
QUICK = ["--eval.pixel-size", "8", "--eval.one-shot-trials", "400", "--eval.trials", "0", "--eval.resamples", "50"]
PICTURES = ("roc.png", "pairs.png", "map-pca.png", "map-tsne.png")


def tiny(out: Path, name: str, **data: Any) -> TrainConfig:
    """Digits, one epoch of a ResNet of 20k parameters."""
    config = simclr.preset("digits")
    loop = LoopConfig(epochs=1, batch_size=64, precision="fp32", checkpoint_every=4, keep_checkpoints=2, knn_every=0)
    return replace(
        config,
        name=name,
        out=out,
        data=replace(config.data, size=16, limit=512, **data),
        augment=replace(config.augment, size=16),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=1),
        train=loop,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def held(out: Path) -> Path:
    """A run that held 4 of 10 digits out."""
    return simclr.pretrain(tiny(out, "held", held_out_classes=0.4)).run_dir


@pytest.fixture(scope="module")
def supervised(out: Path) -> Path:
    """A run on labels that held nothing out."""
    return simclr.pretrain(replace(tiny(out, "supervised"), objective=TripletConfig())).run_dir


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run ``scripts/evaluate.py``; gives its exit code, its output and its errors."""

    def call(*words: object) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location("script_evaluate", ROOT / "scripts" / "evaluate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        code = run_command(module.main)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def scored(held: Path, evaluate) -> dict[str, Any]:
    """``open-set.json`` of the run, which the first test to ask for it has written."""
    if not (held / "open-set.json").exists():
        code, _, err = evaluate(held, "--protocol", "open-set", *QUICK)
        assert code == 0, err
    return json.loads((held / "open-set.json").read_text())


def encoded(run: Path, part: str, scored: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Unit features (N, F) in float64 and digits (N,) of a part's images, found without the code under test."""
    digits = load_digits()
    wanted = np.isin(digits.target, [int(name) for name in scored["data"][part]["classes"]])
    everything = replace(simclr.preset("digits").data, size=16)
    parts = [load_source(everything, split) for split in ("train", "test")]
    pixels, labels = torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts]).numpy()
    keep = np.isin(labels, [int(name) for name in scored["data"][part]["classes"]])
    assert keep.sum() == wanted.sum() == scored["data"][part]["images"]
    with torch.no_grad():
        x = simclr.load_encoder(run)(pixels[torch.from_numpy(keep)]).double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels[keep]


def pair_scores(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sameness of all pairs, as one list."""
    i, j = np.triu_indices(len(y), 1)
    return (x @ x.T)[i, j], y[i] == y[j]


def test_the_command_prints_and_writes_everything(held: Path, evaluate) -> None:
    extra = ["--tensorboard"] if importlib.util.find_spec("tensorboard") else []
    code, out, err = evaluate(held, "--protocol", "open-set", *extra, *QUICK)
    assert code == 0, err
    for words in ("Recall@8", "MAP@R", "EER", "TAR@FAR 0.0001", "20-way one-shot", "untrained", "raw pixels"):
        assert words in out
    assert "checked: none of the test classes is among the 6 classes" in " ".join(out.split())
    named = {Path(line).name for line in err.splitlines() if line.startswith(str(held))}
    assert named == {"open-set.json", *PICTURES, "verification.json", "report.html", *(["projector"] if extra else [])}
    for name in PICTURES:
        with Image.open(held / name) as picture:
            assert picture.format == "PNG" and min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert not list(held.rglob("*.partial"))


def test_the_figures_are_those_of_brute_force(held: Path, scored: dict[str, Any]) -> None:
    x, y = encoded(held, "test", scored)
    row = scored["rows"]["encoder"]
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1)
    hit = y[order] == y[:, None]
    # features in batches of another size differ in their last bits: a near tie may fall the other way
    for k in (1, 2, 4, 8):
        assert row["retrieval"]["recall_at_k"][str(k)] == pytest.approx(hit[:, :k].any(1).mean(), abs=0.006)
    precisions = []
    for one, label in zip(hit, y, strict=True):
        size = (y == label).sum() - 1
        at = np.flatnonzero(one[:size])
        precisions.append(((np.arange(len(at)) + 1) / (at + 1)).sum() / size)
    assert row["retrieval"]["map_at_r"] == pytest.approx(np.mean(precisions), abs=1e-3)
    scores, same = pair_scores(x, y)
    assert row["verification"]["auc"] == pytest.approx(roc_auc_score(same, scores), abs=1e-5)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    assert row["verification"]["tar_at_far"]["0.1"] == pytest.approx(tar[far <= 0.1].max(), abs=1e-3)
    assert row["verification"]["eer"] == pytest.approx(far[np.argmin(np.abs(far + tar - 1))], abs=1e-3)
    assert row["one_shot"]["20"]["accuracy"] is None and "20-way" in row["one_shot"]["20"]["note"]


def test_raw_pixels_are_scored_as_pixels(scored: dict[str, Any]) -> None:
    everything = replace(simclr.preset("digits").data, size=16)
    parts = [load_source(everything, split) for split in ("train", "test")]
    pixels, labels = torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts])
    keep = torch.isin(labels, torch.tensor([int(name) for name in scored["data"]["test"]["classes"]]))
    x = pixels[keep].double().unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5)).flatten(1).numpy()
    scores, same = pair_scores(x / np.linalg.norm(x, axis=1, keepdims=True), labels[keep].numpy())
    assert scored["rows"]["raw pixels"]["verification"]["auc"] == pytest.approx(roc_auc_score(same, scores), abs=1e-5)


def test_no_class_is_in_two_parts(held: Path, scored: dict[str, Any]) -> None:
    trained = load_source(tiny(held.parent, "held", held_out_classes=0.4).data, "train")
    groups = [
        set(scored["data"]["test"]["classes"]),
        set(scored["data"]["validation"]["classes"]),
        set(trained.classes),
    ]
    assert [len(group) for group in groups] == [2, 2, 6]
    assert set.union(*groups) == set("0123456789")


def test_the_stored_threshold_reproduces_every_decision(held: Path, scored: dict[str, Any]) -> None:
    threshold, calibration = load_verification(held)
    assert load_verification(held / "encoder") == load_verification(held / "encoder" / "verification.json")
    assert Path(scored["verification_file"]) == held / "encoder" / "verification.json"
    # fitted where the two errors of the validation classes meet, and never on the test classes
    scores, same = pair_scores(*encoded(held, "validation", scored))
    far, tar, values = roc_curve(same, scores, drop_intermediate=False)
    best = np.argmin(np.abs(far + tar - 1))
    assert threshold.far == pytest.approx(far[best], abs=1e-3) and threshold.tar == pytest.approx(tar[best], abs=1e-3)
    assert values[best + 1] - 1e-6 <= threshold.value <= values[best] + 1e-6
    # a user's way: two stacks of images, one decision a pair
    x, y = encoded(held, "test", scored)
    i, j = np.triu_indices(len(y), 1)
    rows = torch.from_numpy(x)
    similarity = threshold.compare(rows[i], rows[j])
    accepted, same = threshold.same(similarity).numpy(), y[i] == y[j]
    verified = scored["rows"]["encoder"]["verification"]
    assert verified["threshold"] == threshold.value and verified["threshold_from"] == "given"
    assert accepted[same].mean() == pytest.approx(verified["tar_at_threshold"], abs=1e-4)
    assert accepted[~same].mean() == pytest.approx(verified["far_at_threshold"], abs=1e-4)
    # the expected calibration error, with both kinds of pair weighted to half
    probability = calibration.probability(similarity).numpy()
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    bins = np.clip(np.ceil(probability * 15).astype(int) - 1, 0, 14)
    gaps = [abs((weight * (same - probability))[bins == b].sum()) for b in range(15)]
    assert scored["rows"]["encoder"]["calibration_error"] == pytest.approx(sum(gaps), abs=2e-3)


def test_comparing_two_images(held: Path, scored: dict[str, Any]) -> None:
    encoder = simclr.load_encoder(held)
    threshold, _ = load_verification(held)
    images = load_source(replace(simclr.preset("digits").data, size=16), "test").pixels[:4]
    with torch.no_grad():
        a, b = encoder(images[:2]), encoder(images[2:])
    expected = [float(np.dot(p, q) / np.linalg.norm(p) / np.linalg.norm(q)) for p, q in zip(a.numpy(), b.numpy())]
    assert threshold.compare(a, b).tolist() == pytest.approx(expected, abs=1e-6)
    assert bool(threshold.same(threshold.compare(a, a)).all())
    assert replace(threshold, distance="euclidean").compare(a, b)[0].item() == pytest.approx(
        float(np.linalg.norm(a[0].numpy().astype(float) - b[0].numpy().astype(float)))
    )
    assert threshold.compare(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0
    with pytest.raises(DataError, match=r"\(2, 16\) and \(1, 16\)"):
        threshold.compare(a, b[:1])


def test_the_projector_shows_every_checkpoint(held: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra")
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig

    run = load_config(held / "config.yaml")
    images = open_set_images(run.data, run).test
    for _ in range(2):  # a second time replaces the first
        write_run_projector(ScoredRun(held / "encoder"), images, held, EvalConfig(), lambda line: None)
    folder = held / "projector"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    on_disk = [int(path.name.removeprefix("step-")) for path in sorted((held / "checkpoints").iterdir())]
    assert len(on_disk) == 2 and len(config.embeddings) == 3
    assert sorted(int(one.tensor_path.split("/")[0]) for one in config.embeddings) == [0, *on_disk]
    tables = {int(one.tensor_path.split("/")[0]): np.loadtxt(folder / one.tensor_path) for one in config.embeddings}
    for step, encoder in ((0, simclr.load_encoder(held, untrained=True)), (on_disk[-1], simclr.load_encoder(held))):
        with torch.no_grad():
            assert tables[step] == pytest.approx(encoder(images.pixels).numpy(), abs=1e-4)
    assert not np.allclose(tables[on_disk[0]], tables[on_disk[1]], atol=1e-3)
    for one in config.embeddings:
        lines = (folder / one.metadata_path).read_text().strip().split("\n")
        assert len(lines) - 1 == len(images)
        shown = [images.classes[label] for label in images.labels.tolist()]
        assert [line.split("\t")[0] for line in lines[1:]] == shown
        with Image.open(folder / one.sprite.image_path) as sprite:
            side = int(np.ceil(np.sqrt(len(lines) - 1)))
            assert sprite.size == (16 * side, 16 * side)
    assert len(list(folder.glob("events*"))) == 1 and not list(held.glob(".projector*"))


def test_averaged_weights_are_shown_and_a_damaged_checkpoint_is_passed_over(held: Path, tmp_path: Path) -> None:
    run = shutil.copytree(held, tmp_path / "held")
    first, last = sorted((run / "checkpoints").iterdir())
    said: list[str] = []
    tensors = load_file(first / "model.safetensors")
    average = {f"average.module.{name}": tensor + 1 for name, tensor in tensors.items()}
    save_file(tensors | average, first / "model.safetensors")
    manifest = json.loads((first / "manifest.json").read_text())
    manifest["model.safetensors"] = hashlib.sha256((first / "model.safetensors").read_bytes()).hexdigest()
    (first / "manifest.json").write_text(json.dumps(manifest))
    _, (_, averaged), _ = checkpoint_encoders(ScoredRun(run / "encoder"), said.append)
    assert torch.equal(averaged.backbone.conv1.weight, tensors["model.backbone.conv1.weight"] + 1) and not said
    (first / "model.safetensors").write_bytes(b"half")
    assert [step for step, _ in checkpoint_encoders(ScoredRun(run / "encoder"), said.append)] == [0, int(last.name[5:])]
    assert len(said) == 1 and first.name in said[0]
    shutil.rmtree(run / "checkpoints")  # the finished encoder still has its step, from the metrics
    assert [step for step, _ in checkpoint_encoders(ScoredRun(run / "encoder"), said.append)] == [0, int(last.name[5:])]


def test_the_closed_protocol_takes_tensorboard_too(held: Path, evaluate) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra")
    code, out, err = evaluate(held, "--tensorboard", "--eval.strengths", "0.01", *QUICK)
    assert code == 0, err
    assert "linear" in out and "test images of 6 classes" in " ".join(out.split())
    assert len(json.loads((held / "result.json").read_text())["rows"]["encoder"]["linear"]["classes"]) == 6
    assert len(list((held / "projector").glob("*/*/tensors.tsv"))) == 3


def test_other_images_have_a_report_of_their_own(held: Path, scored, evaluate, image_folder: Path) -> None:
    before = (held / "encoder" / "verification.json").read_bytes()
    words = ("--data.source", "folder", "--data.path", image_folder)
    code, out, err = evaluate(held, "--protocol", "open-set", *words, *QUICK)
    assert code == 0, err
    assert "labels: 2 classes, the first sub-folders" in err
    (report,) = held.glob("on-folder-pictures-*/open-set.json")
    result = json.loads(report.read_text())
    assert result["data"]["test"] == {"images": 24, "classes": ["cats", "dogs"], "trained_on": None}
    assert result["data"]["validation"] is result["verification_file"] is None
    assert "all their classes are taken as new; none bears the name" in result["disjoint_from_training"]
    assert "2 classes are too few" in " ".join(out.split())
    assert (held / "encoder" / "verification.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocl", "open-set"], "did you mean --protocol?"),
        (["--protocol", "open"], "'closed', 'open-set'"),
        (["--protocol", "open-set", "--eval.distance", "manhattan"], "'cosine', 'euclidean'"),
        (["--protocol", "open-set", "--eval.one-shot-trials", "0"], "expected at least 1"),
        (["--protocol", "open-set", "--data.held-out-classes", "0.3"], "leave --data.held-out-classes out"),
        (["--protocol", "open-set", "--data.split-seed", "1"], "leave --data.split-seed out"),
        (["--protocol", "open-set", "--data.source", "folder", "--data.path", "flat"], "has no labels"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(held: Path, evaluate, words, said, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / "flat" / f"{i}.png")
    code, out, err = evaluate(held, *words)
    assert code == 2 and out == ""
    assert said in err and err.count("\n") == 1


def test_a_supervised_run_that_held_nothing_out_is_refused(supervised: Path, evaluate) -> None:
    code, out, err = evaluate(supervised, "--protocol", "open-set")
    assert code == 2 and out == ""
    assert "objective triplet" in err and "--data.held-out-classes 0.4" in err and err.count("\n") == 1
    assert not (supervised / "open-set.json").exists()
    with pytest.raises(CheckpointError, match=r"verification\.json does not exist"):
        load_verification(supervised)


@pytest.mark.parametrize("protocol", ["closed", "open-set"])
def test_missing_tensorboard_is_said_before_any_work(supervised: Path, evaluate, monkeypatch, protocol: str) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, out, err = evaluate(supervised, "--protocol", protocol, "--tensorboard")
    assert code == 2 and out == ""
    assert "pip install 'simclr-pipeline[tensorboard]'" in err and err.count("\n") == 1
    assert not (supervised / "result.json").exists()


def test_classes_seen_without_labels_are_said_to_be_so(tmp_path: Path) -> None:
    run = tiny(tmp_path, "plain")
    images = open_set_images(run.data, run, seed=3)
    assert images.disjoint.startswith("not disjoint: the run was trained on images of these very classes")
    assert "none of the images scored here" in images.disjoint
    assert images.validation is not None and images.trained_on is None
    test, validation = images.test.labels.unique().tolist(), images.validation.labels.unique().tolist()
    assert len(test) == len(validation) == 5 and sorted(test + validation) == list(range(10))
    kept = load_source(run.data, "test")
    assert len(images.test) + len(images.validation) == len(kept)
    other = open_set_images(run.data, run, seed=4)
    assert other.test.labels.unique().tolist() != test


def test_few_held_out_classes_borrow_a_threshold_from_training(tmp_path: Path) -> None:
    run = replace(tiny(tmp_path, "few", held_out_classes=0.2), objective=TripletConfig())
    images = open_set_images(run.data, run)
    test, validation, trained = (
        {part.classes[label] for label in labels}
        for part, labels in (
            (images.test, images.test.labels.unique().tolist()),
            (images.validation, images.validation.labels.unique().tolist()),
            (images.test, images.trained_on),
        )
    )
    assert len(test) == 2 and validation == trained and len(trained) == 8 and not test & trained
    assert "2 held-out classes are too few" in images.threshold_from
    assert len(images.validation) == len(load_source(run.data, "test"))
    assert "started from" not in images.disjoint
    known = open_set_images(run.data, replace(run, encoder=replace(run.encoder, pretrained=True)))
    assert (
        known.disjoint
        == f"{images.disjoint}; training started from published weights, which may have seen these classes"
    )


def test_other_images_that_share_names_with_training(tmp_path: Path, image_folder: Path) -> None:
    run = tiny(tmp_path, "pictures")
    run = replace(run, data=replace(run.data, source="folder", path=image_folder, limit=None))
    copy = tmp_path / "more"
    for number, name in enumerate(["cats", "horses", "mice", "owls"]):
        for i in range(5):
            (copy / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (40 * number, 9 * i, 0)).save(copy / name / f"{i}.png")
    images = open_set_images(replace(run.data, path=copy), run)
    assert len(images.test) + len(images.validation) == 20  # all of them, whatever their part
    chosen = images.test.labels.unique().tolist() + images.validation.labels.unique().tolist()
    assert [images.test.classes[label] for label in sorted(chosen)] == ["cats", "horses", "mice", "owls"]
    assert "1 of 4 bear the name of a training class (cats)" in images.disjoint
    unknown = open_set_images(replace(run.data, path=copy), None)
    assert unknown.disjoint.startswith("unknown")


def test_maps_show_at_most_2000_images(scored: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    drawn: list[int] = []

    def quick(x: torch.Tensor, seed: int = 0) -> np.ndarray:
        drawn.append(len(x))
        return x[:, :2].numpy()

    monkeypatch.setattr(embedding_report, "tsne_map", quick)
    x = torch.randn(2300, 4, generator=torch.Generator().manual_seed(0))
    many = Features(x=x, y=torch.arange(2300) % 3, index=torch.arange(2300))
    assert [path.name for path in write_open_set(scored, many, ("a", "b", "c"), tmp_path)] == [
        "open-set.json",
        *PICTURES,
    ]
    assert drawn == [2000]


def test_what_the_package_offers() -> None:
    for name in linear_eval.__all__:
        assert hasattr(linear_eval, name), name
    for name in ("verification", "retrieval", "identification", "open_set", "reliability", "few_labels"):
        assert callable(getattr(linear_eval, name)), f"{name} is its module, not the function"
