"""Runs whose class weights are divided among processes: each holds its classes' rows, and the files are those of one process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_fsdp import FSDP, apart, begin, losses, several_on

from simclr.config import EncoderConfig, TrainConfig
from simclr.exchange.classifier import load_classifier
from simclr.losses import ArcFaceConfig, CosFaceConfig
from simclr.run.log import read_metrics
from simclr.sharding import local

Ranks = Callable[..., None]
Port = Callable[[], int]
Runs = dict[int, tuple[TrainConfig, dict[str, str]]]


@pytest.fixture
def base(tiny_run: TrainConfig) -> TrainConfig:
    """Ten classes of digits in two epochs of two steps, a network without statistics of the batch, and validation images."""
    return replace(
        tiny_run,
        augment=replace(tiny_run.augment, size=32, views=1),
        encoder=EncoderConfig(name="test_vit"),
        head=replace(tiny_run.head, out_dim=15, layers=1, batch_norm=False),
        objective=ArcFaceConfig(scale=8.0, subcenters=2),
        optim=replace(tiny_run.optim, name="adamw", learning_rate=1e-3, clip_norm=1.0),
        schedule=replace(tiny_run.schedule, warmup_epochs=0, decay="constant"),
        train=replace(
            tiny_run.train, batch_size=24, checkpoint_every=1, keep_checkpoints=9, log_every=1, knn_every=1, ema=0.5
        ),
        data=replace(tiny_run.data, validation=0.25, limit=64),
    )


def divided_on(rank: int, world: int, path: str, runs: Runs) -> None:
    """Runs with every class weight divided; what each says of that, and the rows that this process holds, in a file."""
    import simclr.run.divided
    import simclr.sharding
    import simclr.train

    simclr.run.divided.DIVIDED_FROM = simclr.sharding.AT_ONCE = 0
    place, found = simclr.train.place_objectives, []

    def noted(accelerator: Any, *objectives: Any) -> list[str]:
        said = place(accelerator, *objectives)
        found.append((said, [len(local(p)) for one in objectives for p in one.parameters()]))
        return said

    simclr.train.place_objectives = noted
    several_on(rank, world, runs)
    torch.save(found, f"{path}/{rank}.pt")


def accuracies(run: Path) -> list[float]:
    return [
        line["validation_accuracy"] for line in read_metrics(run / "metrics.jsonl") if "validation_accuracy" in line
    ]


def assert_same_run(alone: TrainConfig, other: TrainConfig, near: float = 3e-4) -> None:
    assert apart(alone.run_dir, other.run_dir, 4, 1) < near
    assert losses(other.run_dir)[-2:] == pytest.approx(losses(alone.run_dir)[-2:], rel=near)
    assert accuracies(other.run_dir)[-1] == pytest.approx(accuracies(alone.run_dir)[-1], abs=0.2)
    one, two = (load_file(run.run_dir / "encoder" / "head.safetensors") for run in (alone, other))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    torch.testing.assert_close(one["objective.loss.weight"], two["objective.loss.weight"], rtol=near, atol=near)
    load_classifier(other.run_dir)


@pytest.mark.slow
def test_a_run_with_divided_class_weights_goes_on_with_other_numbers_of_processes(
    ranks: Ranks, free_port: Port, base: TrainConfig, tmp_path: Path
) -> None:
    import simclr

    alone, three, one = (replace(base, out=tmp_path / name) for name in ("alone", "three", "one"))
    simclr.pretrain(alone)
    begin(alone.run_dir, three.run_dir, 1)
    ranks(3, divided_on, 3, str(tmp_path), {free_port(): (three, {})})
    begin(three.run_dir, one.run_dir, 3)
    simclr.pretrain(one)
    for run in (three, one):
        assert_same_run(alone, run)
    for rank, rows in enumerate((8, 8, 4)):  # of two directions each, of the weights and of their average
        said = ["each process holds the weights of 4 of the 10 classes"]
        assert torch.load(tmp_path / f"{rank}.pt") == [(said, [rows, rows])]


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["sgd", "lars", "muon", "adamw"])
def test_every_optimizer_steps_divided_class_weights(
    ranks: Ranks, free_port: Port, base: TrainConfig, tmp_path: Path, optimizer: str
) -> None:
    """Begun on two processes, gone on with one, with three, and with the encoder in shards too."""
    import simclr

    rate = {"sgd": 0.05, "lars": 0.5, "muon": 0.01, "adamw": 1e-3}[optimizer]
    base = replace(
        base,
        objective=CosFaceConfig(scale=8.0),
        optim=replace(base.optim, name=optimizer, learning_rate=rate),  # type: ignore[arg-type]  # of a literal
    )
    runs = {name: replace(base, out=tmp_path / name) for name in ("alone", "two", "to_one", "to_three", "to_shards")}
    simclr.pretrain(runs["alone"])
    ranks(2, divided_on, 2, str(tmp_path), {free_port(): (runs["two"], {})})
    for name in ("to_one", "to_three", "to_shards"):
        begin(runs["two"].run_dir, runs[name].run_dir, 2)
    simclr.pretrain(runs["to_one"])
    ranks(
        3, divided_on, 3, str(tmp_path), {free_port(): (runs["to_three"], {}), free_port(): (runs["to_shards"], FSDP)}
    )
    for name in ("two", "to_one", "to_three", "to_shards"):
        assert_same_run(runs["alone"], runs[name], 0.4 if optimizer == "muon" else 3e-4)  # its products are in bfloat16
