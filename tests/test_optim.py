"""LARS against a float64 loop of its published rule; parameter groups; the scaling of the learning rate."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from simclr.config import OptimConfig
from simclr.errors import ConfigError
from simclr.optim.optimizers import LARS, build_optimizer, parameter_groups, peak_learning_rate


def lars_by_hand(
    weights: list[torch.Tensor],
    gradients: list[list[torch.Tensor]],
    rates: list[float],
    decays: list[float],
    adapt: list[bool],
    trust: float = 0.001,
    clip: bool = False,
) -> list[torch.Tensor]:
    """You et al. 2017, alg. 1 with the learning rate inside the momentum, one tensor at a time in float64."""
    weights = [w.double().clone() for w in weights]
    velocity = [torch.zeros_like(w) for w in weights]
    for step, rate in enumerate(rates):
        for i, w in enumerate(weights):
            u = gradients[step][i].double() + decays[i] * w
            scale = 1.0
            if adapt[i] and w.norm() > 0 and u.norm() > 0:
                scale = trust * float(w.norm() / u.norm())
                scale = min(scale / rate, 1.0) if clip else scale
            velocity[i] = 0.9 * velocity[i] + rate * scale * u
            weights[i] = w - velocity[i]
    return weights


@pytest.mark.parametrize(("trust", "clip"), [(0.001, False), (0.3, True)])
def test_lars_equals_the_rule(trust: float, clip: bool) -> None:
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (5, 7), (4,), (6, 2)]
    start = [torch.randn(s) for s in shapes]
    start[3].zero_()  # a norm of zero switches the adaptation off
    model = nn.ParameterList([nn.Parameter(w.clone()) for w in start])
    optimizer = LARS(parameter_groups(model, weight_decay=0.01), lr=0.0, trust=trust, clip=clip)
    rates = [0.5, 1.0, 0.25, 3.0]
    gradients = [[torch.randn(s) for s in shapes] for _ in rates]
    for rate, gradient in zip(rates, gradients):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p, g in zip(model, gradient):
            p.grad = g.clone()
        optimizer.step()
    decays, adapt = [0.01, 0.01, 0.0, 0.01], [True, True, False, True]
    expected = lars_by_hand(start, gradients, rates, decays, adapt, trust, clip)
    for p, w in zip(model, expected):
        torch.testing.assert_close(p.detach().double(), w, rtol=1e-5, atol=1e-6)


def test_lars_leaves_parameters_without_gradient_and_saves_its_state() -> None:
    model = nn.Linear(3, 2)
    optimizer = LARS(parameter_groups(model, 0.0), lr=0.1)
    optimizer.step()
    model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
    optimizer.step()
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    restored = LARS(parameter_groups(twin, 0.0), lr=0.1)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, restored)):
        m.weight.grad, m.bias.grad = torch.full((2, 3), 2.0), torch.ones(2)
        o.step()
    assert torch.equal(model.weight, twin.weight)


def test_decay_spares_biases_and_normalisation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, plain = parameter_groups(model, 0.3)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    assert not plain["adapt"]
    assert len(plain["params"]) == 4


def test_decay_of_everything_and_plain_momentum_are_torchs_own_sgd() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    twin = copy.deepcopy(model)
    config = OptimConfig(name="sgd", learning_rate=0.1, nesterov=False, weight_decay=0.3, decay_all=True)
    groups = parameter_groups(model, config.weight_decay, decay_all=config.decay_all)
    pairs = [
        (model, build_optimizer(groups, config, 0.1)),
        (twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)),
    ]
    images = torch.randn(5, 8, 3, 4, 4)
    for one, optimizer in pairs:
        for batch in images:
            optimizer.zero_grad()
            one(batch).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_every_optimizer_lowers_a_quadratic(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 5)
    rate = 0.2 if name == "muon" else 0.05  # its steps are a fifth of the learning rate
    config = OptimConfig(name=name, learning_rate=rate, trust=0.1, weight_decay=0.0)
    optimizer = build_optimizer(parameter_groups(model, 0.0), config, config.learning_rate)
    first = None
    for _ in range(60):
        loss = (model.weight - 1).square().sum() + model.bias.square().sum()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_learning_rate_scaling() -> None:
    assert peak_learning_rate(OptimConfig(learning_rate=0.3, scaling="linear"), 1024) == pytest.approx(1.2)
    assert peak_learning_rate(OptimConfig(learning_rate=0.3, scaling="sqrt"), 1024) == pytest.approx(0.6)
    assert peak_learning_rate(OptimConfig(learning_rate=0.3, scaling="none"), 1024) == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_rate_for_lars_is_refused_where_only_the_optimizer_was_changed(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"optim\.learning_rate=1 is a rate for LARS; {name} takes about"):
        OptimConfig(name=name)
    OptimConfig(name=name, learning_rate=0.05)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rate": 1e39}, r"^optim\.learning_rate is 1e\+39; it must be positive, up to 1e\+30$"),
        ({"learning_rate": math.inf}, "optim.learning_rate is inf"),
        ({"learning_rate": math.nan}, "optim.learning_rate is nan"),
        ({"learning_rate": 3e38, "name": "lars"}, "optim.learning_rate is 3e"),
        ({"betas": (math.nan, 0.999)}, r"optim\.betas is \(nan, 0.999\); it must be two numbers in \[0, 1\)"),
        ({"betas": (0.9, 2.0)}, r"optim\.betas is \(0.9, 2.0\)"),
        ({"betas": (-0.1, 0.9)}, r"optim\.betas is \(-0.1, 0.9\)"),
        ({"weight_decay": math.inf}, r"optim\.weight_decay is inf; it must be 0 to 1e\+30"),
        ({"trust": math.nan}, "optim.trust is nan"),
        ({"trust": 0.0}, "optim.trust is 0.0"),
    ],
    ids=str,
)
def test_settings_that_no_step_can_take_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        OptimConfig(**wrong)


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_the_largest_rate_makes_a_step(name: str) -> None:
    """It may overflow, which the loop says with the step; it may not be a traceback of torch."""
    model = nn.Linear(4, 4)
    config = OptimConfig(name=name, learning_rate=1e30)
    optimizer = build_optimizer(parameter_groups(model, 0.0), config, peak_learning_rate(config, 65536))
    for _ in range(3):
        model(torch.full((2, 4), 1e-6)).sum().backward()
        optimizer.step()
