"""LeJEPA against numerical integration in float64 and against lightly's; its directions; what it does in a run."""

import cmath
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import simclr
from simclr.config import TrainConfig
from simclr.errors import ConfigError
from simclr.losses import LeJEPAConfig, SIGRegLoss, sigreg
from simclr.numerics import row_chunks
from simclr.run.log import read_metrics


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(dim: int, slices: int, seed: int) -> Tensor:
    drawn = torch.randn(dim, slices, generator=torch.Generator().manual_seed(seed)).double()
    return drawn / drawn.norm(dim=0)


def statistic(sample: np.ndarray) -> float:
    """Epps and Pulley's of one sample, up to 3, by adaptive integration."""

    def apart(t: float) -> float:
        empirical = sum(cmath.exp(1j * t * x) for x in sample) / len(sample)
        return abs(empirical - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2)

    return len(sample) * quad(apart, -3, 3, limit=200)[0]


def brute_force(z: Tensor, weight: float, slices: int, knots: int, seed: int) -> Tensor:
    """View by view, direction by direction, knot by knot on both sides of 0."""
    num_views, batch, dim = z.shape
    total, each = z.new_zeros(()), directions(dim, slices, seed)
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=torch.float64)
    for v in range(num_views):
        for m in range(slices):
            phases = t[:, None] * (z[v] @ each[:, m])
            empirical = torch.complex(phases.cos(), phases.sin()).mean(1)
            normal = (-t.square() / 2).exp()
            total = total + batch * torch.trapezoid((empirical - normal).abs().square() * normal, t)
    centres = z.mean(0)
    agreement = sum((z[v] - centres).square().mean() for v in range(num_views)) / num_views
    return (1 - weight) * agreement + weight * total / (num_views * slices)


@pytest.mark.parametrize(("shape", "slices", "knots"), [((2, 7, 5), 6, 17), ((4, 3, 1), 3, 5), ((2, 1, 4), 1, 2)])
def test_equals_brute_force_in_float64(shape: tuple[int, ...], slices: int, knots: int) -> None:
    z = embeddings(*shape).requires_grad_()
    loss = SIGRegLoss(0.3, slices, knots)(z, seed=5)
    loss.backward()
    leaf = z.detach().clone().requires_grad_()
    expected = brute_force(leaf, 0.3, slices, knots, seed=5)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(z.grad, leaf.grad, rtol=1e-10, atol=1e-12)


def test_the_statistic_of_normal_numbers_is_what_integration_gives() -> None:
    for size in (30, 300):
        z = embeddings(1, size, 1, seed=size)  # of one dimension: every direction is 1 or -1
        assert sigreg(z).item() == pytest.approx(statistic(z.flatten().numpy()), rel=1e-3)
        assert sigreg(z, knots=257).item() == pytest.approx(statistic(z.flatten().numpy()), rel=1e-5)


