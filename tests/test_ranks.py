"""Every loss on several gloo processes is the loss of one: value, gradients, statistics, and what it remembers."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_every_mode import modes

from simclr.losses import ArcFaceConfig, EmbeddedBatch, LossConfig, MarginConfig, NTXentConfig
from simclr.losses.pair_loss import PairLossConfig
from simclr.objectives import OBJECTIVES, build_objective

Ranks = Callable[..., None]
Port = Callable[[], int]

IMAGES, DIM, CLASSES = 12, 5, 3


def each_mode() -> Iterator[tuple[str, LossConfig]]:
    """Every objective with each value of its switches, and what no single switch shows."""
    for config in OBJECTIVES:
        yield from modes(config)
        if issubclass(config, PairLossConfig):
            yield f"{config.name}, memory", config(memory=7, memory_from=0)
    yield "arcface, share", ArcFaceConfig(sample_share=0.1, subcenters=2)
    yield "margin, betas", MarginConfig(class_beta=True, sample_beta=True, nu=0.1, mining="all")
    yield "margin, betas, semi-hard", MarginConfig(class_beta=True, sample_beta=True, nu=0.1, mining="semi-hard")
    yield "nt-xent, cold", NTXentConfig(temperature=1e-3)


MODES = dict(each_mode())


def batch_of(views: int, config: LossConfig) -> EmbeddedBatch:
    generator = torch.Generator().manual_seed(views)
    z, keys = torch.randn(2, views, IMAGES, DIM, generator=generator, dtype=torch.float64).unbind()
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 2, 1, 0, 2, 2, 1])
    return EmbeddedBatch(z, labels, torch.arange(IMAGES), 3, keys if config.needs_keys else None)


def found_by(config: LossConfig, batch: EmbeddedBatch, steps: int = 2) -> list[Any]:
    """Of each of two calls: loss, gradient of z, those of parameters, statistics; at last the loss's own state."""
    objective = build_objective(config, classes=CLASSES, dim=DIM, samples=IMAGES, seed=0).double()
    found: list[Any] = []
    for step in range(steps):
        z = batch.z.clone().add_(0.1 * step).requires_grad_()
        taken = dataclasses.replace(batch, z=z, seed=batch.seed + step)
        loss = objective(taken)
        objective.zero_grad()
        loss.backward()
        found.append((loss.detach(), z.grad, [p.grad for p in objective.parameters()], dict(objective.statistics)))
    return [*found, objective.state_dict()]


def own(batch: EmbeddedBatch, rank: int, world: int) -> EmbeddedBatch:
    part = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    keys = None if batch.keys is None else batch.keys[:, part]
    return EmbeddedBatch(batch.z[:, part], batch.labels[part], batch.indices[part], batch.seed, keys)


def losses_on(rank: int, world: int, port: int, path: str, cases: list[tuple[str, int]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = {}
    for name, views in cases:
        config = MODES[name]
        try:
            found[name, views] = found_by(config, own(batch_of(views, config), rank, world))
        except Exception as error:
            raise RuntimeError(f"{name} of {views} views") from error
    torch.save(found, f"{path}/{rank}.pt")
    dist.destroy_process_group()


def assert_same(found: list[Any], wanted: list[Any], part: slice, world: int, said: str) -> None:
    for ours, theirs in zip(found[:-1], wanted[:-1], strict=True):
        close = {"rtol": 1e-9, "atol": 1e-11, "equal_nan": True, "msg": lambda text: f"{said}: {text}"}
        torch.testing.assert_close(ours[0], theirs[0], **close)
        torch.testing.assert_close(ours[1] / world, theirs[1][:, part], **close)
        torch.testing.assert_close(ours[2], theirs[2], **close)
        assert ours[3].keys() == theirs[3].keys(), said
        for name, value in theirs[3].items():
            torch.testing.assert_close(ours[3][name].double(), value.double(), **(close | {"rtol": 1e-6, "atol": 1e-7}))
    torch.testing.assert_close(found[-1], wanted[-1], **close)


def check(ranks: Ranks, port: int, path: Path, world: int, cases: list[tuple[str, int]]) -> None:
    ranks(world, losses_on, world, port, str(path), cases)
    parts = [torch.load(path / f"{rank}.pt") for rank in range(world)]
    for name, views in cases:
        wanted = found_by(MODES[name], batch_of(views, MODES[name]))
        for rank, found in enumerate(parts):
            part = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
            assert_same(found[name, views], wanted, part, world, f"{name}, {views} views, rank {rank} of {world}")


def test_every_objective_on_three_processes_is_that_of_one(ranks: Ranks, free_port: Port, tmp_path: Path) -> None:
    check(ranks, free_port(), tmp_path, 3, [(name, 2) for name in MODES])


@pytest.mark.slow
def test_four_views_on_two_processes(ranks: Ranks, free_port: Port, tmp_path: Path) -> None:
    check(ranks, free_port(), tmp_path, 2, [(name, 4) for name in MODES])
