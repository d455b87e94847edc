"""Margin loss against loops in float64 and against pytorch-metric-learning."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from simclr.distances import pairwise_distance
from simclr.losses import MarginConfig, MarginLoss
from simclr.mining import distance_weighted, hard, semi_hard
from simclr.numerics import l2_normalize

CLASSES, SAMPLES = 5, 60


def batch(seed=0, samples=20, dim=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    indices = torch.randperm(SAMPLES, generator=generator)[:samples]
    return torch.randn(samples, dim, generator=generator), labels, indices


def three_levels(seed=3, **more):
    loss = MarginLoss(0.25, 1.1, CLASSES, SAMPLES, **more)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        loss.beta_class.normal_(0, 0.2, generator=generator)
        loss.beta_sample.normal_(0, 0.2, generator=generator)
    return loss


def by_loops(z, labels, indices, triplets, beta, beta_class, beta_sample, alpha, nu, reduction):
    terms, penalty = [], 0.0
    for a, p, n in triplets:
        boundary = beta + beta_class[labels[a]] + beta_sample[indices[a]]
        terms.append((z[a] - z[p]).norm() - boundary + alpha)
        terms.append(boundary - (z[a] - z[n]).norm() + alpha)
        penalty = penalty + nu * boundary
    active = [term for term in terms if term > 0]
    return (sum(active) + penalty) / (len(active) if reduction == "active" else len(terms)), len(active) / len(terms)


@pytest.mark.parametrize("mining", ["hard", "semi-hard", "distance-weighted"])
@pytest.mark.parametrize(("nu", "reduction"), [(0.0, "active"), (0.05, "active"), (0.05, "all")])
def test_equals_loops_over_triplets_at_three_levels(mining, nu, reduction):
    z, labels, indices = batch()
    d = pairwise_distance(l2_normalize(z))
    triplets = {
        "hard": lambda: hard(d, labels),
        "semi-hard": lambda: semi_hard(d, labels, 0.25),
        "distance-weighted": lambda: distance_weighted(d, labels, 6, generator=torch.Generator().manual_seed(9)),
    }[mining]()
    loss = three_levels(mining=mining, nu=nu, reduction=reduction)
    wide = z.double().requires_grad_()
    betas = [b.detach().double().requires_grad_() for b in (loss.beta, loss.beta_class, loss.beta_sample)]
    rows = wide / wide.norm(dim=1, keepdim=True)
    expected, active = by_loops(rows, labels, indices, triplets.indices().tolist(), *betas, 0.25, nu, reduction)
    expected.backward()
    value = loss(z.requires_grad_(), labels, indices, generator=torch.Generator().manual_seed(9))
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
    for ours, brute in zip((loss.beta, loss.beta_class, loss.beta_sample), betas):
        torch.testing.assert_close(ours.grad.double(), brute.grad, rtol=1e-5, atol=1e-6)
    assert float(loss.statistics["active"]) == pytest.approx(active)


@pytest.mark.parametrize("reduction", ["active", "all"])
def test_all_pairs(reduction):
    z, labels, _ = batch()
    loss = MarginLoss(0.3, 1.2, nu=0.1, mining="all", reduction=reduction)
    wide = z.double().requires_grad_()
    beta = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    rows = wide / wide.norm(dim=1, keepdim=True)
    terms = [
        0.3 + (1 if labels[i] == labels[j] else -1) * ((rows[i] - rows[j]).norm() - beta)
        for i in range(20)
        for j in range(20)
        if i != j
    ]
    active = [term for term in terms if term > 0]
    expected = (sum(active) + 20 * 0.1 * beta) / (len(active) if reduction == "active" else len(terms))
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.beta.grad.double(), beta.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("nu", [0.0, 0.1])
def test_equals_pytorch_metric_learning(classes, nu):
    z, labels, _ = batch(seed=2)
    triplets = hard(pairwise_distance(l2_normalize(z)), labels).indices()
    theirs = pml_losses.MarginLoss(margin=0.2, nu=nu, beta=1.2, learn_beta=True, num_classes=classes)
    other = z.clone().requires_grad_()
    expected = theirs(other, labels, tuple(triplets.T))
    expected.backward()
    loss = MarginLoss(0.2, 1.2, classes, nu=nu, mining="hard")
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-4, atol=1e-5)
    if classes is not None or nu == 0:  # with one boundary they count its penalty once, not once a triplet
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        ours = loss.beta_class.grad if classes else loss.beta.grad
        torch.testing.assert_close(ours, theirs.beta.grad.squeeze(), rtol=1e-4, atol=1e-5)


def test_nothing_active_is_exactly_zero_and_moves_no_boundary():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    for mining in ("all", "hard", "distance-weighted"):
        loss = MarginLoss(0.1, 1.0, 2, nu=0.5, mining=mining)
        value = loss(z, torch.tensor([0, 0, 1, 1]))
        value.backward()
        assert value == 0
        assert torch.all(z.grad == 0) and loss.beta.grad == 0 and torch.all(loss.beta_class.grad == 0)
        assert loss.statistics["active"] == 0


def test_levels_are_switched_one_by_one():
    names = lambda **levels: {name for name, _ in MarginConfig(**levels).build(3, 8, 10).named_parameters()}  # noqa: E731
    assert names() == {"beta"}
    assert names(learn_beta=False) == set()
    assert names(class_beta=True, sample_beta=True) == {"beta", "beta_class", "beta_sample"}
    loss = MarginConfig(class_beta=True, sample_beta=True, learn_beta=False).build(3, 8, 10)
    assert loss.beta_class.shape == (3,) and loss.beta_sample.shape == (10,)
    assert "beta" in loss.state_dict()  # travels in the checkpoint, learned or not


def test_a_boundary_a_sample_needs_indices():
    z, labels, _ = batch()
    with pytest.raises(ValueError, match=r"loss\(z, labels, indices\)"):
        three_levels()(z, labels)


def test_default_mining_draws_with_the_generator():
    z, labels, _ = batch(samples=40)
    loss = MarginLoss()
    first, again, other = (
        float(loss(z, labels, generator=torch.Generator().manual_seed(s)).detach()) for s in (1, 1, 2)
    )
    assert first == again != other


def test_a_boundary_that_leaves_the_distances_is_said():
    loss = MarginLoss()
    assert "boundary is 2.3" in loss.warning(0.1, {"beta": 2.3})
    assert loss.warning(0.1, {"beta": 1.2, "positive_distance": 0.5, "negative_distance": 1.0}) is None
