"""Fine-tuning: where its defaults come from, the head that learns first, what is exported, scored and resumed."""

import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, mean_absolute_error, r2_score

import simclr
from augment import AugmentConfig
from linear_eval.finetuned import _number_row, _row, fit_temperature
from linear_eval.probe import score_predictions
from simclr.classifier import load_classifier, save_temperature
from simclr.commands import run_command
from simclr.config import DataConfig, EncoderConfig, HeadConfig, TrainConfig
from simclr.data import ImageSet, load_source
from simclr.errors import CheckpointError, ConfigError
from simclr.finetune import finetune_config, from_scratch, parse_finetuning
from simclr.losses import CrossEntropyConfig, DistributionFocalConfig, TripletConfig
from simclr.model import build_model
from simclr.online import OnlineScore
from simclr.runlog import read_metrics

ROOT = Path(__file__).parent.parent
QUICK = ["--train.epochs", "1", "--train.batch-size", "32", "--schedule.head-epochs", "0", "--schedule.warmup-epochs", "0",
         "--train.precision", "fp32", "--train.knn-every", "1", "--data.limit", "120"]  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on digits whose encoder is the start of all that follows."""
    config = simclr.preset("digits")
    config = replace(
        config,
        name="birds",
        out=tmp_path_factory.mktemp("start"),
        data=replace(config.data, limit=128, label_fraction=1.0),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=0),
        train=replace(config.train, epochs=1, batch_size=64, precision="fp32", knn_every=0),
    )
    return simclr.pretrain(config).run_dir


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, start: Path):
    """Run scripts/finetune.py from ``start`` in a folder of its own; gives exit code, output, errors and result.json."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("script_finetune", ROOT / "scripts" / "finetune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*words: str, name: str = "birds-finetuned") -> tuple[int, str, str, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["finetune.py", "--encoder.init", str(start), "--name", name, *words])
        code = run_command(module.main)
        out, err = capsys.readouterr()
        file = tmp_path / "runs" / name / "result.json"
        return code, out, err, json.loads(file.read_text()) if file.exists() else {}

    return call


# Where the defaults come from.


def test_a_run_brings_its_images_its_network_and_its_size(start: Path) -> None:
    config = finetune_config(str(start))
    assert config.name == "birds-finetuned"
    assert config.encoder == EncoderConfig(
        name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16), init=str(start)
    )
    assert (config.data.source, config.data.size, config.data.limit, config.data.validation) == (
        "digits",
        16,
        None,
        0.1,
    )
    assert (config.augment.size, config.augment.views, config.augment.horizontal_flip) == (16, 1, 0.0)
    assert config.augment.affine == 0.8 and config.augment.jitter == 0.0
    assert finetune_config(str(start / "encoder")).encoder.channels == (4, 8, 8, 16)


