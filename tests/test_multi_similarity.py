"""Multi-similarity loss and its mining against loops over anchors in float64, and another library."""

import math

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners

from simclr.losses import MultiSimilarityLoss


def brute_force(z, labels, alpha, beta, base, epsilon):
    z = z / z.norm(dim=1, keepdim=True)
    terms, kept = [], 0
    for i in range(len(z)):
        positive = [z[i] @ z[j] for j in range(len(z)) if j != i and labels[j] == labels[i]]
        negative = [z[i] @ z[j] for j in range(len(z)) if labels[j] != labels[i]]
        if not (positive and negative):
            continue
        if epsilon is not None:
            least, most = min(s.item() for s in positive), max(s.item() for s in negative)
            positive = [s for s in positive if s.item() < most + epsilon]
            negative = [s for s in negative if s.item() > least - epsilon]
        kept += len(positive) + len(negative)
        pull = torch.log(1 + sum((torch.exp(-alpha * (s - base)) for s in positive), 0 * z.sum())) / alpha
        push = torch.log(1 + sum((torch.exp(beta * (s - base)) for s in negative), 0 * z.sum())) / beta
        terms.append(pull + push)
    return sum(terms) / len(terms), kept


@pytest.mark.parametrize("epsilon", [0.1, 0.0, 0.5, None])
@pytest.mark.parametrize(("alpha", "beta", "base"), [(2.0, 50.0, 0.5), (2.0, 40.0, 1.0), (5.0, 5.0, 0.0)])
def test_equals_loops_over_anchors(alpha, beta, base, epsilon):
    torch.manual_seed(0)
    loss = MultiSimilarityLoss(alpha, beta, base, epsilon)
    labels = torch.tensor([*(torch.arange(18) % 5), 7, 8])  # the last two have no positive
    z = torch.randn(20, 6) + 1.5 * torch.nn.functional.one_hot(labels.clamp(max=5), 6)
    wide = z.double().requires_grad_()
    expected, kept = brute_force(wide, labels, alpha, beta, base, epsilon)
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    assert loss.statistics["pairs"] == kept
    assert 0 < loss.statistics["active"] <= 1


def test_equals_pytorch_metric_learning_with_and_without_its_miner():
    torch.manual_seed(1)
    labels = torch.arange(24) % 6
    z = torch.randn(24, 16) + 2 * torch.nn.functional.one_hot(labels, 16)
    theirs = pml_losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    for epsilon in (0.1, None):
        other, own = z.clone().requires_grad_(), z.clone().requires_grad_()
        mined = None if epsilon is None else pml_miners.MultiSimilarityMiner(epsilon)(other, labels)
        expected = theirs(other, labels, mined)
        expected.backward()
        loss = MultiSimilarityLoss(epsilon=epsilon)
        value = loss(own, labels)
        value.backward()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-6)
        if mined is not None:
            assert loss.statistics["pairs"] == len(mined[0]) + len(mined[2]) < 24 * 23


def test_an_anchor_whose_pairs_are_all_easy_adds_nothing():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.01]], requires_grad=True)
    loss = MultiSimilarityLoss()
    value = loss(z, torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert value == 0 and torch.all(z.grad == 0)
    assert loss.statistics["pairs"] == 0 and loss.statistics["active"] == 0


def test_no_anchor_with_both_kinds_is_exactly_zero():
    for labels in ([0, 0, 0], [0, 1, 2]):
        loss, z = MultiSimilarityLoss(), torch.randn(3, 4, requires_grad=True)
        value = loss(z, torch.tensor(labels))
        value.backward()
        assert value == 0 and torch.all(z.grad == 0)
        assert math.isnan(loss.statistics["active"])
