"""Momentum contrast against float64 brute force and against lightly's NT-Xent; its keys; its run."""

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
from simclr.errors import ConfigError
from simclr.losses import MoCoConfig, MoCoLoss, NTXentLoss, momentum_contrast
from simclr.model.contrastive import build_model
from simclr.objectives import build_objective
from simclr.run.ema import Weights, momentum_keys


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(views: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Pair by pair: the key of another view among it and the keys of all other images."""
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (views, keys.detach()))
    num_views, batch, _ = q.shape
    terms = []
    for v in range(num_views):
        for b in range(batch):
            others = [k[u, c] for u in range(num_views) for c in range(batch) if c != b]
            for w in range(num_views):
                if w != v:
                    logits = torch.stack([k[w, b], *others]) @ q[v, b] / temperature
                    terms.append(-logits.log_softmax(dim=0)[0])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("shape", [(2, 4, 16), (2, 7, 3), (3, 5, 8), (4, 2, 2)], ids=str)
def test_equals_brute_force_in_float64(shape: tuple[int, ...], temperature: float) -> None:
    views, keys = embeddings(*shape).requires_grad_(), embeddings(*shape, seed=1).requires_grad_()
    loss = momentum_contrast(views, keys, temperature)
    loss.backward()
    leaf = views.detach().clone().requires_grad_()
    expected = brute_force(leaf, keys, temperature)
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


def test_one_image_is_exactly_zero_with_a_graph() -> None:
    views = embeddings(2, 1, 8).requires_grad_()
    loss = momentum_contrast(views, embeddings(2, 1, 8, seed=1))
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


def run_config(tiny_run: TrainConfig) -> TrainConfig:
    return replace(
        tiny_run,
        objective=MoCoConfig(momentum=0.9),
        head=HeadConfig(out_dim=16, predictor_dim=32),
        train=replace(tiny_run.train, knn_every=0),
    )


@pytest.mark.parametrize("chunk", [None, 3])
def test_keys_are_those_of_the_average_without_the_predictor(tiny_run: TrainConfig, chunk: int | None) -> None:
    config = run_config(tiny_run)
    config = replace(config, train=replace(config.train, cached_chunk=chunk))
    weights = Weights(
        build_model(config), build_objective(config.objective, classes=0, dim=16, samples=8, seed=0), config.ema
    )
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
    # What is exported is the average.
    exported = load_file(whole.run_dir / "encoder" / "encoder.safetensors")
    assert all(torch.equal(tensor, one[f"average.module.model.backbone.{name}"]) for name, tensor in exported.items())


def test_settings_that_contradict_it_are_refused(tiny_run: TrainConfig) -> None:
    config = run_config(tiny_run)
    with pytest.raises(ConfigError, match=r"leave train\.ema out and set --objective\.momentum"):
        replace(config, train=replace(config.train, ema=0.9))
    with pytest.raises(ConfigError, match=r"head\.predictor_dim=32 is for the objective moco, not nt-xent"):
        replace(config, objective=tiny_run.objective)
