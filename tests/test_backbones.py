"""Any backbone, from the first step to the score: trained two steps on digits, exported, loaded, evaluated."""

from dataclasses import replace
from pathlib import Path

import pytest

import simclr
from linear_eval import EvalConfig
from linear_eval.evaluate import evaluate_run
from simclr.config import EncoderConfig, HeadConfig, TrainConfig


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 32),
        pytest.param("resnet50", 16, marks=pytest.mark.long),
        pytest.param("convnext_atto", 32, marks=pytest.mark.slow),
        pytest.param("mobilenetv4_conv_small", 32, marks=pytest.mark.long),
    ],
)
def test_two_steps_and_a_score(name: str, size: int, tiny_run: TrainConfig) -> None:
    config = replace(
        tiny_run,
        encoder=EncoderConfig(name=name),
        head=HeadConfig(out_dim=16),
        augment=replace(tiny_run.augment, size=size),
        data=replace(tiny_run.data, size=16, limit=32),
        schedule=replace(tiny_run.schedule, warmup_epochs=0),
        train=replace(tiny_run.train, epochs=2, batch_size=32, knn_every=0, checkpoint_every=100),
    )
    run = simclr.pretrain(config)
    assert run.steps == 2
    small = replace(config.data, limit=150, test_fraction=0.1)
    result = evaluate_run(run.run_dir, small, EvalConfig(trials=1, resamples=50, strengths=(1e-2, 1.0), batch_size=64))
    assert set(result["rows"]) == {"encoder", "untrained", "raw pixels"}
    assert result["encoder"]["features"] == simclr.load_encoder(run.run_dir).features
    assert list(Path(run.run_dir).rglob("result.json"))
