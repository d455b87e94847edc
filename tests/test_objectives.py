"""Every objective under the one trainer: it trains, logs its figures, and resumes to the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import SamplerConfig, TrainConfig
from simclr.errors import DataError
from simclr.objectives import OBJECTIVES, build_objective
from simclr.run.log import read_metrics


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_every_objective_trains_and_resumes_to_the_same_bits(
    objective: type, tiny_run: TrainConfig, stop_after: Callable[[int], Any]
) -> None:
    config = replace(
        tiny_run,
        objective=objective(),
        data=replace(tiny_run.data, limit=256),
        sampler=SamplerConfig(name="classes", classes=8, per_class=6),
        train=replace(tiny_run.train, batch_size=64, epochs=2, knn_every=0),
    )
    undisturbed = simclr.pretrain(replace(config, name="undisturbed"))
    with stop_after(5):
        stopped = simclr.pretrain(replace(config, name="stopped"))
    assert (stopped.steps, stopped.finished) == (5, False)
    resumed = simclr.pretrain(replace(config, name="stopped"))
    assert resumed.finished
    names = ("encoder/encoder.safetensors", "checkpoints/step-00000008/model.safetensors")
    for name in names:  # the second holds the objective's own parameters and buffers too
        one, other = load_file(undisturbed.run_dir / name), load_file(resumed.run_dir / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    lines = [line for line in read_metrics(resumed.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    assert len(lines) == 8
    wanted = build_objective(config.objective, classes=10, dim=16, samples=256, seed=0)
    wanted(torch.randn(2, 8, 16), torch.arange(8) // 2, torch.arange(8), 0, torch.randn(2, 8, 16))
    assert set(wanted.statistics) <= set(lines[0])


@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o.needs_labels], ids=lambda objective: objective.name)
def test_labels_are_asked_for(objective: type, tiny_run: TrainConfig, image_folder: Path) -> None:
    data = replace(tiny_run.data, source="folder", path=image_folder, limit=None, labels="none")
    with pytest.raises(DataError, match=f"the objective {objective.name} needs labels, and .* has no labels"):
        simclr.pretrain(replace(tiny_run, objective=objective(), data=data))
    assert not tiny_run.run_dir.exists()
