"""The moving average of the weights against one kept by hand in float64; what is exported; the same bits after a stop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import LoopConfig, TrainConfig
from simclr.errors import ConfigError
from simclr.losses import CrossEntropyConfig
from simclr.model.contrastive import ContrastiveModel, build_model
from simclr.objectives import build_objective
from simclr.run.ema import Weights


def decay(step: int, highest: float) -> float:
    """Of the update after ``step`` steps: the first takes the weights as they are."""
    return 0.0 if step <= 1 else min(highest, 1 - step ** (-2 / 3))


def floats(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().double().clone() for name, t in module.state_dict().items() if t.is_floating_point()}


def make(config: TrainConfig, ema: float | None) -> Weights:
    objective = build_objective(CrossEntropyConfig(), classes=3, dim=16, samples=8, seed=0)
    return Weights(build_model(config), objective, ema)


@pytest.mark.parametrize("highest", [0.5, 0.999])
def test_equals_an_average_kept_by_hand(highest: float, tiny_run: TrainConfig) -> None:
    weights = make(tiny_run, highest)
    generator = torch.Generator().manual_seed(0)
    average: dict[str, torch.Tensor] = {}
    for step in range(1, 9):
        with torch.no_grad():
            for p in weights.model.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
            for p in weights.objective.parameters():
                p.mul_(1.5)
            weights.model(torch.rand(1, 4, 3, 16, 16, generator=generator))  # moves the BatchNorm statistics
        weights.follow(step)
        now = {**floats(weights.model), **{f"objective.{k}": v for k, v in floats(weights.objective).items()}}
        d = decay(step, highest)
        average = now if not average else {name: d * average[name] + (1 - d) * now[name] for name in now}
    model, objective = weights.final
    found = {**floats(model), **{f"objective.{k}": v for k, v in floats(objective).items()}}
    assert found.keys() == average.keys()
    for name in found:
        torch.testing.assert_close(found[name], average[name], rtol=1e-5, atol=1e-5, msg=name)
    counters = [t for name, t in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters and all(int(t) == 8 for t in counters)


def test_without_an_average_the_weights_are_their_own(tiny_run: TrainConfig) -> None:
    weights = make(tiny_run, None)
    before = floats(weights.model)
    weights.follow(1)
    assert weights.final == (weights.model, weights.objective)
    assert all(torch.equal(before[name], t) for name, t in floats(weights.model).items())
    assert not any(name.startswith("average") for name in weights.state_dict())


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_that_is_none_is_refused(ema: float) -> None:
    with pytest.raises(ConfigError, match=r"train\.ema"):
        LoopConfig(ema=ema)


def test_a_run_exports_the_average_and_resumes_to_the_same_bits(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], Any]
) -> None:
    config = replace(
        tiny_run,
        objective=CrossEntropyConfig(),
        augment=replace(tiny_run.augment, views=1),
        train=replace(tiny_run.train, ema=0.9, batch_size=64, knn_every=1),
        data=replace(tiny_run.data, limit=256, validation=0.1),
    )
    trained: list[dict[str, torch.Tensor]] = []
    heads: list[dict[str, torch.Tensor]] = []
    follow = Weights.follow

    def watched(self: Weights, step: int) -> None:
        trained.append(floats(self.model.backbone))
        heads.append(floats(self.objective))
        follow(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "follow", watched)
        simclr.pretrain(replace(config, name="undisturbed"))
    average, head = trained[0], heads[0]
    for step in range(2, len(trained) + 1):
        d = decay(step, 0.9)
        average = {name: d * average[name] + (1 - d) * trained[step - 1][name] for name in average}
        head = {name: d * head[name] + (1 - d) * heads[step - 1][name] for name in head}
    folder = config.out / "undisturbed" / "encoder"
    exported = load_file(folder / "encoder.safetensors")
    for name, expected in average.items():
        torch.testing.assert_close(exported[name].double(), expected, rtol=1e-5, atol=1e-6, msg=name)
    assert any(not torch.allclose(exported[name].double(), trained[-1][name], atol=1e-4) for name in average)
    exported_head = load_file(folder / "head.safetensors")
    for name, expected in head.items():
        torch.testing.assert_close(exported_head[f"objective.{name}"].double(), expected, rtol=1e-5, atol=1e-6)

    with stop_after(4):
        assert not simclr.pretrain(replace(config, name="stopped")).finished
    resumed = simclr.pretrain(replace(config, name="stopped"))
    assert resumed.finished
    again = load_file(resumed.run_dir / "encoder" / "encoder.safetensors")
    assert exported.keys() == again.keys() and all(torch.equal(exported[name], again[name]) for name in exported)


def test_the_watched_score_is_that_of_the_average(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[ContrastiveModel] = []

    class Score:
        def __call__(self, model: ContrastiveModel, *rest: object) -> dict[str, float]:
            scored.append(model)
            return {"validation_accuracy": 0.0}

    finals: list[ContrastiveModel] = []
    follow = Weights.follow

    def watched(self: Weights, step: int) -> None:
        follow(self, step)
        finals[:] = [self.model, self.final[0]]

    monkeypatch.setattr("simclr.train.make_validation_score", lambda *rest: Score())
    monkeypatch.setattr(Weights, "follow", watched)
    simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, epochs=1, ema=0.9, knn_every=1)))
    assert len(scored) == 1
    assert scored[0] is finals[1] and scored[0] is not finals[0]