def test_a_standard_normal_has_the_known_mean_whatever_its_size_and_other_samples_do_not() -> None:
    known = quad(lambda t: (1 - math.exp(-(t**2))) * math.exp(-(t**2) / 2), -3, 3)[0]
    assert known == pytest.approx(1.05, abs=0.005)  # as the docstring says
    for size in (20, 400):
        z = embeddings(4000 // size, size, 32, seed=size)
        assert sigreg(z, slices=64).item() == pytest.approx(known, rel=0.1)
    for other in (1.5 * z, z + 0.5, z[..., :1].expand_as(z)):
        assert sigreg(other, slices=64).item() > 2 * known
    point = quad(lambda t: (1 - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2), -3, 3)[0]
    assert sigreg(torch.zeros(2, 50, 8)).item() == pytest.approx(50 * point, rel=1e-2)


def test_equals_lightlys_of_the_same_directions() -> None:
    theirs = pytest.importorskip("lightly.loss.lejepa_loss")
    z = embeddings(3, 20, 16).float()
    other = theirs.SIGReg(num_vectors=256)
    other._generate_unit_vectors = lambda *_: directions(16, 256, seed=4).float()
    expected = 0.98 * theirs.lejepa_invariance_loss(all_proj=z, global_proj=z) + 0.02 * other(z)
    assert SIGRegLoss()(z, seed=4).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # which torch itself calls
def test_it_can_be_differentiated_twice() -> None:
    z = embeddings(2, 5, 3).requires_grad_()

    def loss(z: Tensor) -> Tensor:
        return SIGRegLoss(0.4, 7)(z)

    assert torch.autograd.gradcheck(loss, z) and torch.autograd.gradgradcheck(loss, z)
    torch.testing.assert_close(torch.func.hessian(loss)(z), torch.autograd.functional.hessian(loss, z))


def test_some_rows_at_a_time_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    z = embeddings(2, 50, 4).requires_grad_()

    def all_of_it() -> tuple[Tensor, Tensor, Tensor]:
        value = SIGRegLoss(0.5, 20)(z)
        (gradient,) = torch.autograd.grad(value, z, create_graph=True)
        return value, gradient, torch.autograd.grad(gradient.square().sum(), z)[0]

    whole = all_of_it()
    cuts: list[int] = []

    def small(rows: int, columns: int, *rest: Any, **more: Any) -> list[slice]:
        cuts.append(rows)
        return list(row_chunks(rows, 1 << 30, torch.device("cpu"), at_least=8))

    monkeypatch.setattr("simclr.losses.lejepa.row_chunks", small)
    torch.testing.assert_close(all_of_it(), whole, rtol=1e-10, atol=1e-12)
    assert cuts


def test_it_keeps_no_table_of_rows_by_directions_by_knots() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    for batch in (64, 128):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            SIGRegLoss()(torch.randn(2, batch, 16, requires_grad=True))
        assert max(kept) <= 2 * batch * 256  # a number a row and direction


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    z = embeddings(2, 16, 32).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = SIGRegLoss()(z)
    found.backward()
    leaf = z.detach().double().requires_grad_()
    expected = SIGRegLoss()(leaf)
    expected.backward()
    assert found.dtype == torch.float32 and z.grad is not None and z.grad.dtype == dtype
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(z.grad.double(), leaf.grad, rtol=1e-2, atol=1e-6)


def test_directions_are_of_the_seed_alone() -> None:
    z = embeddings(2, 12, 8)
    loss = SIGRegLoss()
    state = torch.get_rng_state()
    assert torch.equal(loss(z, seed=3), loss(z, seed=3)) and not torch.equal(loss(z, seed=3), loss(z, seed=4))
    assert torch.equal(loss(z), loss(z, seed=0)) and torch.equal(loss(z[0], z[1]), loss(z))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_never_gives_a_finite_loss(bad: float) -> None:
    z = embeddings(2, 6, 4)
    z[1, 2, 3] = bad
    assert not SIGRegLoss()(z).isfinite() and not sigreg(z).isfinite()


def test_wrong_input_is_refused_by_name() -> None:
    z = embeddings(2, 6, 4)
    for wrong, said in (
        (z[0], r"\(6, 4\); LeJEPA expects \(V, B, D\)"),
        (z[:1], "V >= 2 views"),
        (z[:, :0], "at least one"),
    ):
        with pytest.raises(ValueError, match=said):
            SIGRegLoss()(wrong)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        SIGRegLoss()(z.long())
    for setting, said in (
        ({"weight": 1.5}, r"weight is 1\.5"),
        ({"slices": 0}, "slices is 0"),
        ({"knots": 1}, "knots is 1"),
    ):
        with pytest.raises(ConfigError, match=rf"^objective\.{said}"):
            LeJEPAConfig(**setting)
        with pytest.raises(ValueError, match=rf"^{said}"):
            SIGRegLoss(**setting)


def test_what_shows_a_collapse_is_told_in_words() -> None:
    loss, z = SIGRegLoss(), embeddings(1, 64, 16).expand(2, -1, -1)
    apart = embeddings(2, 64, 16, seed=1)
    words = []
    for given in (z + 0.1 * apart, z / 200, apart):
        loss(given)
        words.append(loss.warning(0.0, {name: value.item() for name, value in loss.statistics.items()}))
    assert words[0] is None and loss.statistics["sigreg"] < 1.3
    assert "lie within 0.00" in str(words[1]) and "as far apart" in str(words[2])


def test_a_run_draws_other_directions_at_every_step(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    forward: Callable[..., Tensor] = SIGRegLoss.forward

    def watched(self: SIGRegLoss, views: Tensor, seed: int = 0) -> Tensor:
        seeds.append(seed)
        return forward(self, views, seed)

    monkeypatch.setattr(SIGRegLoss, "forward", watched)
    train = replace(tiny_run.train, epochs=1, batch_size=16, log_every=1, knn_every=0)
    config = replace(tiny_run, objective=LeJEPAConfig(), data=replace(tiny_run.data, limit=64), train=train)
    result = simclr.pretrain(config)
    assert len(set(seeds)) == len(seeds) == result.steps
    lines = [line for line in read_metrics(result.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    assert {"invariance", "sigreg", "deviation"} <= set(lines[-1])
    for line in lines:
        assert line["loss"] == pytest.approx(0.98 * line["invariance"] + 0.02 * line["sigreg"], rel=1e-5)
