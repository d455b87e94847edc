"""N-pair loss against Sohn's formula in float64, and against pytorch-metric-learning."""

import math

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from simclr.losses import NPairLoss


def pairs_of(labels):
    """First and second sample of a class, third and fourth, and so on, class by class."""
    found = []
    for label in sorted(set(labels.tolist())):
        members = [i for i, other in enumerate(labels.tolist()) if other == label]
        found += list(zip(members[::2], members[1::2]))
    return found


def brute_force(z, labels, l2_weight):
    pairs = pairs_of(labels)
    total, squares = 0.0, 0.0
    for a, p in pairs:
        inner = 1.0
        for b, q in pairs:
            if labels[a] != labels[b]:
                inner = inner + torch.exp(z[a] @ z[q] - z[a] @ z[p])
        total = total + torch.log(torch.as_tensor(inner, dtype=z.dtype))
        squares = squares + (z[a] @ z[a] + z[p] @ z[p]) / 2
    return (total + l2_weight * squares) / len(pairs)


@pytest.mark.parametrize("l2_weight", [0.0, 0.02])
@pytest.mark.parametrize(
    "labels",
    [[0, 0, 1, 1, 2, 2], [4, 9, 1, 9, 1, 4], [3, 3, 3, 3, 5, 5, 5, 8, 2, 2], [1, 1, 1, 1]],
    ids=["the paper's batch", "shuffled", "uneven", "one class"],
)
def test_equals_the_formula(labels, l2_weight):
    labels = torch.tensor(labels)
    z = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    wide = z.double().requires_grad_()
    expected = brute_force(wide, labels, l2_weight)
    loss = NPairLoss(l2_weight, temperature=None)
    value = loss(z.requires_grad_(), labels)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    value.backward()
    if expected.requires_grad:
        expected.backward()
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
    assert int(loss.statistics["pairs"]) == len(pairs_of(labels))
    assert int(loss.statistics["samples_dropped"]) == len(labels) - 2 * len(pairs_of(labels))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_a_temperature_divides_the_products_of_normalised_embeddings(temperature):
    labels = torch.tensor([3, 3, 3, 3, 5, 5, 5, 8, 2, 2])
    z = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    value = NPairLoss(temperature=temperature)(ours, labels)
    expected = brute_force(other / other.norm(dim=1, keepdim=True) / math.sqrt(temperature), labels, 0.0)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, other.grad)


def test_equals_pytorch_metric_learning():
    labels = torch.arange(8).repeat_interleave(2)
    z = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    other = z.clone().requires_grad_()
    anchors, positives = torch.arange(0, 16, 2), torch.arange(1, 16, 2)
    from pytorch_metric_learning.distances import DotProductSimilarity

    theirs = pml_losses.NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False))
    nothing = torch.zeros(0, dtype=torch.int64)
    expected = theirs(other, labels, (anchors, positives, nothing, nothing))
    expected.backward()
    value = NPairLoss(temperature=None)(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_large_products_do_not_overflow():
    z = 100 * torch.eye(4).repeat_interleave(2, 0).requires_grad_()
    labels = torch.arange(4).repeat_interleave(2)
    loss = NPairLoss(temperature=None)
    assert loss(z, labels) == 0
    swapped = loss(z.detach().roll(1, 0), labels)  # every anchor's positive is the next class's
    assert float(swapped) == pytest.approx(1e4, rel=1e-6)


def test_accuracy_is_the_share_of_anchors_whose_own_positive_wins():
    z = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.1]])
    loss = NPairLoss(temperature=None)
    value = loss(z, torch.tensor([0, 0, 1, 1]))
    assert float(loss.statistics["accuracy"]) == 0.5  # the products of anchor 2 are 0.1 and 0.1: a tie, to the first
    expected = (math.log1p(math.exp(0.8 - 0.9)) + math.log1p(math.exp(0.1 - 0.1))) / 2
    assert float(value) == pytest.approx(expected, rel=1e-6)
