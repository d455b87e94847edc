"""A run may change its number of processes in the middle of an epoch: it ends where one that a single process never left does.

Each run is stopped on two processes, goes on with three, is stopped there, and ends alone; what two left is ended by one
process as well. Three processes do all of it at one start: while two of them share a run, the third trains the undisturbed one.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import simclr
from augment import MixConfig
from simclr.config import EncoderConfig, SamplerConfig, TrainConfig
from simclr.losses import (
    ArcFaceConfig,
    CenterConfig,
    ContrastiveConfig,
    CrossEntropyConfig,
    LeJEPAConfig,
    MarginConfig,
    MoCoConfig,
    NTXentConfig,
    TripletConfig,
)
from simclr.model.contrastive import build_model
from simclr.processes import meeting
from simclr.run.log import read_metrics

Ranks = Callable[..., None]
Port = Callable[[], int]

STEPS = 8
"""Two epochs of four."""
LEFT_BY_TWO, LEFT_BY_THREE = 3, 6
"""Steps that are done when two, and then three processes stop: neither ends an epoch."""
AS_ROUNDED = 1e-4
"""How far rounding may lead, as a part of the way that the weights took."""


@dataclass(frozen=True)
class Moved:
    """One run, and how far its end may be from an undisturbed one's, as a part of the way that the weights took."""

    config: TrainConfig
    near: float
    ports: tuple[int, int]
    """Where two, and where three processes meet."""

    def at(self, way: str) -> TrainConfig:
        return replace(self.config, out=self.config.out / way)