def test_an_encoder_folder_without_its_run_brings_its_network(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "handed.on" / "encoder"
    shutil.copytree(start / "encoder", folder)
    config = finetune_config(str(folder))
    assert config.name == "handed-on-finetuned"
    assert config.encoder.channels == (4, 8, 8, 16) and config.augment.size == config.data.size == 16
    (folder / "encoder.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match=r"encoder\.json is damaged: KeyError"):
        finetune_config(str(folder))


def test_a_file_brings_nothing_and_a_name_its_published_size(tmp_path: Path) -> None:
    (tmp_path / "resnet18.pth").write_bytes(b"")
    config = finetune_config(str(tmp_path / "resnet18.pth"))
    assert config.encoder == EncoderConfig(init=str(tmp_path / "resnet18.pth"))
    assert config.data.source == "folder" and config.name == "resnet18-finetuned"
    config = finetune_config("resnet18.a1_in1k")
    assert config.encoder == EncoderConfig(name="resnet18.a1_in1k", pretrained=True)
    assert config.name == "resnet18-a1_in1k-finetuned"
    assert config.augment.size == 224 and config.augment.mean == (0.485, 0.456, 0.406)
    assert config.data.size == round(224 / 0.95)  # timm's crop_pct of these weights


@pytest.mark.parametrize(
    ("init", "error", "said"),
    [
        ("resnet18.pth", ConfigError, r"'resnet18.pth': there is no such file$"),
        ("resnet18.no_such_tag", ConfigError, "timm has no published weights for resnet18.no_such_tag"),
        ("resnet19", ConfigError, "no such file or folder, and timm has no model of that name"),
        ("a model without weights", ConfigError, "timm has no published weights for"),
        (".", CheckpointError, "holds no encoder"),
    ],
)
def test_starts_that_are_none(
    init: str, error: type, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if " " in init:
        init = next(name for name in timm.list_models("res*") if not timm.is_model_pretrained(name))
    with pytest.raises(error, match=said):
        finetune_config(init)


def test_words_over_the_defaults(start: Path, tmp_path: Path) -> None:
    def parse(*words: str) -> TrainConfig:
        return parse_finetuning(words, "finetune.py", "")

    init = ["--encoder.init", str(start)]
    config = parse(*init)  # 1,293 images left to train on: batches of 128, 10 steps an epoch, 1,000 steps
    assert (config.train.batch_size, config.train.epochs, config.schedule.head_epochs) == (128, 100, 2)
    few = parse(f"--encoder.init={start}", "--data.label-fraction", "0.05")
    images = len(load_source(few.data, "train"))
    assert few.train.batch_size == 16 and few.train.epochs == min(300, math.ceil(1000 / (images // 16)))
    assert parse(*init, "--train.epochs", "7").train.batch_size == 128
    assert parse(*init, "objective:triplet").schedule.head_epochs == 0  # nothing but the backbone has weights
    assert parse(*init, "objective:triplet", "--head.layers", "1").schedule.head_epochs == 2
    assert parse(*init, "objective:arcface").schedule.head_epochs == 2
    assert parse(*init, "--schedule.head-epochs", "1").schedule.head_epochs == 1
    with pytest.raises(ConfigError, match="needs weights to start from"):
        parse("--train.epochs", "3")
    with pytest.raises(ConfigError, match="the objective nt-xent has no use for them"):
        parse(*init, "objective:nt-xent", "--augment.views", "2")
    with pytest.raises(ConfigError, match=r"did you mean --train\.epochs"):
        parse(*init, "--train.epoch", "3")
    (tmp_path / "mine.yaml").write_text("objective: cross-entropy\n")
    with pytest.raises(ConfigError, match="needs weights to start from"):
        parse(str(tmp_path / "mine.yaml"))
    yaml = parse(str(tmp_path / "mine.yaml"), *init, "--train.epochs", "3", "--schedule.warmup-epochs", "0")
    assert yaml.encoder.init == str(start) and yaml.name == "mine"


def test_from_scratch_is_the_same_network_without_the_start(start: Path) -> None:
    config = finetune_config(str(start))
    scratch = from_scratch(replace(config, encoder=replace(config.encoder, frozen_layers=2)))
    assert scratch.encoder == replace(config.encoder, init=None)
    assert scratch.run_dir == config.run_dir / "scratch"
    assert (scratch.optim.layer_decay, scratch.schedule.head_epochs) == (1.0, 0)
    assert from_scratch(finetune_config("resnet18")).encoder.stem == "imagenet"


# The run.


def test_the_head_learns_first_at_the_full_rate(start: Path, tmp_path: Path) -> None:
    config = finetune_config(str(start))
    config = replace(
        config,
        out=tmp_path,
        data=replace(config.data, limit=80),  # 72 to train on: 2 steps an epoch
        schedule=replace(config.schedule, head_epochs=2, warmup_epochs=1),
        train=replace(config.train, epochs=5, batch_size=36, log_every=1, checkpoint_every=1, keep_checkpoints=20,
                      knn_every=0, precision="fp32"),
    )  # fmt: skip
    simclr.pretrain(config)
    began = load_file(start / "encoder" / "encoder.safetensors")
    began |= {name: torch.zeros_like(t) for name, t in began.items() if name.endswith("num_batches_tracked")}
    head = None
    for step in range(1, 11):
        tensors = load_file(config.run_dir / "checkpoints" / f"step-{step:08}" / "model.safetensors")
        moved = {name for name in began if not torch.equal(tensors[f"model.backbone.{name}"], began[name])}
        assert (step > 4) == bool(moved), step
        if step > 4:
            assert {"conv1.weight", "bn1.running_mean", "bn1.num_batches_tracked", "layer4.0.bn2.running_var"} <= moved
        before, head = head, tensors["objective.loss.head.weight"]
        assert before is None or not torch.equal(before, head)
    rates = [line["learning_rate"] for line in read_metrics(config.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    decay = [1e-3 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]  # 6 steps behind: 2 of warm-up, 4 of decay
    assert rates == pytest.approx([1e-3] * 4 + [0.5e-3, 1e-3] + decay)


def test_the_command_end_to_end_and_the_same_bits_after_stops(
    finetune: Any, tmp_path: Path, stop_after: Callable[[int], Any]
) -> None:
    words = ["--train.epochs", "2", "--train.batch-size", "32", "--schedule.head-epochs", "1", "--data.limit", "120",
             "--train.precision", "fp32", "--mix.mixup", "0.2", "--objective.label-smoothing", "0.1", "--train.ema", "0.9",
             "--objective.class-weights", "balanced", "--train.knn-every", "1"]  # fmt: skip
    code, out, err, result = finetune(*words)
    assert code == 0, err
    assert set(result["rows"]) == {"fine-tuned", "from scratch", "linear probe"}
    assert result["data"]["train"] == 108 and result["data"]["validation"] == 12
    for row in result["rows"].values():
        low, high = row["interval"]
        assert low <= row["accuracy"] <= high
        confusion = np.array(row["confusion"])
        assert confusion.sum() == result["data"]["test"] and confusion.shape == (10, 10)
        assert row["accuracy"] == pytest.approx(confusion.trace() / confusion.sum())
        assert row["balanced_accuracy"] == pytest.approx((confusion.diagonal() / confusion.sum(1)).mean())
    assert set(result["comparison"]) == {"fine-tuned - from scratch", "fine-tuned - linear probe"}
    gain = result["comparison"]["fine-tuned - from scratch"]["difference"]
    accuracy = {name: row["accuracy"] for name, row in result["rows"].items()}
    assert gain == pytest.approx(accuracy["fine-tuned"] - accuracy["from scratch"])
    for word in ("fine-tuned", "from scratch", "linear probe", "calibrated"):
        assert word in out
    run = tmp_path / "runs" / "birds-finetuned"
    epochs = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "epoch"]
    assert all(0 <= line["validation_accuracy"] <= 1 for line in epochs)
    assert load_classifier(run).temperature == result["rows"]["fine-tuned"]["temperature"]

    # Stopped in the head's phase, stopped again in the run from scratch, and then let go.
    for polls in (2, 8):
        with stop_after(polls):
            code, _, err, nothing = finetune(*words, name="stopped")
        assert code == 130 and "the same command continues there" in err and not nothing
    code, _, err, again = finetune(*words, name="stopped")
    assert code == 0, err
    for folder in (Path(), Path("scratch")):
        for file in ("encoder.safetensors", "head.safetensors"):
            a, b = (
                load_file(tmp_path / "runs" / n / folder / "encoder" / file) for n in ("birds-finetuned", "stopped")
            )
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert again["rows"] == result["rows"]


@pytest.mark.parametrize("objective", ["triplet", "arcface", "supcon"])
def test_any_supervised_objective_is_scored(objective: str, finetune: Any, tmp_path: Path) -> None:
    code, _, err, result = finetune(f"objective:{objective}", *QUICK, "--train.no-scratch")
    assert code == 0, err
    assert set(result["rows"]) == {"fine-tuned", "linear probe"}
    classifier = load_classifier(tmp_path / "runs" / "birds-finetuned")
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    assert classifier.embed(images).shape == (3, 16)
    if objective == "arcface":
        assert classifier(images).shape == (3, 10) and "temperature" in result["rows"]["fine-tuned"]
    else:
        assert classifier.scores(images) is None
        with pytest.raises(TypeError, match="no classifier"):
            classifier(images)


@pytest.fixture
def bright(tmp_path: Path) -> tuple[Path, list[tuple[str, int]]]:
    """100 gray images without folders of classes, and the brightness of each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    levels = []
    for number in range(100):
        level = (number * 37) % 256
        Image.new("RGB", (16, 16), (level, level, level)).save(folder / f"{number}.png")
        levels.append((f"{number}.png", level))
    return folder, levels


def test_labels_with_a_quality(finetune: Any, bright: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    folder, levels = bright
    rows = [f"{name},{'dark' if level < 128 else 'light'},{abs(level - 128) / 128:.3f}" for name, level in levels[:90]]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,quality", *rows]))
    files = ["--data.source", "folder", "--data.path", str(folder), "--data.labels", str(tmp_path / "labels.csv")]
    code, _, err, result = finetune("objective:quality-focal", *QUICK, *files, "--train.no-scratch")
    assert code == 0, err
    assert result["data"]["classes"] == ["dark", "light"]
    assert sum(result["data"][part] for part in ("train", "validation", "test")) == 90  # the others have no label


def test_numbers_to_predict(finetune: Any, bright: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    folder, levels = bright
    (tmp_path / "values.csv").write_text("\n".join(["path,value", *(f"{n},{level / 10}" for n, level in levels)]))
    files = ["--data.source", "folder", "--data.path", str(folder), "--data.labels", str(tmp_path / "values.csv")]
    code, out, err, result = finetune("objective:distribution-focal", *QUICK, *files)
    assert code == 0, err
    assert result["kind"] == "regression" and set(result["rows"]) == {"fine-tuned", "from scratch", "linear probe"}
    assert "absolute" in out and "error lower by" in out
    classifier = load_classifier(tmp_path / "runs" / "birds-finetuned")
    config = finetune_config(str(tmp_path / "runs" / "birds-finetuned"))
    test = load_source(config.data, "test")
    with torch.no_grad():
        found = classifier(torch.stack([test[i][0] for i in range(len(test))]))
    assert found.shape == (len(test),)
    row = result["rows"]["fine-tuned"]
    assert row["mean_absolute_error"] == pytest.approx(mean_absolute_error(test.values, found), rel=1e-4)
    last = read_metrics(tmp_path / "runs" / "birds-finetuned" / "metrics.jsonl")[-1]
    assert last["kind"] == "epoch" and last["validation_error"] > 0
    described = json.loads((tmp_path / "runs" / "birds-finetuned" / "encoder" / "head.json").read_text())
    train = load_source(config.data, "train").values
    assert described["objective"]["low"] == pytest.approx(float(train.min()))
    assert described["objective"]["high"] == pytest.approx(float(train.max()))


def test_class_numbers_as_numbers(finetune: Any) -> None:
    code, _, err, result = finetune("objective:distribution-focal", *QUICK, "--train.no-scratch")
    assert code == 0, err
    assert result["kind"] == "regression"
    assert set(result["rows"]) == {"fine-tuned", "linear probe"}


# What is exported.


@pytest.fixture(scope="module")
def classified(start: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = finetune_config(str(start))
    config = replace(
        config,
        out=tmp_path_factory.mktemp("classified"),
        head=HeadConfig(layers=1, out_dim=8),
        objective=CrossEntropyConfig(class_weights="effective"),
        data=replace(config.data, limit=80),
        schedule=replace(config.schedule, head_epochs=0, warmup_epochs=0),
        train=replace(config.train, epochs=1, batch_size=32, precision="fp32", knn_every=0),
    )
    simclr.pretrain(config)
    return config


def test_the_classifier_is_the_network_that_was_trained(classified: TrainConfig, tmp_path: Path) -> None:
    classifier = load_classifier(classified.run_dir)
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        scores, probabilities = classifier.scores(images), classifier(images)
    step = classified.run_dir / "checkpoints" / "step-00000002" / "model.safetensors"
    tensors = load_file(step)
    model = build_model(replace(classified, encoder=replace(classified.encoder, init=None)))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    augment = classified.augment
    mean, std = (torch.tensor(t or d).view(3, 1, 1) for t, d in ((augment.mean, (0.0,) * 3), (augment.std, (1.0,) * 3)))
    with torch.no_grad():
        z = model.eval()(((images / 255 - mean) / std)[None])[0]
    expected = z @ tensors["objective.loss.head.weight"].T + tensors["objective.loss.head.bias"]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities, expected.softmax(1), rtol=1e-4, atol=1e-5)
    assert classifier.classes == tuple(str(n) for n in range(10))
    assert len(classifier.objective.loss.class_weights) == 10

    folder = tmp_path / "encoder"
    shutil.copytree(classified.run_dir / "encoder", folder)
    save_temperature(folder, 2.5)
    with torch.no_grad():
        torch.testing.assert_close(load_classifier(folder)(images), (expected / 2.5).softmax(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load_classifier(folder).scores(images), scores)


def test_a_damaged_head_is_refused(classified: TrainConfig, start: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"an encoder without a head: fine-tune it"):
        load_classifier(start)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_classifier(tmp_path / "nowhere")
    whole = json.loads((classified.run_dir / "encoder" / "head.json").read_text())
    folder = tmp_path / "encoder"
    shutil.copytree(classified.run_dir / "encoder", folder)
    wrong: list[tuple[Any, str]] = [
        ("no json", "damaged"),
        ({"format": 1}, "damaged: KeyError"),
        (whole | {"objective": {"name": "cross-entropi"}}, "damaged: KeyError"),
        (whole | {"objective": {"name": "cross-entropy", "smoothing": 1}}, "unknown key 'smoothing'"),
        (whole | {"sizes": {"classes": 10}}, "damaged: TypeError"),
        (whole | {"sizes": {"classes": 7, "dim": 8, "samples": 9}}, "one for each of 7 classes"),
        (whole | {"sizes": {"classes": 10, "dim": 9, "samples": 9}}, "objective.loss.head.weight is float32"),
    ]
    for content, said in wrong:
        (folder / "head.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(CheckpointError, match=said):
            load_classifier(folder)
    (folder / "head.json").write_text(json.dumps(whole))
    (folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"head\.safetensors cannot be read"):
        load_classifier(folder)


# What is scored.


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 6.0])
def test_the_temperature_is_the_optimisers(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(400, 5))
    labels = np.array([rng.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in true])
    logits = torch.from_numpy(true * sharpness).float()

    def loss(log_t: float) -> float:
        scaled = logits.double().numpy() / math.exp(log_t)
        return log_loss(labels, np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True), labels=range(5))

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-7})
    assert fit_temperature(logits, torch.from_numpy(labels)) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_images_that_are_all_right_say_nothing_of_the_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.1]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1.0
    assert fit_temperature(-logits, torch.tensor([0, 1])) == pytest.approx(100.0)


def test_the_row_of_a_classifier() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 4) * 2, torch.randint(4, (300,))
    found = score_predictions(logits.argmax(1), labels, labels, chosen=None)
    row = _row(found, (logits, labels), 3.0)
    for suffix, scale in (("", 1.0), ("_calibrated", 3.0)):
        shares = (logits.double() / scale).softmax(1).numpy()
        confidence, right = shares.max(1), shares.argmax(1) == labels.numpy()
        error = 0.0
        for i in range(15):  # Guo et al. 2017, eq. 3
            inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
            if inside.any():
                error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert row[f"calibration_error{suffix}"] == pytest.approx(error, abs=1e-4)
        assert row[f"cross_entropy{suffix}"] == pytest.approx(log_loss(labels.numpy(), shares), rel=1e-5)
    assert row["temperature"] == 3.0
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_row_of_numbers_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(5, 2, 200)
    predicted = target + rng.normal(0, 1, 200)
    row, error = _number_row(predicted, target)
    assert row["mean_absolute_error"] == pytest.approx(mean_absolute_error(target, predicted))
    assert row["r_squared"] == pytest.approx(r2_score(target, predicted))
    assert row["error_of_the_mean"] == pytest.approx(mean_absolute_error(target, np.full(200, target.mean())))
    spread = 1.96 * error.std() / 200**0.5
    low, high = row["interval"]
    assert low == pytest.approx(error.mean() - spread, abs=0.2 * spread)
    assert high == pytest.approx(error.mean() + spread, abs=0.2 * spread)
    assert _number_row(predicted[:3], np.ones(3))[0]["r_squared"] is None


def test_figures_on_validation_images(classified: TrainConfig) -> None:
    """The accuracy and the error that training watches, recomputed image by image."""
    images = load_source(classified.data, "validation")
    model = build_model(classified)
    model.train()
    augment = AugmentConfig(size=16, mean=None, std=None)
    config = replace(classified, augment=augment)
    x = (images.pixels / 255)[None]
    for objective, name in (
        (CrossEntropyConfig(), "validation_accuracy"),
        (DistributionFocalConfig(), "validation_error"),
    ):
        built = simclr.objectives.build_objective(objective, classes=10, dim=8, samples=10, seed=3)
        qualities = replace(images, values=torch.rand(len(images)))  # of labels: no numbers to predict
        for shown in (images, qualities):
            figure = OnlineScore(images, config, shown)(model, built, torch.device("cpu"))
            assert model.training and model.backbone.training
            model.eval()
            with torch.no_grad():
                z = model(x)[0]
                numbers = built.numbers(z)
                right = (built.loss.scores(z).argmax(1) == images.labels) if numbers is None else None
            model.train()
            expected = (numbers - images.labels).abs().mean() if right is None else right.float().mean()
            assert figure == {name: pytest.approx(expected.item(), abs=1e-5)}
    triplet = simclr.objectives.build_objective(TripletConfig(), classes=10, dim=8, samples=10, seed=3)
    train = load_source(classified.data, "train")
    figure = OnlineScore(train, config, images)(model, triplet, torch.device("cpu"))
    assert set(figure) == {"validation_knn"} and 0 <= figure["validation_knn"] <= 1


def test_unlabelled_test_images_get_no_label_from_the_last_class(tmp_path: Path) -> None:
    """A folder with its own parts, labelled by a CSV that leaves some images out."""
    rows = ["path,label"]
    for part in ("train", "test"):
        for number in range(6):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "set" / part / f"{number}.png")
            if number < 4:
                rows.append(f"{part}/{number}.png,{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    config = DataConfig(source="folder", path=tmp_path / "set", size=8, labels=tmp_path / "labels.csv")
    images: ImageSet = load_source(config, "test")
    assert images.labels.tolist() == [0, 1, 0, 1, -1, -1]
    assert len(images.labelled()) == 4
