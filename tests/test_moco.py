"""Momentum contrast against float64 brute force and against lightly's NT-Xent; its keys; its run."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

import simclr
from simclr.config import HeadConfig, TrainConfig
from simclr.config.yaml import from_dict, save_config, to_dict
from simclr.errors import ConfigError
from simclr.losses import MoCoConfig, MoCoLoss, NTXentLoss, momentum_contrast
from simclr.losses.moco import Negatives
from simclr.model.contrastive import build_model
from simclr.model.heads import predictor
from simclr.objectives import Objective, build_objective
from simclr.run.ema import Weights, momentum_keys
from simclr.run.folder import find_run


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(views: Tensor, keys: Tensor, temperature: float, negatives: str = "all") -> Tensor:
    """Pair by pair: the key of another view among it and the keys of all other images, of all views or of that one."""
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (views, keys.detach()))
    num_views, batch, _ = q.shape
    terms = []
    for v in range(num_views):
        for b in range(batch):
            for w in range(num_views):
                if w != v:
                    seen = range(num_views) if negatives == "all" else [w]
                    others = [k[u, c] for u in seen for c in range(batch) if c != b]
                    logits = torch.stack([k[w, b], *others]) @ q[v, b] / temperature
                    terms.append(-logits.log_softmax(dim=0)[0])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("shape", [(2, 4, 16), (2, 7, 3), (3, 5, 8), (4, 2, 2)], ids=str)
@pytest.mark.parametrize("negatives", ["all", "other"])
def test_equals_brute_force_in_float64(shape: tuple[int, ...], temperature: float, negatives: Negatives) -> None:
    views, keys = embeddings(*shape).requires_grad_(), embeddings(*shape, seed=1).requires_grad_()
    loss = momentum_contrast(views, keys, temperature, negatives)
    loss.backward()
    leaf = views.detach().clone().requires_grad_()
    expected = brute_force(leaf, keys, temperature, negatives)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(views.grad, leaf.grad, rtol=1e-10, atol=1e-11)
    assert keys.grad is None


def test_two_views_at_their_own_keys_have_the_value_of_nt_xent() -> None:
    lightly_loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.3)
    z = embeddings(2, 12, 8)
    found = MoCoLoss(temperature=0.3)(z, z).item()
    assert found == pytest.approx(lightly_loss(z[0], z[1]).item(), rel=1e-6)
    assert found == pytest.approx(NTXentLoss(0.3)(z).item(), rel=1e-12)


def test_the_papers_negatives_are_a_cross_entropy_over_the_keys_of_the_other_view() -> None:
    (q0, q1), (k0, k1) = ([row / row.norm(dim=1, keepdim=True) for row in embeddings(2, 9, 8, seed=s)] for s in (0, 1))
    own = torch.arange(9)
    one, other = (nn.functional.cross_entropy(q @ k.T / 0.2, own) for q, k in ((q0, k1), (q1, k0)))
    found = momentum_contrast(torch.stack([q0, q1]), torch.stack([k0, k1]), 0.2, "other")
    assert found.item() == pytest.approx((one + other).item() / 2, rel=1e-12)
    alike = torch.ones(2, 24, 8)
    assert MoCoConfig(negatives="other").chance(48) == pytest.approx(
        momentum_contrast(alike, alike, 0.2, "other").item(), rel=1e-6
    )


@pytest.mark.parametrize("negatives", ["all", "other"])
def test_one_image_is_exactly_zero_with_a_graph(negatives: Negatives) -> None:
    views = embeddings(2, 1, 8).requires_grad_()
    loss = momentum_contrast(views, embeddings(2, 1, 8, seed=1), negatives=negatives)
    loss.backward()
    assert loss.item() == 0
    assert views.grad is not None and not views.grad.any()


@pytest.mark.parametrize("where", ["views", "keys"])
def test_a_row_that_is_not_finite_never_gives_a_finite_loss(where: str) -> None:
    given = {"views": embeddings(2, 4, 8), "keys": embeddings(2, 4, 8, seed=1)}
    given[where][1, 2, 3] = float("nan")
    assert not momentum_contrast(**given).isfinite()


def test_half_precision_is_computed_in_float32() -> None:
    views, keys = embeddings(2, 16, 32).bfloat16(), embeddings(2, 16, 32, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = momentum_contrast(views, keys, 0.1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(brute_force(views.double(), keys.double(), 0.1).item(), rel=1e-5)


def test_wrong_input_is_refused_by_name() -> None:
    z = embeddings(2, 4, 8)
    with pytest.raises(ValueError, match=r"keys \(2, 4, 7\); momentum contrast expects one key"):
        momentum_contrast(z, z[..., :7])
    with pytest.raises(ValueError, match="got V = 1"):
        momentum_contrast(z[:1], z[:1])
    with pytest.raises(ValueError, match="temperature is 0"):
        MoCoLoss(temperature=0.0)
    with pytest.raises(ConfigError, match=r"objective\.momentum is 1\.0"):
        MoCoConfig(momentum=1.0)
    with pytest.raises(ConfigError, match=r"objective\.negatives is 'some'; it must be all or other"):
        MoCoConfig(negatives="some")  # type: ignore[arg-type]


def run_config(tiny_run: TrainConfig) -> TrainConfig:
    return replace(
        tiny_run,
        augment=replace(tiny_run.augment, blur=(1.0, 0.1), solarize=(0.0, 0.2)),
        objective=MoCoConfig(momentum=0.9, momentum_schedule="cosine", negatives="other"),
        head=HeadConfig(out_dim=16, predictor_dim=32),
        train=replace(tiny_run.train, knn_every=0),
    )


def objective_of(config: TrainConfig) -> Objective:
    return build_objective(config.objective, classes=0, dim=16, samples=8, seed=0)


def test_the_momentum_rises_to_one_by_the_papers_formula(tiny_run: TrainConfig) -> None:
    config, steps = run_config(tiny_run), 7
    weights = Weights(build_model(config), objective_of(config), 0.9, rises_over=steps)
    at = "predictor.0.weight"
    average = weights.model.state_dict()[at].double()
    for step in range(1, steps + 1):
        with torch.no_grad():
            weights.model.get_parameter(at).add_(1)
        before = weights.final[0].state_dict()[at].clone()
        weights.follow(step)
        m = 1.0 - 0.5 * (1.0 + math.cos(math.pi * step / steps)) * (1.0 - 0.9)  # the authors' adjust_moco_momentum
        average = average * m + weights.model.state_dict()[at].double() * (1 - m)
        torch.testing.assert_close(weights.final[0].state_dict()[at].double(), average, rtol=1e-6, atol=1e-6)
    assert torch.equal(weights.final[0].state_dict()[at], before)  # at the end it is 1


@pytest.mark.parametrize("chunk", [None, 3])
def test_keys_are_those_of_the_average_without_the_predictor(tiny_run: TrainConfig, chunk: int | None) -> None:
    config = run_config(tiny_run)
    config = replace(config, train=replace(config.train, cached_chunk=chunk))
    weights = Weights(build_model(config), objective_of(config), config.ema)
    views = torch.rand(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for step in range(1, 4):
        with torch.no_grad():
            for p in weights.model.parameters():
                p.mul_(1.1)
            weights.model(views)  # moves the BatchNorm statistics
        weights.follow(step)
    keys = momentum_keys(weights, Accelerator(cpu=True), config.train.cached_chunk, config.train.compile)(views)
    average = weights.final[0]
    # One image at a time: in eval mode none depends on the others.
    alone = [average.head(average.backbone(image[None])) for image in views.flatten(0, 1)]
    assert keys is not None and not keys.requires_grad
    torch.testing.assert_close(keys, torch.cat(alone).view(2, 8, 16).detach(), rtol=1e-4, atol=1e-5)
    assert weights.model.training and isinstance(weights.model.predictor, nn.Sequential)


def test_a_run_trains_its_predictor_and_resumes_to_the_same_bits(
    tiny_run: TrainConfig, stop_after: Callable[[int], Any]
) -> None:
    config = run_config(tiny_run)
    whole = simclr.pretrain(replace(config, name="whole"))
    with stop_after(4):
        assert not simclr.pretrain(replace(config, name="stopped")).finished
    resumed = simclr.pretrain(replace(config, name="stopped"))
    file = "checkpoints/step-00000010/model.safetensors"
    one, other = load_file(whole.run_dir / file), load_file(resumed.run_dir / file)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    start = build_model(config).state_dict()
    assert not torch.equal(one["model.predictor.0.weight"], start["predictor.0.weight"])
    # What is exported is the average's backbone, without head and predictor.
    exported = load_file(whole.run_dir / "encoder" / "encoder.safetensors")
    assert all(torch.equal(tensor, one[f"average.module.model.backbone.{name}"]) for name, tensor in exported.items())


def test_a_longer_run_would_be_another_one(tiny_run: TrainConfig) -> None:
    config = run_config(tiny_run)
    config = replace(config, schedule=replace(config.schedule, decay="constant", warmup_epochs=0))
    longer = replace(config, train=replace(config.train, epochs=20))
    config.run_dir.mkdir(parents=True)
    save_config(config, config.run_dir / "config.yaml")
    with pytest.raises(
        ConfigError, match=r"the decay of its average \(objective\.momentum_schedule\) goes by their number"
    ):
        find_run(longer)
    constant = replace(longer, objective=replace(longer.objective, momentum_schedule="constant"))
    save_config(replace(constant, train=config.train), config.run_dir / "config.yaml")
    assert "the run is made longer, from 2 epochs to 20" in find_run(constant)[2][-1]


def test_the_preset_is_the_papers() -> None:
    config = simclr.preset("moco-v3")
    assert from_dict(TrainConfig, to_dict(config)) == config
    layers = predictor(config.head.out_dim, config.head.predictor_dim, config.head.predictor_norm)
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    of_a_transformer = [type(layer).__name__ for layer in predictor(256, 4096)]
    assert of_a_transformer == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert [tuple(p.shape) for p in layers.parameters()] == [(4096, 256), (4096,), (4096,), (256, 4096)]


def test_settings_that_contradict_it_are_refused(tiny_run: TrainConfig) -> None:
    config = run_config(tiny_run)
    with pytest.raises(ConfigError, match=r"leave train\.ema out and set --objective\.momentum"):
        replace(config, train=replace(config.train, ema=0.9))
    with pytest.raises(ConfigError, match=r"head\.predictor_dim=32 is for the objective moco, not nt-xent"):
        replace(config, objective=tiny_run.objective)
