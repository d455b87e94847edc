"""A temperature with a gradient, against differences in float64, the textbook form and lightly; and one that a run learns."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import simclr
from simclr.config import TrainConfig
from simclr.errors import ConfigError
from simclr.losses import (
    MoCoConfig,
    MoCoLoss,
    NPairLoss,
    NTXentConfig,
    NTXentLoss,
    SupConConfig,
    SupConLoss,
    momentum_contrast,
    nt_xent,
    nt_xent_reference,
    sup_con,
)
from simclr.losses.ntxent import tiled
from simclr.losses.temperature import LearnedTemperature
from simclr.optim.optimizers import parameter_groups
from simclr.run.grad_cache import cached_step
from simclr.run.log import read_metrics

VIEWS = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6) // 2

LOSSES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "nt-xent": lambda z, t: nt_xent(z[:2], t),
    "nt-xent, 3 views": nt_xent,
    "decoupled": lambda z, t: nt_xent(z[:2], t, True),
    "decoupled, 3 views": lambda z, t: nt_xent(z, t, True),
    "one image": lambda z, t: nt_xent(z[:, :1], t),
    "textbook": nt_xent_reference,
    "supcon": lambda z, t: sup_con(z, LABELS, t),
    "moco": lambda z, t: momentum_contrast(z, VIEWS.flip(0), t),
    "n-pair": lambda z, t: NPairLoss(temperature=t)(z[0], LABELS),
}


def tau(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


@pytest.fixture(params=[2**30, 0], ids=["tiles kept", "tiles again"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "KEPT_BYTES", request.param)
    monkeypatch.setitem(tiled.TILE_ROWS, "cpu", 4)


@pytest.mark.parametrize("value", [0.5, 0.1, 0.015, 0.001])  # in float32 tiles in float32, in float64, and dense
@pytest.mark.parametrize("name", LOSSES)
def test_its_gradient_is_that_of_differences(name: str, value: float, tiles: None) -> None:
    loss, step = LOSSES[name], 1e-6 * value
    numeric = ((loss(VIEWS, value + step) - loss(VIEWS, value - step)) / (2 * step)).item()
    for t in (tau(value), tau(value, torch.float32)):
        wide = loss(VIEWS.clone().requires_grad_(), t)
        (of_wide,) = torch.autograd.grad(wide, t)
        assert of_wide.dtype == t.dtype
        assert of_wide.item() == pytest.approx(numeric, rel=2e-6, abs=1e-6)
        (alone,) = torch.autograd.grad(loss(VIEWS, t), t)  # embeddings without a gradient
        assert alone.item() == pytest.approx(numeric, rel=2e-6, abs=1e-6)
        if name == "moco":
            continue  # its keys are float64
        narrow = loss(VIEWS.float(), t)
        assert narrow.dtype == torch.float32
        assert torch.autograd.grad(narrow, t)[0].item() == pytest.approx(numeric, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_a_tensor_changes_no_value_and_is_differentiated_again(name: str) -> None:
    loss, z = LOSSES[name], VIEWS.clone().requires_grad_()
    assert loss(z, tau(0.2)).item() == pytest.approx(loss(z, 0.2).item(), rel=1e-12)
    assert torch.autograd.gradgradcheck(loss, (z, tau(0.2)), fast_mode=True)
    (once,) = torch.autograd.grad(loss(z, t := tau(0.2)), t)
    assert torch.func.grad(lambda t: loss(VIEWS, t))(tau(0.2).detach()).item() == pytest.approx(once.item(), abs=1e-12)


def test_the_faults_own_case_beside_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    t = tau(0.2)
    loss = lightly.NTXentLoss(temperature=0.2)
    loss.temperature = t
    wanted = torch.autograd.grad(loss(VIEWS[0], VIEWS[1]), t)[0].item()
    assert torch.autograd.grad(nt_xent(VIEWS[:2], t), t)[0].item() == pytest.approx(wanted, rel=1e-6)
    loss = lightly.DCLLoss(temperature=0.2)
    loss.temperature = t
    wanted = torch.autograd.grad(loss(VIEWS[0], VIEWS[1]), t)[0].item()
    assert torch.autograd.grad(nt_xent(VIEWS[:2], t, True), t)[0].item() == pytest.approx(wanted, rel=1e-5)


def test_gradient_caching_gives_it_its_gradient() -> None:
    model, x = torch.nn.Linear(5, 4).double(), VIEWS[:2]
    plain, cached = (NTXentLoss(0.1, temperature_learned=True).double() for _ in range(2))
    plain(model(x)).backward()
    cached_step(model, x, cached, chunk=2)
    gradient = plain.temperature.log_scale.grad
    assert gradient.abs() > 0.01
    torch.testing.assert_close(cached.temperature.log_scale.grad, gradient)


def test_nobody_waits_for_one_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know that device
    z = torch.zeros(2, 9, 4, device="meta", requires_grad=True)
    for loss in (NTXentLoss(temperature_learned=True), SupConLoss(temperature_learned=True)):
        loss.to("meta")
        value = loss(z) if isinstance(loss, NTXentLoss) else loss(z, torch.zeros(9, dtype=torch.int64, device="meta"))
        value.backward()
    nt_xent(z, torch.zeros((), device="meta", requires_grad=True)).backward()


def test_what_divides_nothing_is_refused() -> None:
    for value in (0.0, -0.5, math.nan, math.inf):
        for loss in (nt_xent, nt_xent_reference):
            with pytest.raises(ConfigError, match="temperature is"):
                loss(VIEWS, tau(value))
    for config in (NTXentConfig, MoCoConfig, SupConConfig):
        with pytest.raises(ConfigError, match=r"objective.temperature is 0\.005; it must be at least 0\.01"):
            config(temperature=0.005, temperature_learned=True)
        assert config(temperature=0.005).temperature == 0.005


@pytest.mark.parametrize("kind", [NTXentLoss, SupConLoss, MoCoLoss])
def test_it_starts_where_it_is_told_and_stops_at_its_bound(kind: type) -> None:
    loss = kind(0.2, temperature_learned=True)
    learned = loss.temperature
    assert isinstance(learned, LearnedTemperature) and "0.2" in repr(loss)
    assert learned().item() == pytest.approx(0.2)
    with torch.no_grad():
        learned.log_scale.fill_(9.0)
    loss.eval()
    assert learned().item() == pytest.approx(0.01) and learned.log_scale == 9.0
    loss.train()
    first = learned()
    assert first.item() == pytest.approx(0.01) and learned.log_scale.item() == pytest.approx(math.log(100))
    (first + learned()).backward()  # two calls before one step
    assert learned.log_scale.grad.item() == pytest.approx(-0.02)  # at the bound it can still leave it
    (group,) = parameter_groups(torch.nn.Identity(), 0.1, loss)
    assert group["weight_decay"] == 0 and group["params"] == [learned.log_scale]
    assert not list(kind(0.2).parameters())


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(NTXentConfig, marks=pytest.mark.slow),
        pytest.param(MoCoConfig, marks=pytest.mark.long),
        pytest.param(SupConConfig, marks=pytest.mark.long),
    ],
)
def test_a_run_learns_it_and_resumes_to_the_same_bits(
    objective: type, tiny_run: TrainConfig, stop_after: Callable[[int], Any]
) -> None:
    config = replace(
        tiny_run,
        objective=objective(temperature_learned=True),
        data=replace(tiny_run.data, limit=256),
        train=replace(tiny_run.train, batch_size=64, epochs=2, knn_every=0, log_every=1),
    )
    undisturbed = simclr.pretrain(replace(config, name="undisturbed"))
    with stop_after(5):
        simclr.pretrain(replace(config, name="stopped"))
    resumed = simclr.pretrain(replace(config, name="stopped"))
    runs = [load_file(one.run_dir / "checkpoints/step-00000008/model.safetensors") for one in (undisturbed, resumed)]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0] | runs[1])
    assert sum("log_scale" in key for key in runs[0]) == (2 if objective is MoCoConfig else 1)  # and its average
    lines = [line for line in read_metrics(resumed.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    logged = [line["temperature"] for line in lines]
    assert logged[0] == pytest.approx(objective().temperature) and len(set(logged)) == 8