def on_world(rank: int, world: int, port: int, config: TrainConfig, until: int | None = None) -> None:
    """This process's part in a run, which is asked to stop after ``until`` steps."""
    from simclr.run.saving import Saving

    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    for name in (*launched, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    if world > 1:
        os.environ |= {**launched, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    asked = Saving.asked
    if until is not None:
        Saving.asked = lambda self, step: step >= until  # type: ignore[method-assign]
    try:
        found = simclr.pretrain(config)
    finally:
        Saving.asked = asked  # type: ignore[method-assign]
    assert (found.steps, found.finished) == ((STEPS, True) if until is None else (until, False)), found


def all_on(rank: int, runs: list[Moved]) -> None:
    import simclr.train

    for name in ("draw_curves", "draw_first_views"):
        setattr(simclr.train, name, lambda *args: None)
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    for run in runs:
        moved, copied = run.at("moved"), run.at("copied")
        if rank < 2:
            on_world(rank, 2, run.ports[0], moved, LEFT_BY_TWO)
        else:
            on_world(0, 1, 0, run.at("alone"))
            meeting._state.meetings += 1  # processes that meet have met as often before
        if rank == 0:
            shutil.copytree(moved.run_dir, copied.run_dir)
        on_world(rank, 3, run.ports[1], moved, LEFT_BY_THREE)
        if rank < 2:
            on_world(0, 1, 0, (moved, copied)[rank])


def tensors_of(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number of a state, by where it is."""
    if isinstance(state, torch.Tensor):
        return {path: state}
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: t for key, value in items for name, t in tensors_of(value, f"{path}/{key}").items()}
    return {path: torch.tensor(float(state))} if isinstance(state, int | float) else {}


def ended(run: Path, step: int = STEPS) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and buffers, the rest of the state, and what is noted beside them."""
    folder = run / "checkpoints" / f"step-{step:08}"
    state = torch.load(folder / "state.pt", weights_only=True)
    noted = json.loads((folder / "progress.json").read_text())
    return load_file(folder / "model.safetensors"), tensors_of(state), noted


def length(tensors: dict[str, torch.Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors.values()) ** 0.5


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], moved: float) -> dict[str, float]:
    """How far two sets of tensors are apart by kind, as a part of ``moved`` where they are weights, else of their own length.

    What counts is the same to the last one.
    """
    assert {n: (t.shape, t.dtype) for n, t in one.items()} == {n: (t.shape, t.dtype) for n, t in two.items()}
    kinds = dict[str, dict[str, torch.Tensor]]()
    for name, tensor in one.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, two[name]), name
            continue
        of_weights = "model." in name
        kind = ("average" if "average" in name else "model") if of_weights else re.split(r"[./]", name)[-1]
        kinds.setdefault(kind, {})[name] = tensor
    return {
        kind: length({n: t.double() - two[n].double() for n, t in tensors.items()})
        / (moved if kind in ("model", "average") else max(length(tensors), 1e-9))
        for kind, tensors in kinds.items()
    }


def figures_of(run: Path) -> tuple[list[float], list[float]]:
    """Losses of steps and of epochs, and scores: all lines are there once."""
    lines = read_metrics(run / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    losses = [line["loss"] for line in steps] + [line["epoch_loss"] for line in lines if line["kind"] == "epoch"]
    return losses, [line[key] for line in lines for key in line if key.startswith("online_")]


def faults(run: Moved, tally: Callable[[str], None]) -> list[str]:
    """What differs between the undisturbed run and the others."""
    alone, found = run.at("alone").run_dir, list[str]()
    weights, state, noted = ended(alone)
    start = build_model(run.config).state_dict()
    moved = length({n: weights[f"model.{n}"] - t for n, t in start.items() if t.is_floating_point()})
    assert moved > 1e-3
    for way in ("moved", "copied"):
        other, said = run.at(way).run_dir, f"{run.config.name}, {way}"
        their_weights, their_state, their_noted = ended(other)
        (losses, scores), (their_losses, their_scores) = figures_of(alone), figures_of(other)
        figures = apart(weights, their_weights, moved) | apart(state, their_state, moved)
        figures["losses"] = max(abs(a - b) / max(abs(a), 1e-3) for a, b in zip(losses, their_losses, strict=True))
        tally(f"{said}: {max(figures.values()):.0e} apart, in {max(figures, key=lambda kind: figures[kind])}")
        found += [f"{said}: {kind} {value}" for kind, value in figures.items() if not value < run.near]
        if their_scores != pytest.approx(scores, abs=0.05):
            found.append(f"{said}: scores {scores} and {their_scores}")
        if (their_noted.keys(), their_noted["step"]) != (noted.keys(), noted["step"]):
            found.append(f"{said}: {noted} and {their_noted}")
        assert (other / "encoder" / "encoder.safetensors").exists()
    return found


@pytest.fixture
def base(tiny_run: TrainConfig, tmp_path: Path) -> TrainConfig:
    """An encoder without batch statistics on digits at 32 px, two epochs of four steps."""
    return replace(
        tiny_run,
        out=tmp_path,
        augment=replace(tiny_run.augment, size=32),
        encoder=EncoderConfig(name="test_convnext"),
        head=replace(tiny_run.head, out_dim=15, batch_norm=False),
        optim=replace(tiny_run.optim, name="adamw", learning_rate=1e-3, scaling="none"),
        schedule=replace(tiny_run.schedule, warmup_epochs=0.5),
        train=replace(tiny_run.train, batch_size=24, checkpoint_every=100, log_every=1, knn_every=0),
        data=replace(tiny_run.data, limit=96),
    )


def kinds(base: TrainConfig) -> dict[str, TrainConfig]:
    """Runs by the state that they have beside weights and an optimizer's."""

    def loop(**more: Any) -> TrainConfig:
        return replace(base, train=replace(base.train, **more))

    def labelled(objective: Any, **more: Any) -> TrainConfig:
        one_view = replace(base.augment, views=1)
        return replace(base, objective=objective, augment=one_view, head=replace(base.head, layers=1), **more)

    moco = MoCoConfig(momentum=0.9, momentum_schedule="cosine", negatives="other", temperature_learned=True)
    triplets, by_class = (
        SamplerConfig(name="mined", mine_images=40),
        SamplerConfig(name="classes", classes=5, per_class=4),
    )
    wsd = replace(base.schedule, decay="wsd", warmup_epochs=0)
    return {
        "average": replace(loop(ema=0.9), objective=NTXentConfig(temperature_learned=True)),
        "best": replace(loop(ema=0.9, knn_every=1, keep="best", patience=2), schedule=wsd),
        "moco": replace(base, objective=moco),
        "lejepa": replace(base, objective=LeJEPAConfig()),
        "memory": labelled(ContrastiveConfig(memory=40, memory_from=1)),
        "margin": labelled(MarginConfig(class_beta=True, sample_beta=True, nu=0.1)),
        "mined": labelled(TripletConfig(mining="given", margin=0.5), sampler=triplets),
        "by class": labelled(TripletConfig(), sampler=by_class),
        "center": labelled(CenterConfig(weight=0.1)),
        "arcface": labelled(ArcFaceConfig(scale=8.0, subcenters=2, sample_share=0.5)),
        "mixed": labelled(CrossEntropyConfig(), mix=MixConfig(mixup=0.5, cutmix=1.0)),
    }


@pytest.mark.long
def test_every_kind_of_state_moves_between_numbers_of_processes(
    ranks: Ranks, free_port: Port, base: TrainConfig, tally: Callable[[str], None]
) -> None:
    chosen = os.environ.get("WORLDS_ONLY", "").split(",")
    configs = {name: config for name, config in kinds(base).items() if chosen == [""] or name in chosen}
    ports = set[int]()
    while len(ports) < 2 * len(configs):
        ports.add(free_port())
    meetings = iter(ports)
    runs = [
        Moved(replace(config, name=name), AS_ROUNDED, (next(meetings), next(meetings)))
        for name, config in configs.items()
    ]
    ranks(3, all_on, runs)
    found = [fault for run in runs for fault in faults(run, tally)]
    assert not found, "\n".join(found)
