"""Losses, schedules, optimizer, kNN and averages of weights beside those of lightly."""

import math

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_alike, embeddings

from linear_eval import Features, knn_predictions
from simclr.losses import NTXentLoss, SIGRegLoss, momentum_contrast, nt_xent, nt_xent_reference
from simclr.optim.optimizers import LARS
from simclr.optim.schedule import learning_rate
from simclr.run.ema import rising_decay

pytest.importorskip("lightly", reason="lightly is not installed: pip install -e '.[test]'")
from lightly import loss as lightly_loss
from lightly.loss import lejepa_loss
from lightly.utils import lars, scheduler
from lightly.utils.benchmarking import knn_predict


@pytest.mark.parametrize("dim", [4, 64])
@pytest.mark.parametrize("images", [1, 2, 7, 32])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
def test_nt_xent(temperature: float, images: int, dim: int) -> None:
    theirs = lightly_loss.NTXentLoss(temperature=temperature)
    ours, z = NTXentLoss(temperature), embeddings(2 * images, dim)
    assert_alike(lambda z: ours(z.unflatten(0, (2, images))), lambda z: theirs(*z.chunk(2)), z)
    assert_alike(
        lambda z: nt_xent_reference(z.unflatten(0, (2, images)), temperature), lambda z: theirs(*z.chunk(2)), z
    )


@pytest.mark.parametrize("images", [2, 9])
@pytest.mark.parametrize("temperature", [0.01, 0.002])
def test_nt_xent_at_a_low_temperature(temperature: float, images: int) -> None:
    theirs = lightly_loss.NTXentLoss(temperature=temperature)
    z = embeddings(2 * images, 6)
    assert_alike(
        lambda z: NTXentLoss(temperature)(z.unflatten(0, (2, images))), lambda z: theirs(*z.chunk(2)), z, rtol=1e-8
    )


@pytest.mark.parametrize("images", [2, 9])
@pytest.mark.parametrize("value", [0.1, 0.5, 2.0])
def test_the_slope_over_a_learned_temperature(value: float, images: int) -> None:
    here, there = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for _ in range(2))
    theirs, z = lightly_loss.NTXentLoss(), embeddings(2 * images, 6)
    theirs.temperature = there
    nt_xent(z.unflatten(0, (2, images)), here).backward()
    theirs(*z.chunk(2)).backward()
    torch.testing.assert_close(here.grad, there.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dim", [4, 64])
@pytest.mark.parametrize("images", [2, 7, 32])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_decoupled(temperature: float, images: int, dim: int) -> None:
    theirs, ours = lightly_loss.DCLLoss(temperature=temperature), NTXentLoss(temperature, decoupled=True)
    assert_alike(
        lambda z: ours(z.unflatten(0, (2, images))), lambda z: theirs(*z.chunk(2)), embeddings(2 * images, dim)
    )


@pytest.mark.parametrize("images", [2, 8])
@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_momentum_contrast_where_the_keys_are_the_views(temperature: float, images: int) -> None:
    """The average is the network itself: of two views the negatives are then those of NT-Xent, and so is the value."""
    theirs, z = lightly_loss.NTXentLoss(temperature=temperature), embeddings(2 * images, 6)
    assert_alike(
        lambda z: momentum_contrast(z.unflatten(0, (2, images)), z.unflatten(0, (2, images)), temperature),
        lambda z: theirs(*z.chunk(2)),
        z,
        gradient=False,  # ours has none through the keys
    )


@pytest.mark.parametrize("weight", [0.02, 0.4])
@pytest.mark.parametrize("images", [1, 7, 32])
@pytest.mark.parametrize("views", [2, 4])
def test_lejepa_along_the_same_directions(views: int, images: int, weight: float) -> None:
    """Theirs has knots and weights in float32."""
    directions = torch.randn(6, 256, generator=torch.Generator().manual_seed(3)).double()
    directions /= directions.norm(dim=0)
    theirs = lejepa_loss.SIGReg(num_vectors=256)
    theirs._generate_unit_vectors = lambda *_: directions

    def of(z: torch.Tensor) -> torch.Tensor:
        z = z.unflatten(0, (views, images))
        return (1 - weight) * lejepa_loss.lejepa_invariance_loss(all_proj=z, global_proj=z) + weight * theirs(z)

    z = embeddings(views * images, 6)
    assert_alike(lambda z: SIGRegLoss(weight)(z.unflatten(0, (views, images)), seed=3), of, z, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [4, 100])
def test_a_momentum_that_rises_to_one(steps: int) -> None:
    for step in range(steps + 1):
        assert rising_decay(step, 0.99, steps) == pytest.approx(scheduler.cosine_schedule(step, steps + 1, 0.99, 1.0))


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("final", [0.0, 0.01])
@pytest.mark.parametrize("steps", [20, 100])
def test_cosine_with_warmup(steps: int, final: float, warmup: int) -> None:
    """They reach the end at the last step, ours one behind it: a run of one step less of theirs is the same curve."""
    for step in range(steps):
        ours = learning_rate(step, total_steps=steps, warmup_steps=warmup, peak=1.0, final=final)
        if step < warmup:
            assert ours == pytest.approx(scheduler.cosine_warmup_schedule(step, steps, 1.0, final, warmup, 0.0))
        else:
            assert ours == pytest.approx(scheduler.cosine_schedule(step - warmup, steps - warmup + 1, 1.0, final))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("trust", [0.001, 0.02])
@pytest.mark.parametrize("adapt", [True, False])
def test_lars(adapt: bool, trust: float, momentum: float) -> None:
    """Adapted as theirs with a decay of next to nothing: theirs adapts where there is one, by |g| + decay |w|."""
    ours, theirs = (torch.nn.Parameter(embeddings(6, 5)) for _ in range(2))
    decay = 1e-12 if adapt else 0.0
    here = LARS([ours], lr=0.3, momentum=momentum, weight_decay=decay, trust=trust, adapt=adapt)
    there = lars.LARS([theirs], lr=0.3, momentum=momentum, weight_decay=decay, trust_coefficient=trust)
    for step in range(4):
        ours.grad, theirs.grad = (embeddings(6, 5, seed=step + 1) for _ in range(2))
        here.step()
        there.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_votes_of_neighbours(temperature: float, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    y, z = torch.randint(5, (200,), generator=generator), torch.randint(5, (60,), generator=generator)
    means = torch.randn(5, 8, generator=generator)
    x, queries = (means[labels] + torch.randn(len(labels), 8, generator=generator) for labels in (y, z))
    theirs = knn_predict(F.normalize(queries), F.normalize(x).T, y, 5, knn_k=k, knn_t=temperature)[:, 0]
    ours = knn_predictions(Features(x, y, range(200)), Features(queries, z, range(60)), k, temperature)
    assert torch.equal(ours, theirs)


def test_chance_is_the_loss_of_embeddings_that_are_all_alike() -> None:
    z = torch.ones(2, 16, 4, dtype=torch.float64)
    assert lightly_loss.NTXentLoss()(*z).item() == pytest.approx(math.log(31)) == NTXentLoss()(z).item()
