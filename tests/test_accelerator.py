"""Where a run runs: accelerate's settings that would change what is learned."""

from dataclasses import replace

import pytest
import torch

import simclr
from simclr.config import LoopConfig, TrainConfig
from simclr.run.accelerator import make_accelerator, resolved_precision
from simclr.run.checkpoint import newest_checkpoint


def test_accumulation_of_gradients_is_said_to_gain_nothing_and_changes_nothing(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, epochs=1, evaluate=False))
    config = replace(config, schedule=replace(config.schedule, warmup_epochs=0))
    plain = simclr.pretrain(config)
    assert "accumulate" not in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    other = simclr.pretrain(replace(config, name="accumulating"))
    assert "accumulate gradients over 4 batches" in capsys.readouterr().err
    found = [newest_checkpoint(run.run_dir / "checkpoints")[0] for run in (plain, other)]
    first, second = (checkpoint.model() for checkpoint in found if checkpoint is not None)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_the_opening_line_names_the_arithmetic_that_accelerate_uses(
    precision: str, tiny_run: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, precision=precision, epochs=1, knn_every=0))
    config = replace(config, schedule=replace(config.schedule, warmup_epochs=0))
    simclr.pretrain(config)
    opening = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("starting "))
    said = opening.rsplit(", ", 1)[1].strip()
    wanted = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    with make_accelerator(config).autocast():
        product = torch.ones(1, 1) @ torch.ones(1, 1)
    assert said == wanted[product.dtype] == resolved_precision(LoopConfig(precision=precision))
