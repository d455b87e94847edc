"""A score reads each of the run's files once, and its weights for a proof twice a row; its report reads what is written then."""

import builtins
import importlib.util
import io
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import simclr
from linear_eval.features import frozen as frozen_module
from linear_eval.finetuned import evaluate_finetuned
from simclr.config import DataConfig, HeadConfig, TrainConfig
from simclr.finetune import from_scratch
from simclr.losses import CrossEntropyConfig

ROOT = Path(__file__).parent.parent
QUICK = ["--eval.one-shot-trials", "50", "--eval.trials", "0", "--eval.resamples", "10", "--eval.strengths", "0.01"]


@pytest.fixture
def run(tiny_run: TrainConfig) -> TrainConfig:
    config = replace(tiny_run, train=replace(tiny_run.train, epochs=1, knn_every=0))
    assert simclr.pretrain(config).finished
    return config


@pytest.fixture
def opened(run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened to be read, by whatever function, from now on."""
    counts: Counter[str] = Counter()
    plain = io.open

    def counting(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if isinstance(file, str | Path) and mode in ("r", "rb"):
            counts[str(file)] += 1
        return plain(file, mode, *rest, **options)

    monkeypatch.setattr(io, "open", counting)
    monkeypatch.setattr(builtins, "open", counting)
    return counts


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> Counter[nn.Module]:
    """How often a digest of each module was taken from now on."""
    counts: Counter[nn.Module] = Counter()
    digest = frozen_module.encoder_digest

    def counting(encoder: nn.Module) -> str:
        counts[encoder] += 1
        return digest(encoder)

    monkeypatch.setattr(frozen_module, "encoder_digest", counting)
    return counts


def command(name: str, *words: object) -> None:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where tyro looks for its docstrings
    spec.loader.exec_module(script)
    assert script.main([str(word) for word in words]) == 0


@pytest.mark.parametrize("protocol", ["closed", "open-set"])
def test_a_score_of_the_runs_own_images(
    protocol: str, run: TrainConfig, opened: Counter[str], proofs: Counter[nn.Module]
) -> None:
    extra = ["--tensorboard"] if importlib.util.find_spec("tensorboard") else []
    command("evaluate", run.run_dir, "--protocol", protocol, *QUICK)
    assert opened[str(run.run_dir / "config.yaml")] == 1
    assert opened[str(run.run_dir / "encoder" / "encoder.json")] == 1
    assert list(proofs.values()) == [2, 2, 2]  # before and after: the encoder, the untrained one, raw pixels
    opened.clear()
    if extra:
        command("evaluate", run.run_dir, "--protocol", protocol, *QUICK, *extra)
        assert opened[str(run.run_dir / "config.yaml")] == 1
        assert opened[str(run.run_dir / "encoder" / "encoder.json")] == 1


def test_a_score_of_other_images(run: TrainConfig, image_folder: Path, opened: Counter[str]) -> None:
    other = ["--data.source", "folder", "--data.path", image_folder]
    command("evaluate", run.run_dir, *QUICK, *other)
    assert opened[str(run.run_dir / "config.yaml")] == 1
    assert opened[str(run.run_dir / "encoder" / "encoder.json")] == 1


def test_embedding(run: TrainConfig, opened: Counter[str], tmp_path: Path) -> None:
    command("embed", run.run_dir, "--out", tmp_path / "features.npz")
    assert opened[str(run.run_dir / "config.yaml")] == 1
    assert opened[str(run.run_dir / "encoder" / "encoder.json")] == 1


def test_an_export(run: TrainConfig, opened: Counter[str]) -> None:
    command("export", run.run_dir, "--format", "timm")
    assert opened[str(run.run_dir / "encoder" / "encoder.json")] == 1


def test_an_encoder_folder_of_its_own(
    run: TrainConfig, opened: Counter[str], proofs: Counter[nn.Module], tmp_path: Path, image_folder: Path
) -> None:
    (run.run_dir / "encoder").rename(tmp_path / "encoder")
    command(
        "embed", tmp_path / "encoder", "--data.source", "folder", "--data.path", image_folder, "--out", tmp_path / "f"
    )
    assert opened[str(tmp_path / "encoder" / "encoder.json")] == 1
    assert list(proofs.values()) == [2]


def test_a_score_of_fine_tuning(
    run: TrainConfig, image_folder: Path, opened: Counter[str], proofs: Counter[Any]
) -> None:
    data = DataConfig(source="folder", path=image_folder, size=16, test_fraction=0.4)
    tuned = replace(
        run,
        name="tuned",
        data=data,
        encoder=replace(run.encoder, init=str(run.run_dir)),
        head=HeadConfig(layers=0),
        objective=CrossEntropyConfig(),
        augment=replace(run.augment, views=1),
        train=replace(run.train, scratch=True, batch_size=8),
    )
    assert simclr.pretrain(tuned).finished and simclr.pretrain(from_scratch(tuned)).finished
    opened.clear()
    proofs.clear()
    evaluate_finetuned(tuned)
    # "trained_on" looks into the first run for its images.
    assert opened[str(run.run_dir / "config.yaml")] == 1
    assert list(proofs.values()) == [2, 2, 2]  # fine-tuned, from scratch, the linear probe
