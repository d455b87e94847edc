"""CosFace against the formula in float64 and another library; partial class weights, of it and of ArcFace."""

import math

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from simclr.errors import ConfigError
from simclr.losses import ArcFaceLoss, CosFaceConfig, CosFaceLoss, EmbeddedBatch
from simclr.objectives import build_objective


def brute_force(z, weight, labels, scale, margin, subcenters, classes):
    """The mean cross-entropy over ``classes``, row by row."""
    total = 0.0
    for row, label in zip(z, labels.tolist(), strict=True):
        logits = []
        for c in classes:
            directions = weight[c * subcenters : (c + 1) * subcenters]
            cosine = max((row @ w / (row.norm() * w.norm()) for w in directions), key=torch.Tensor.item)
            logits.append(scale * (cosine - margin if c == label else cosine))
        total = total + torch.logsumexp(torch.stack(logits), 0) - logits[list(classes).index(label)]
    return total / len(z)


@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize(("scale", "margin"), [(64.0, 0.35), (10.0, 0.0), (30.0, 0.9)])
def test_equals_the_formula(scale, margin, subcenters):
    torch.manual_seed(0)
    loss = CosFaceLoss(4, 3, scale, margin, subcenters)
    z, labels = torch.randn(20, 3), torch.randint(4, (20,))
    wide = z.double().requires_grad_()
    weight = loss.weight.detach().double().requires_grad_()
    expected = brute_force(wide, weight, labels, scale, margin, subcenters, range(4))
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-4)


def test_equals_pytorch_metric_learning():
    torch.manual_seed(1)
    loss, theirs = CosFaceLoss(6, 32), pml_losses.CosFaceLoss(6, 32, margin=0.35, scale=64)
    with torch.no_grad():
        theirs.W.copy_(loss.weight.T)
    z, labels = torch.randn(20, 32), torch.randint(6, (20,))
    other = z.clone().requires_grad_()
    expected = theirs(other, labels)
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_scores_are_scaled_cosines_without_the_margin():
    loss = CosFaceLoss(2, 2, scale=10.0)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    torch.testing.assert_close(loss.scores(torch.tensor([[3.0, 4.0]])).detach(), torch.tensor([[6.0, 8.0]]))


def test_the_config_makes_what_it_says():
    loss = CosFaceConfig(scale=20.0, margin=0.1, subcenters=2, sample_share=0.5).build(7, 3, 0)
    assert (loss.scale, loss.margin, loss.subcenters, loss.sample_share) == (20.0, 0.1, 2, 0.5)
    assert loss.weight.shape == (14, 3)
    assert CosFaceConfig().build(7, 3, 0).margin == 0.35


CLASSES, DIM, SHARE = 60, 6, 0.25


def drawn_classes(loss, z, labels, seed):
    """The classes whose directions a call gave a gradient to, and the value."""
    loss.zero_grad()
    value = loss(z, labels, generator=torch.Generator().manual_seed(seed))
    value.backward()
    rows = loss.weight.grad.view(CLASSES, -1).abs().amax(1)
    return rows.nonzero().flatten().tolist(), value.detach()


@pytest.mark.parametrize("subcenters", [1, 2])
def test_a_share_of_the_classes_is_the_loss_over_these_alone(subcenters):
    torch.manual_seed(2)
    loss = CosFaceLoss(CLASSES, DIM, 4.0, subcenters=subcenters, sample_share=SHARE).double()
    z, labels = torch.randn(8, DIM, dtype=torch.float64), torch.tensor([3, 59, 3, 0, 17, 18, 41, 41])
    seen = set()
    for seed in range(60):
        classes, value = drawn_classes(loss, z, labels, seed)
        gradient = loss.weight.grad.clone()
        assert len(classes) == 15 and set(labels.tolist()) <= set(classes)
        seen |= set(classes)
        if seed < 3:
            weight = loss.weight.detach().clone().requires_grad_()
            expected = brute_force(z, weight, labels, 4.0, 0.35, subcenters, classes)
            expected.backward()
            torch.testing.assert_close(value, expected.detach())
            torch.testing.assert_close(gradient, weight.grad)
    assert seen == set(range(CLASSES))  # the others are drawn anew by every seed


def test_negative_classes_are_drawn_evenly():
    loss = CosFaceLoss(CLASSES, DIM, sample_share=SHARE)
    labels, counts = torch.tensor([1, 2]), torch.zeros(CLASSES)
    for seed in range(400):
        rows, _ = loss._drawn(labels, torch.Generator().manual_seed(seed))
        counts += (rows.detach()[:, None] == loss.weight.detach()).all(2).any(0)
    others = counts[torch.arange(CLASSES) > 2]
    expected = 400 * 13 / 58
    assert counts[1] == counts[2] == 400
    assert (others - expected).abs().max() < 5 * math.sqrt(expected)


def test_one_seed_draws_the_same_and_scoring_takes_every_class():
    torch.manual_seed(3)
    loss = ArcFaceLoss(CLASSES, DIM, sample_share=SHARE)
    z, labels = torch.randn(8, DIM), torch.randint(CLASSES, (8,))
    first, again, other = (drawn_classes(loss, z, labels, seed) for seed in (5, 5, 6))
    assert first[0] == again[0] != other[0] and torch.equal(first[1], again[1])
    whole = ArcFaceLoss(CLASSES, DIM)
    whole.load_state_dict(loss.state_dict())
    assert torch.equal(loss.eval()(z, labels), whole(z, labels))
    assert loss.scores(z).shape == (8, CLASSES)
    batch = EmbeddedBatch(z[None], labels, torch.arange(8), seed=9)
    values = []
    for _ in range(2):
        objective = build_objective(CosFaceConfig(sample_share=SHARE), classes=CLASSES, dim=DIM, samples=8, seed=0)
        values.append(objective(batch).detach())
    assert torch.equal(*values)


def test_a_batch_of_more_classes_than_the_share_has_them_all():
    loss = CosFaceLoss(CLASSES, DIM, sample_share=0.01)
    classes, _ = drawn_classes(loss, torch.randn(12, DIM), torch.arange(12) * 4, 0)
    assert classes == list(range(0, 48, 4))
    classes, _ = drawn_classes(loss, torch.randn(CLASSES + 1, DIM), torch.arange(CLASSES + 1) % 2, 0)
    assert len(classes) == CLASSES  # a batch larger than the number of classes: every class


def test_labels_and_settings_out_of_range_are_refused_in_words():
    loss = CosFaceLoss(3, 2, sample_share=0.5)
    for label in (-1, 3):
        with pytest.raises(ValueError, match=rf"labels run from {label} to {label}, expected 0 to 2 for 3 classes"):
            loss(torch.ones(1, 2), torch.tensor([label]))
    with pytest.raises(ConfigError, match=r"sample_share is 1.5; it must be in \(0, 1\]; 1 is every class"):
        CosFaceConfig(sample_share=1.5)
