"""Optimizers, schedules and losses beside torch's own."""

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_alike, embeddings, labels_of
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from simclr.losses import CrossEntropyLoss, TripletLoss, momentum_contrast, quality_focal_loss
from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS
from simclr.optim.schedule import learning_rate


def steps(ours: nn.Parameter, theirs: nn.Parameter, here: torch.optim.Optimizer, there: torch.optim.Optimizer) -> None:
    for step in range(4):
        ours.grad = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        here.step()
        there.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6, 10), (12, 4), (8, 8)])
def test_muon(shape: tuple[int, int], decay: float) -> None:
    ours, theirs = (nn.Parameter(embeddings(*shape).float()) for _ in range(2))
    start = ours.detach().clone()
    here = Muon([ours], lr=0.02, momentum=0.9, weight_decay=decay)
    there = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    steps(ours, theirs, here, there)
    way, expected = ((p.detach() - start).flatten() for p in (ours, theirs))
    assert F.cosine_similarity(way, expected, dim=0) > 0.998  # theirs iterates in bfloat16
    assert float(way.norm() / expected.norm()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(7,), (3, 1)])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_muon_of_vectors_is_adamw(betas: tuple[float, float], shape: tuple[int, ...], decay: float) -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, shape[0], dtype=torch.float64).view(shape)) for _ in range(2))
    here = Muon([ours], lr=0.02, weight_decay=decay, betas=betas, adapt=len(shape) == 1)
    steps(ours, theirs, here, torch.optim.AdamW([theirs], lr=0.02, weight_decay=decay, betas=betas))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_without_adaptation_is_sgd(momentum: float, decay: float) -> None:
    ours, theirs = (nn.Parameter(embeddings(6, 5)) for _ in range(2))
    here = LARS([ours], lr=0.1, momentum=momentum, weight_decay=decay, adapt=False)
    steps(ours, theirs, here, torch.optim.SGD([theirs], lr=0.1, momentum=momentum, weight_decay=decay))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize(("total", "warmup"), [(30, 5), (12, 1), (20, 0)])
def test_warmup_and_cosine(total: int, warmup: int, final: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    cosine = CosineAnnealingLR(optimizer, total - warmup, eta_min=2 * final)
    theirs: torch.optim.lr_scheduler.LRScheduler = cosine
    if warmup:
        rising = LinearLR(optimizer, 1 / warmup, 1.0, total_iters=max(1, warmup - 1))
        theirs = SequentialLR(optimizer, [rising, cosine], [warmup])
    for step in range(total):
        found = learning_rate(step, total_steps=total, warmup_steps=warmup, peak=2.0, final=final)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(smoothing: float, weights: tuple[float, ...] | None) -> None:
    ours, labels = CrossEntropyLoss(3, 5, smoothing, weights).double(), torch.arange(12) % 3
    theirs = nn.CrossEntropyLoss(
        None if weights is None else torch.tensor(weights).double(), reduction="none", label_smoothing=smoothing
    )
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(ours.scores(z), labels).mean(), embeddings(12, 5))


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_momentum_contrast_as_algorithm_1_of_its_paper(temperature: float, views: int) -> None:
    """A cross-entropy of every view's rows with the keys of every other view, without the paper's factor 2 tau."""
    images, keys = 5, F.normalize(embeddings(views * 5, 6, seed=1)).unflatten(0, (views, 5))

    def theirs(z: torch.Tensor) -> torch.Tensor:
        q = F.normalize(z).unflatten(0, (views, images))
        pairs = [(v, w) for v in range(views) for w in range(views) if v != w]
        return sum(F.cross_entropy(q[v] @ keys[w].T / temperature, torch.arange(images)) for v, w in pairs) / len(pairs)

    assert_alike(
        lambda z: momentum_contrast(z.unflatten(0, (views, images)), keys, temperature, negatives="other"),
        theirs,
        embeddings(views * images, 6),
    )


@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_triplets_that_are_given(normalize: bool, margin: float) -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 0])
    ours = TripletLoss(margin, "given", reduction="all", normalize=normalize)
    theirs = nn.TripletMarginLoss(margin, eps=0.0)

    def of_theirs(z: torch.Tensor) -> torch.Tensor:
        z = F.normalize(z) if normalize else z
        return theirs(z[0::3], z[1::3], z[2::3])

    assert_alike(lambda z: ours(z, labels), of_theirs, embeddings(9, 5))


@pytest.mark.parametrize("classes", [2, 6])
def test_quality_focal_without_a_focus_is_binary_cross_entropy(classes: int) -> None:
    """As beta goes to 0 the factor goes to 1."""
    labels, quality = (
        labels_of("even", 12) % classes,
        torch.rand(12, generator=torch.Generator().manual_seed(3)).double(),
    )
    target = F.one_hot(labels, classes) * quality.unsqueeze(1)
    assert_alike(
        lambda z: quality_focal_loss(z, labels, quality, beta=1e-12, reduction="sum"),
        lambda z: F.binary_cross_entropy_with_logits(z, target, reduction="sum"),
        embeddings(12, classes),
        rtol=1e-9,
    )
