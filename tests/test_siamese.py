"""Siamese loss against a loop over pairs in float64."""

import math

import pytest
import torch

from simclr.losses import SiameseLoss


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 1, 2, 3], [0, 0, 0], [0, 1, 2]], ids=["mixed", "one class", "singletons"]
)
def test_equals_a_loop_over_pairs(labels, balanced):
    labels = torch.tensor(labels)
    z = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0))
    wide = z.double().requires_grad_()
    t = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    log_w = torch.tensor(math.log(3.0), dtype=torch.float64, requires_grad=True)
    rows = wide / wide.norm(dim=1, keepdim=True)
    terms = {True: [], False: []}
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            p_same = torch.sigmoid(log_w.exp() * (t - (rows[i] - rows[j]).norm()))
            same = bool(labels[i] == labels[j])
            terms[same].append(-torch.log(p_same if same else 1 - p_same))
    if balanced:
        means = [sum(kind) / len(kind) for kind in terms.values() if kind]
        expected = sum(means) / len(means)
    else:
        expected = sum(terms[True] + terms[False]) / len(terms[True] + terms[False])
    expected.backward()
    loss = SiameseLoss(0.9, 3.0, balanced=balanced)
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.threshold.grad.double(), t.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.log_steepness.grad.double(), log_w.grad, rtol=1e-5, atol=1e-6)


def test_the_threshold_settles_between_the_classes():
    z = torch.tensor([[0.0], [0.4], [3.0], [3.4]])
    labels = torch.tensor([0, 0, 1, 1])
    loss = SiameseLoss(0.1, 1.0, normalize=False)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(z, labels).backward()
        optimizer.step()
    assert 0.4 < loss.threshold.item() < 2.6
    assert loss.statistics["steepness"] > 1
    assert loss.statistics["accuracy"] == 1


def test_certain_pairs_do_not_overflow():
    z = torch.tensor([[0.0], [1e6]], requires_grad=True)
    loss = SiameseLoss(steepness=100.0, normalize=False)
    value = loss(z, torch.tensor([0, 0]))
    value.backward()
    assert float(value.detach()) == pytest.approx(1e8, rel=1e-5)
    assert torch.isfinite(z.grad).all()
    assert loss(z, torch.tensor([0, 1])) == 0
    assert torch.equal(loss.logits(torch.tensor([1.0])).detach(), torch.zeros(1))
