"""The self-test of several processes: right where they are, and every wrong gather that was ever shipped is found."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from scripts import selftest as command
from simclr.config import SamplerConfig, TrainConfig
from simclr.losses.triplet import TripletConfig
from simclr.selftest import Finding, selftest

ALL_GATHER = dist.all_gather


def local(parts: list[torch.Tensor], x: torch.Tensor, **words: Any) -> None:
    """Negatives are those of this process alone, in silence."""
    ALL_GATHER(parts, x, **words)
    for part in parts:
        part.copy_(x)


def backwards(parts: list[torch.Tensor], x: torch.Tensor, **words: Any) -> None:
    """The rows of all, those of the last process first."""
    ALL_GATHER(parts[::-1], x, **words)


def own_part(out: torch.Tensor, parts: list[torch.Tensor], **words: Any) -> None:
    """The gradient that this process's part of the loss gives its own rows, without what the others' parts give them."""
    out.copy_(parts[dist.get_rank()])


def one_share(ctx: object, *grads: torch.Tensor) -> torch.Tensor:
    """The mean over processes divides, and nothing has multiplied."""
    return grads[0]


WRONG = {
    "local": lambda: patch("torch.distributed.all_gather", local),
    "backwards": lambda: patch("torch.distributed.all_gather", backwards),
    "divided": lambda: patch("simclr.distributed._ScaledForMean.backward", one_share),
    "without the others": lambda: patch("torch.distributed.reduce_scatter", own_part),
}


def look_on(rank: int, world: int, port: int, config: TrainConfig, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    triplets = replace(config, objective=TripletConfig(), sampler=SamplerConfig(name="classes", classes=5, per_class=6))
    found = {
        "right": selftest(config),
        "labels": selftest(triplets),
        "seeds": selftest(replace(config, seed=rank)),
    }
    for name, wrong in WRONG.items():
        with wrong():
            found[name] = selftest(triplets if name == "without the others" else config)
    torch.save(found, f"{folder}/{rank}.pt")


def test_processes_that_train_as_one_and_those_that_do_not(
    ranks: Callable[..., None], free_port: Callable[[], int], tiny_run: TrainConfig, tmp_path: Path
) -> None:
    config = replace(
        tiny_run,
        data=replace(tiny_run.data, limit=96, label_fraction=1.0),
        train=replace(tiny_run.train, batch_size=32),
    )
    ranks(2, look_on, 2, free_port(), config, str(tmp_path))
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    assert [[(f.name, f.right) for f in one["right"]] for one in both] == [
        [(f.name, f.right) for f in both[0]["right"]]
    ] * 2
    found = both[0]
    for name in ("right", "labels"):
        assert not [finding for finding in found[name] if finding.right is False], found[name]
        assert {"views", "loss", "gradient of the model", "order", "gather"} <= {f.name for f in found[name] if f.right}
    assert [f.name for f in found["seeds"] if f.right is False] == ["order"]
    for name in WRONG:
        wrong = {finding.name: finding.words for finding in found[name] if finding.right is False}
        assert "gradient of the model" in wrong, name
        if name == "divided":
            assert "0.500 times one process's in length, cosine 1.0000" in wrong["gradient of the model"]
    assert not list((tmp_path / "runs").glob("*"))


def test_the_exit_code_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    with patch("simclr.selftest.selftest", lambda config: [Finding("gather", "no", False), Finding("wire", "slow")]):
        assert command.main([]) == 1
    assert capsys.readouterr().out == "WRONG  gather  no\n       wire    slow\n"
    with patch("simclr.selftest.selftest", lambda config: [Finding("gather", "yes", True)]):
        assert command.main(["cifar10"]) == 0
