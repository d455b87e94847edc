"""Every objective under the one trainer: it trains, logs its figures, resumes to the same bits, and none is a special case."""

import ast
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import HeadConfig, SamplerConfig, TrainConfig
from simclr.errors import ConfigError, DataError
from simclr.losses import EmbeddedBatch, LeJEPAConfig, Loss, LossConfig, MoCoConfig, momentum_contrast
from simclr.objectives import OBJECTIVES, build_objective
from simclr.run.log import read_metrics

RELATIVES = ("multi-similarity", "circle", "cosface", "proxy-anchor")
"""Objectives whose state in a checkpoint is of a kind that others have: without one, or weights of classes."""


@pytest.mark.parametrize(
    "objective",
    [pytest.param(o, marks=pytest.mark.long if o.name in RELATIVES else (), id=o.name) for o in OBJECTIVES],
)
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
    z, keys = torch.randn(2, 2, 8, 16)
    wanted(EmbeddedBatch(z, torch.arange(8) // 2, torch.arange(8), 0, keys))
    assert set(wanted.statistics) <= set(lines[0])


@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o.needs_labels], ids=lambda objective: objective.name)
def test_labels_are_asked_for(objective: type, tiny_run: TrainConfig, image_folder: Path) -> None:
    data = replace(tiny_run.data, source="folder", path=image_folder, limit=None, labels="none")
    with pytest.raises(DataError, match=f"the objective {objective.name} needs labels, and .* has no labels"):
        simclr.pretrain(replace(tiny_run, objective=objective(), data=data))
    assert not tiny_run.run_dir.exists()


@dataclass(frozen=True, kw_only=True)
class OwnConfig(LossConfig):
    """Momentum contrast written a second time, under a name that nothing has heard of."""

    name: ClassVar[str] = "own"
    needs_keys: ClassVar[bool] = True

    @property
    def average(self) -> float:
        return 0.9

    def build(self, num_classes: int, dim: int, num_samples: int) -> "OwnLoss":
        return OwnLoss()


class OwnLoss(Loss):
    def on_batch(self, batch: EmbeddedBatch) -> torch.Tensor:
        assert batch.keys is not None
        return momentum_contrast(batch.z, batch.keys, 0.2)


def test_a_loss_of_another_name_that_says_the_same_needs_trains_to_the_same_bits(tiny_run: TrainConfig) -> None:
    run = replace(tiny_run, head=HeadConfig(out_dim=16), train=replace(tiny_run.train, epochs=1, knn_every=0))
    predicting = replace(run, objective=OwnConfig(), head=HeadConfig(out_dim=16, predictor_dim=8))
    for config in (run, predicting):
        known = simclr.pretrain(replace(config, name="known", objective=MoCoConfig(momentum=0.9)))
        own = simclr.pretrain(replace(config, name="own", objective=OwnConfig()))
        files = [one.run_dir / "encoder" / "encoder.safetensors" for one in (known, own)]
        one, other = map(load_file, files)
        assert all(torch.equal(one[key], other[key]) for key in one | other)
        for done in (known, own):
            shutil.rmtree(done.run_dir)
    with pytest.raises(ConfigError, match="the objective own, which keeps an average of its own"):
        replace(run, objective=OwnConfig(), train=replace(run.train, ema=0.9))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_the_level_of_chance_is_the_loss_of_embeddings_that_are_all_alike(objective: type[LossConfig]) -> None:
    said = objective().chance(2 * 24)
    if said is None:
        assert objective.needs_labels or objective is LeJEPAConfig  # whose value depends on where the point is
        return
    z = torch.ones(2, 24, 8)
    batch = EmbeddedBatch(z, torch.zeros(24, dtype=torch.int64), torch.arange(24), 0, z)
    loss = build_objective(objective(), classes=0, dim=8, samples=24, seed=0)(batch)
    assert said == pytest.approx(loss.item(), rel=1e-6)
    assert math.isfinite(objective().chance(2))  # one image in two views


ROOT = Path(simclr.__file__).parent


@pytest.mark.parametrize("room", ["config", "data", "model", "optim", "exchange", "run", "train.py"])
def test_no_room_above_the_list_knows_one_loss_from_another(room: str) -> None:
    """But for defaults: the default objective of a run, and the presets."""
    files = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).glob("*.py"))
    names = {objective.name for objective in OBJECTIVES}
    for tree in (ast.parse(file.read_text()) for file in files):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simclr.losses"):
                assert {alias.name for alias in node.names} <= {"EmbeddedBatch", "Loss", "LossConfig"}
            if isinstance(node, ast.Compare):
                constants = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
                assert not constants & names
