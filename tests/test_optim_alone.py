"""Our optimizers in anybody's loop: parameters of every shape, settings that make no sense, groups added later."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from simclr.errors import ConfigError
from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS, parameter_groups


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_muon_takes_a_whole_model_and_gives_its_vectors_to_adamw() -> None:
    whole, grouped, vectors = network(), network(), network()
    here = Muon(whole.parameters(), lr=0.01, weight_decay=0.1)
    groups = parameter_groups(grouped, 0.1, decay_all=True)  # the vectors apart, with adapt=False
    there = Muon(groups, lr=0.01)
    adam = torch.optim.AdamW([p for p in vectors.parameters() if p.ndim < 2], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for p, q, r in zip(whole.parameters(), grouped.parameters(), vectors.parameters(), strict=True):
            p.grad = torch.randn(p.shape)
            q.grad, r.grad = p.grad.clone(), p.grad.clone()
        for optimizer in (here, there, adam):
            optimizer.step()
    for p, q, r in zip(whole.parameters(), grouped.parameters(), vectors.parameters(), strict=True):
        assert torch.equal(p, q)
        if p.ndim < 2:
            torch.testing.assert_close(p, r, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [lambda p: Muon(p), lambda p: LARS(p, lr=0.1)], ids=["muon", "lars"])
def test_a_plain_loop_learns_saves_and_goes_on(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    model, images, labels = network(), torch.randn(32, 3, 4, 4), torch.arange(32) % 2
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> float:
        for _ in range(count):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return loss.item()

    first = steps(model, optimizer, 1)
    assert steps(model, optimizer, 20) < first
    other = copy.deepcopy(model)
    again = make(other.parameters())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, made in ((model, optimizer), (other, again)):
        made.zero_grad()
        nn.functional.cross_entropy(one(images), labels).backward()
        made.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", [LARS, Muon])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", -1, "lr is -1; it must be a number, 0 or more"),
        ("lr", float("nan"), "lr is nan"),
        ("lr", "1e-3", "lr is '1e-3'; it must be a number"),
        ("momentum", 1.0, r"momentum is 1.0; it must be a number in \[0, 1\)"),
        ("momentum", -0.1, "momentum is -0.1"),
        ("weight_decay", -1e-4, "weight_decay is -0.0001; it must be a number, 0 or more"),
        ("weight_decay", float("inf"), "weight_decay is inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, name: str, value: Any, said: str) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ConfigError, match=said):
        kind([weight], **{"lr": 0.1, name: value})
    with pytest.raises(ConfigError, match=said):
        kind([{"params": [weight], name: value}], lr=0.1)
    optimizer = kind([weight], lr=0.1)
    with pytest.raises(ConfigError, match=said):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], name: value})
    assert len(optimizer.param_groups) == 1


def test_those_of_one_optimizer_alone_too() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    for trust in (0.0, -1.0, "0.1"):
        with pytest.raises(ConfigError, match=r"trust is .*; it must be a positive number"):
            LARS([weight], lr=0.1, trust=trust)  # type: ignore[arg-type]
    for betas in (0.9, (0.9,), (0.9, 1.0), ("0.9", "0.99")):
        with pytest.raises(ConfigError, match=r"betas is .*; it must be two numbers"):
            Muon([weight], betas=betas)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Muon is given a Sequential; expected its parameters: Muon\(model.parameters"):
        Muon(network())  # type: ignore[arg-type]


def test_a_sparse_gradient_is_refused() -> None:
    words = nn.Embedding(5, 3, sparse=True)
    words(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ConfigError, match="LARS is given a sparse gradient; make the embedding with sparse=False"):
        LARS(words.parameters(), lr=0.1).step()
