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
from sklearn.metrics import mean_absolute_error

import simclr
from simclr.command_line import run_command
from simclr.config import DataConfig, EncoderConfig, TrainConfig
from simclr.data import ImageSet, load_source
from simclr.errors import CheckpointError, ConfigError, DataError
from simclr.exchange.classifier import load_classifier
from simclr.finetune import finetune_config, from_scratch, parse_finetuning
from simclr.run.log import read_metrics

ROOT = Path(__file__).parent.parent
QUICK = ["--train.epochs", "1", "--train.batch-size", "32", "--schedule.head-epochs", "0", "--schedule.warmup-epochs", "0",
         "--train.precision", "fp32", "--train.knn-every", "1", "--data.limit", "120"]  # fmt: skip


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, pretrained: Path):
    """Run scripts/finetune.py from ``pretrained`` in a folder of its own; gives exit code, output, errors and result.json."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("script_finetune", ROOT / "scripts" / "finetune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*words: str, name: str = "birds-finetuned") -> tuple[int, str, str, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["finetune.py", "--encoder.init", str(pretrained), "--name", name, *words])
        code = run_command(module.main)
        out, err = capsys.readouterr()
        file = tmp_path / "runs" / name / "result.json"
        return code, out, err, json.loads(file.read_text()) if file.exists() else {}

    return call


# Where the defaults come from.


def test_a_run_brings_its_images_its_network_and_its_size(pretrained: Path) -> None:
    config = finetune_config(str(pretrained))
    assert config.name == "birds-finetuned"
    assert config.encoder == EncoderConfig(
        name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16), init=str(pretrained)
    )
    assert (config.data.source, config.data.size, config.data.limit, config.data.validation) == (
        "digits",
        16,
        None,
        0.1,
    )
    assert (config.augment.size, config.augment.views, config.augment.horizontal_flip) == (16, 1, 0.0)
    assert config.augment.affine == 0.8 and config.augment.jitter == 0.0
    assert finetune_config(str(pretrained / "encoder")).encoder.channels == (4, 8, 8, 16)


def test_an_encoder_folder_without_its_run_brings_its_network(pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "handed.on" / "encoder"
    shutil.copytree(pretrained / "encoder", folder)
    config = finetune_config(str(folder))
    assert config.name == "handed-on-finetuned"
    assert config.encoder.channels == (4, 8, 8, 16) and config.augment.size == config.data.size == 16
    (folder / "encoder.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match=r"encoder\.json is damaged: it has no encoder"):
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


def test_words_over_the_defaults(pretrained: Path, tmp_path: Path) -> None:
    def parse(*words: str) -> TrainConfig:
        return parse_finetuning(words, "finetune.py", "")

    init = ["--encoder.init", str(pretrained)]
    config = parse(*init)  # 1,293 images left to train on: batches of 128, 10 steps an epoch, 1,000 steps
    assert (config.train.batch_size, config.train.epochs, config.schedule.head_epochs) == (128, 100, 2)
    few = parse(f"--encoder.init={pretrained}", "--data.label-fraction", "0.05")
    images = len(load_source(few.data, "train"))
    assert few.train.batch_size == 16 and few.train.epochs == min(300, math.ceil(1000 / (images // 16)))
    assert parse(*init, "--train.epochs", "7").train.batch_size == 128
    assert parse(*init, "objective:triplet").schedule.head_epochs == 0  # nothing but the backbone has weights
    assert parse(*init, "objective:triplet", "--head.layers", "1").schedule.head_epochs == 2
    assert parse(*init, "objective:arcface").schedule.head_epochs == 2
    assert parse(*init, "--schedule.head-epochs", "1").schedule.head_epochs == 1
    short = parse(*init, "--train.epochs", "3").schedule  # most of it is left for a rate that falls
    assert (short.head_epochs, short.warmup_epochs) == (0, 0.3)
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
    assert yaml.encoder.init == str(pretrained) and yaml.name == "mine"


def test_epochs_of_ones_own_leave_the_batch_and_few_images_get_a_small_one(pretrained: Path) -> None:
    def parse(*words: str) -> TrainConfig:
        return parse_finetuning([f"--encoder.init={pretrained}", *words], "finetune.py", "")

    short = parse("--data.label-fraction", "0.05", "--train.epochs", "3")
    assert (short.train.batch_size, short.train.epochs) == (16, 3)
    own = parse("--train.batch-size", "64")
    images = len(load_source(own.data, "train"))
    assert own.train.batch_size == 64 and own.train.epochs == max(30, math.ceil(1000 / (images // 64)))
    few = parse("--data.label-fraction", "0.01")
    images = len(load_source(few.data, "train"))
    assert images < 16 and few.train.batch_size <= images < 2 * few.train.batch_size


def test_one_class_is_refused_before_training(pretrained: Path, image_folder: Path) -> None:
    rows = "".join(f"cats/{number:02d}.png,only\n" for number in range(1, 24, 2))
    (image_folder / "labels.csv").write_text("path,label\n" + rows)
    words = ["--data.source", "folder", "--data.path", f"{image_folder}", "--data.labels", f"{image_folder}/labels.csv"]
    with pytest.raises(DataError, match="has the class only alone; to tell classes apart takes at least two"):
        parse_finetuning([f"--encoder.init={pretrained}", *words], "finetune.py", "")


def test_one_label_a_class_is_all_for_training(pretrained: Path) -> None:
    words = [f"--encoder.init={pretrained}", "--data.label-fraction", "0.001"]
    config = parse_finetuning(words, "finetune.py", "")
    assert config.data.validation == 0
    assert sorted(load_source(config.data, "train").labels.tolist()) == list(range(10))
    with pytest.raises(DataError, match="one training image a class"):
        parse_finetuning([*words, "--data.validation", "0.1"], "finetune.py", "")


def test_the_images_are_looked_for_once(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[DataConfig] = []

    def load(config: DataConfig, split: Any, *kept: Any) -> ImageSet:
        looked.append(config)
        return load_source(config, split, *kept)

    monkeypatch.setattr("simclr.finetune.load_source", load)
    parse_finetuning([f"--encoder.init={pretrained}", "--data.label-fraction", "0.001"], "finetune.py", "")
    assert len(looked) == 1
    with pytest.raises(DataError, match="nowhere does not exist"):
        parse_finetuning(
            [f"--encoder.init={pretrained}", "--data.source", "folder", "--data.path", "nowhere"], "finetune.py", ""
        )
    assert len(looked) == 2


def test_a_start_that_is_left_out_is_asked_for(pretrained: Path) -> None:
    with pytest.raises(ConfigError, match="needs weights to start from"):
        parse_finetuning(["--encoder.init", "--train.epochs", "3"], "finetune.py", "")


def test_from_scratch_is_the_same_network_without_the_start(pretrained: Path) -> None:
    config = finetune_config(str(pretrained))
    scratch = from_scratch(replace(config, encoder=replace(config.encoder, frozen_layers=2)))
    assert scratch.encoder == replace(config.encoder, init=None)
    assert scratch.run_dir == config.run_dir / "scratch"
    assert (scratch.optim.layer_decay, scratch.schedule.head_epochs) == (1.0, 0)
    assert from_scratch(finetune_config("resnet18")).encoder.stem == "imagenet"


# The run.


def test_the_head_learns_first_at_the_full_rate(pretrained: Path, tmp_path: Path) -> None:
    config = finetune_config(str(pretrained))
    config = replace(
        config,
        out=tmp_path,
        data=replace(config.data, limit=80),  # 72 to train on: 2 steps an epoch
        schedule=replace(config.schedule, head_epochs=2, warmup_epochs=1),
        train=replace(config.train, epochs=5, batch_size=36, log_every=1, checkpoint_every=1, keep_checkpoints=20,
                      knn_every=0, precision="fp32"),
    )  # fmt: skip
    simclr.pretrain(config)
    began = load_file(pretrained / "encoder" / "encoder.safetensors")
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


@pytest.mark.parametrize(
    "objective",
    ["arcface", pytest.param("triplet", marks=pytest.mark.long), pytest.param("supcon", marks=pytest.mark.long)],
)
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
    # Every class is a sigmoid of its own: a temperature of a softmax would mean nothing.
    row, head = result["rows"]["fine-tuned"], tmp_path / "runs" / "birds-finetuned" / "encoder" / "head.json"
    assert result["data"]["validation"] > 0 and "temperature" not in row and "calibration_error_calibrated" not in row
    assert json.loads(head.read_text())["temperature"] == 1.0
    assert "no temperature is fitted" in result["protocol"]["calibration"]


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


def test_a_profile_ends_well_and_scores_nothing(finetune: Any, tmp_path: Path) -> None:
    long = ["--train.epochs", "6", "--train.batch-size", "16"]  # 36 steps, of which a profile takes 28
    code, out, err, result = finetune(*QUICK, *long, "--profile", name="profiled")
    assert code == 0, err
    assert "profile: mean of 20 steps" in out and "stopped at" not in err
    assert not result and not (tmp_path / "runs" / "profiled" / "encoder").exists()
