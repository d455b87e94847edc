"""Muon against singular values, torch's own Muon and AdamW."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import simclr
from simclr.config import OptimConfig
from simclr.losses import MarginConfig
from simclr.optim.muon import Muon, orthogonalised
from simclr.optim.optimizers import build_optimizer, parameter_groups
from simclr.train import build, open_run


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5), (3, 6, 10)])
def test_the_singular_vectors_stay_and_the_values_become_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    # Singular values over a factor of 30, as gradients have.
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(-1.5, 0, min(shape[-2:]), dtype=torch.float64)
    result = orthogonalised(7 * u * values @ v)
    inner = u.mT @ result @ v.mT  # diagonal, where the singular vectors stayed
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), atol=1e-10, rtol=0)
    assert diagonal.min() > 0.65 and diagonal.max() < 1.25


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("shape", [(24, 24), (8, 60), (60, 8)])
def test_bfloat16_is_taken_where_it_is_native_and_stays_near(
    monkeypatch: pytest.MonkeyPatch, native: bool, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(shape)
    u, values, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = (u * values) @ v
    monkeypatch.setattr("simclr.optim.muon.native_bf16", lambda device: native)
    found = orthogonalised(gradient)
    assert found.dtype == torch.float32
    error = float((found.double() - expected).norm() / expected.norm())
    # bfloat16 keeps 8 bits, float32 24.
    assert 1e-3 < error < 4e-2 if native else error < 1e-4
    assert torch.equal(orthogonalised(gradient.double()).float(), orthogonalised(gradient.double()[None])[0].float())


def test_matrices_take_torchs_step() -> None:
    torch.manual_seed(0)
    ours = nn.ParameterList([torch.randn(6, 10), torch.randn(12, 4), torch.randn(6, 10)])
    theirs = copy.deepcopy(ours)
    here = Muon(ours, lr=0.02, momentum=0.9, weight_decay=0.1)
    there = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for rate in (here, there):
            rate.param_groups[0]["lr"] = 0.02 / (1 + step)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            # torch averages the velocity, v = m v + (1 - m) g, and blends with the same weights: the update is (1 - m) times
            # ours, and being orthogonalised it has no scale.
            q.grad = p.grad.clone()
        here.step()
        there.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=0.004, rtol=0)  # torch iterates in bfloat16


def test_the_rest_take_adamws_step() -> None:
    torch.manual_seed(0)
    ours = nn.ParameterList([torch.randn(7), torch.randn(3)]).double()
    theirs = copy.deepcopy(ours)
    here = Muon([{"params": list(ours), "adapt": False}], lr=0.01, weight_decay=0.05, betas=(0.8, 0.95))
    there = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.05, betas=(0.8, 0.95))
    for step in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, dtype=torch.float64) if step != 2 or p is ours[0] else None
            q.grad = None if p.grad is None else p.grad.clone()
        here.step()
        there.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=1e-14, rtol=1e-12)


def test_a_convolution_counts_as_a_matrix() -> None:
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(3, 5, 2, bias=False), nn.Linear(12, 5, bias=False)
    linear.weight.data.copy_(convolution.weight.flatten(1))
    gradient = torch.randn(5, 3, 2, 2)
    convolution.weight.grad, linear.weight.grad = gradient, gradient.flatten(1).clone()
    for module in (convolution, linear):
        Muon(module.parameters(), lr=0.1).step()
    torch.testing.assert_close(convolution.weight.flatten(1), linear.weight)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    config = OptimConfig(name="muon", learning_rate=0.01, momentum=0.95)
    optimizer = build_optimizer(parameter_groups(model, 0.01), config, 0.01)
    x = torch.randn(8, 3, 4, 4)

    def step(some: nn.Module, with_: torch.optim.Optimizer) -> None:
        with_.zero_grad()
        some(x).square().sum().backward()
        with_.step()

    step(model, optimizer)
    twin = copy.deepcopy(model)
    other = build_optimizer(parameter_groups(twin, 0.01), config, 0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        step(model, optimizer)
        step(twin, other)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def stepped(layer: nn.Module, rate: float | torch.Tensor) -> list[torch.Tensor]:
    """The parameters of ``layer`` after three steps whose gradients are always the same."""
    optimizer = Muon(parameter_groups(layer, 0.1), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p in layer.parameters():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        optimizer.step()
    return list(layer.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_what_a_gpu_is_given_takes_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, on_a_gpu: bool, channels_last: bool
) -> None:
    """There rates are tensors while a step is captured, steps are counted in tensors, and convolutions lie channels last."""
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, 3)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    expected = stepped(plain, 0.1)
    if on_a_gpu:
        monkeypatch.setattr("simclr.optim.muon._count", lambda steps, p: torch.full((), float(steps)))
    found = stepped(other, torch.tensor(0.1) if on_a_gpu else 0.1)
    assert found[0].is_contiguous(memory_format=torch.channels_last) == channels_last
    for p, q in zip(expected, found, strict=True):
        torch.testing.assert_close(
            p, q, atol=2e-3, rtol=0
        )  # columns in another order, in bfloat16 where that is native
        assert p.abs().max() > 0.1


@pytest.mark.parametrize(("name", "share"), [("muon", 0.1), ("adamw", 1.0)])
def test_an_objectives_own_parameters_take_a_tenth_of_muons_rate(name: str, share: float, tmp_path: Path) -> None:
    config = simclr.preset("digits")
    run = open_run(
        replace(
            config,
            out=tmp_path,
            objective=MarginConfig(lr_multiplier=10.0),
            optim=OptimConfig(name=name, learning_rate=0.02, scaling="none"),
        )
    )
    learner = build(run)
    (own,) = (
        group
        for group in learner.optimizer.param_groups
        if any(p is learner.objective.loss.beta for p in group["params"])
    )
    assert own["lr_scale"] == pytest.approx(10 * share)
    assert all(group["lr_scale"] == 1 for group in learner.optimizer.param_groups if group is not own)
