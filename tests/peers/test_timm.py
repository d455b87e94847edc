"""Optimizers, schedules, losses, mixing and averages of weights beside those of timm."""

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_alike, embeddings
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import Lars
from timm.optim import Muon as TimmMuon
from timm.scheduler import CosineLRScheduler
from torch import nn

from augment import Mix, soft_targets
from simclr.losses import CrossEntropyLoss
from simclr.optim.muon import Muon, orthogonalised
from simclr.optim.optimizers import LARS
from simclr.optim.schedule import learning_rate


def steps_of(
    ours: list[nn.Parameter], theirs: list[nn.Parameter], here: torch.optim.Optimizer, there: torch.optim.Optimizer
) -> None:
    for step in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(step))
            q.grad = p.grad.clone()
        here.step()
        there.step()


def two(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(9)
    start = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    return [[nn.Parameter(w.clone()) for w in start] for _ in range(2)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("trust", [0.001, 0.02, 1.0])
def test_lars(trust: float, momentum: float) -> None:
    """Without a decay, which theirs adds to the norm as |g| + decay |w| and ours, as SimCLR's code, as |g + decay w|."""
    ours, theirs = two([(6, 5), (4, 3, 3, 3)])
    here = LARS(ours, lr=0.3, momentum=momentum, trust=trust)
    there = Lars(theirs, lr=0.3, momentum=momentum, trust_coeff=trust, eps=0.0, always_adapt=True)
    steps_of(ours, theirs, here, there)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_without_adaptation_is_theirs_without_decay(momentum: float) -> None:
    ours, theirs = two([(6, 5), (7,)])
    here = LARS(ours, lr=0.3, momentum=momentum, adapt=False)
    there = Lars(theirs, lr=0.3, momentum=momentum)  # adapts only where there is a decay
    steps_of(ours, theirs, here, there)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6, 10), (12, 4), (8, 8), (5, 3, 3, 3)])
def test_muon(shape: tuple[int, ...], decay: float) -> None:
    ours, theirs = two([shape], torch.float32)
    start = [p.detach().clone() for p in ours]
    here = Muon(ours, lr=0.02, momentum=0.9, weight_decay=decay)
    there = TimmMuon(
        theirs, lr=0.02, momentum=0.9, weight_decay=decay, nesterov=True, ns_coefficients=(3.4445, -4.7750, 2.0315)
    )
    steps_of(ours, theirs, here, there)
    way, expected = ((after[0].detach() - start[0]).flatten() for after in (ours, theirs))
    # theirs iterates in bfloat16, which has 8 bits
    assert F.cosine_similarity(way, expected, dim=0) > 0.998
    assert float(way.norm() / expected.norm()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("final", [0.0, 0.05])
@pytest.mark.parametrize("steps", [12, 60])
def test_cosine_with_warmup(steps: int, final: float, warmup: int) -> None:
    """Behind the warm-up, which theirs begins at 0 and ours at its first step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = CosineLRScheduler(
        optimizer,
        steps - warmup,
        lr_min=2 * final,
        warmup_t=warmup,
        warmup_prefix=True,
        warmup_lr_init=2.0 / max(warmup, 1),
    )
    for step in range(warmup, steps):
        (expected,) = theirs._get_lr(step)
        found = learning_rate(step, total_steps=steps, warmup_steps=warmup, peak=2.0, final=final)
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("classes", [2, 7])
def test_label_smoothing(classes: int, smoothing: float) -> None:
    ours, labels = CrossEntropyLoss(classes, 5, smoothing).double(), torch.arange(12) % classes
    theirs = LabelSmoothingCrossEntropy(smoothing)
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(ours.scores(z), labels), embeddings(12, 5))


@pytest.mark.parametrize("classes", [2, 7])
def test_soft_labels(classes: int) -> None:
    ours = CrossEntropyLoss(classes, 5).double()
    shares = torch.softmax(embeddings(12, classes, seed=4), 1)
    theirs = SoftTargetCrossEntropy()
    assert_alike(lambda z: ours(z, shares), lambda z: theirs(ours.scores(z), shares), embeddings(12, 5))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_mixup(share: float) -> None:
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6)
    theirs = Mixup(mixup_alpha=1.0, num_classes=6, label_smoothing=0.0, mode="batch")
    theirs._params_per_batch = lambda: (share, False)  # what is drawn
    # Theirs mixes the first image with the last, ours each with its neighbour: an order of the batch makes them one.
    order = torch.tensor([0, 5, 1, 4, 2, 3])
    mix = Mix(share=torch.full((6,), share), box=torch.zeros(6, 4, dtype=torch.int64))
    ours, targets = mix.apply(images[order][None])[0], mix.targets(soft_targets(labels[order], 6))
    mixed, shares = theirs(images.clone(), labels)
    torch.testing.assert_close(ours, mixed[order])
    torch.testing.assert_close(targets, shares[order])


@pytest.mark.parametrize("box", [(2, 6, 1, 5), (0, 8, 0, 2), (3, 4, 3, 4)])
def test_cutmix(box: tuple[int, int, int, int]) -> None:
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6)
    top, bottom, left, right = box
    share = 1 - (bottom - top) * (right - left) / 64
    order = torch.tensor([0, 5, 1, 4, 2, 3])
    mix = Mix(share=torch.full((6,), share), box=torch.tensor(box).repeat(6, 1))
    expected = images.clone()
    expected[:, :, top:bottom, left:right] = images.flip(0)[
        :, :, top:bottom, left:right
    ]  # as timm's Mixup._mix_batch does
    from timm.data.mixup import mixup_target

    torch.testing.assert_close(mix.apply(images[order][None])[0], expected[order])
    theirs = mixup_target(labels, 6, share, 0.0)
    torch.testing.assert_close(mix.targets(soft_targets(labels[order], 6)), theirs[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5)])
def test_orthogonalised(shape: tuple[int, int]) -> None:
    from timm.optim.muon import zeropower_via_newtonschulz

    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    theirs = zeropower_via_newtonschulz(update, 5, [(3.4445, -4.7750, 2.0315)] * 5, dtype=torch.float32)
    found = orthogonalised(update.double())
    assert F.cosine_similarity(found.flatten(), theirs.double().flatten(), dim=0) > 0.9999
    torch.testing.assert_close(found.float(), theirs, rtol=0, atol=1e-3)
