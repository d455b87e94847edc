"""Circle loss against loops over anchors in float64, with its weights held, and another library."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from simclr.losses import CircleLoss


def brute_force(z, labels, margin, gamma, held=None):
    """Mean over anchors; the weights are those of ``held``, embeddings as constants, where they are given."""
    unit = z / z.norm(dim=1, keepdim=True)
    fixed = (z if held is None else held).detach()
    fixed = fixed / fixed.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(z)):
        pull, push = [], []
        for j in range(len(z)):
            s, constant = unit[i] @ unit[j], (fixed[i] @ fixed[j]).item()
            if labels[i] != labels[j]:
                push.append(torch.exp(gamma * max(0.0, constant + margin) * (s - margin)))
            elif i != j:
                pull.append(torch.exp(-gamma * max(0.0, 1 + margin - constant) * (s - 1 + margin)))
        if pull and push:
            terms.append(torch.log1p(sum(pull) * sum(push)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("margin", "gamma"), [(0.4, 80.0), (0.25, 256.0), (0.0, 1.0)])
def test_equals_loops_over_anchors(margin, gamma):
    torch.manual_seed(0)
    labels = torch.tensor([*(torch.arange(12) % 4), 8, 9])  # the last two have no positive
    z = torch.randn(14, 6) + 2 * torch.nn.functional.one_hot(labels.clamp(max=5), 6)
    wide = z.double().requires_grad_()
    expected = brute_force(wide, labels, margin, gamma)
    expected.backward()
    loss = CircleLoss(margin, gamma)
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-3, atol=1e-4)
    assert loss.statistics["anchors"] == 12


def test_the_gradient_is_numerically_that_of_held_weights():
    torch.manual_seed(1)
    z, labels = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    point = z.detach().clone()
    (gradient,) = torch.autograd.grad(CircleLoss(0.3, 4.0)(z, labels), z)
    numeric = torch.zeros_like(point)
    for place in range(point.numel()):
        step = torch.zeros(point.numel(), dtype=torch.float64)
        step[place] = 1e-6
        up, down = (brute_force(point + sign * step.view_as(point), labels, 0.3, 4.0, held=point) for sign in (1, -1))
        numeric.view(-1)[place] = (up - down) / 2e-6
    torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("margin", "gamma"), [(0.4, 80.0), (0.25, 256.0)])
def test_equals_pytorch_metric_learning(margin, gamma):
    torch.manual_seed(2)
    labels = torch.arange(24) % 6
    z = torch.randn(24, 16)
    other, own = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected = pml_losses.CircleLoss(m=margin, gamma=gamma)(
        other, labels
    )  # a mean over losses that are not 0: all of them
    expected.backward()
    value = CircleLoss(margin, gamma)(own, labels)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_a_large_gamma_neither_overflows_nor_saturates():
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.9, 0.1], [0.0, 1.0]], requires_grad=True)
    value = CircleLoss(0.25, 1e5)(z, torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert torch.isfinite(value) and value > 1e4 and torch.isfinite(z.grad).all() and z.grad.abs().max() > 1


def test_satisfied_is_the_share_of_pairs_on_their_side():
    loss = CircleLoss(margin=0.25)
    loss(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    # 0.8 >= 0.75 twice of one class; of two classes 0 <= 0.25 twice, 0.6 > 0.25 twice
    assert float(loss.statistics["satisfied"]) == pytest.approx(4 / 6)
