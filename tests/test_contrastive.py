"""Contrastive loss against a loop over pairs in float64."""

import pytest
import torch

from simclr.losses import ContrastiveLoss


def brute_force(z, labels, margin, positive_margin, kind):
    terms = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            difference = z[i] - z[j]
            if kind == "euclidean":
                d = difference.square().sum().sqrt()
            elif kind == "squared":
                d = difference.square().sum()
            elif kind == "manhattan":
                d = difference.abs().sum()
            else:
                d = 1 - z[i] @ z[j] / (z[i].norm() * z[j].norm())
            hinge = d - positive_margin if labels[i] == labels[j] else margin - d
            terms.append(hinge**2 / 2 if hinge > 0 else 0 * hinge)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("margin", "positive_margin", "kind"),
    [
        (1.0, 0.0, "euclidean"),
        (1.5, 0.4, "euclidean"),
        (2.0, 0.1, "squared"),
        (3.0, 1.0, "manhattan"),
        (0.8, 0.1, "cosine"),
    ],
)
def test_equals_a_loop_over_pairs(margin, positive_margin, kind, normalize):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(17, 5, generator=generator) * (1 if normalize else 0.4)
    labels = torch.randint(4, (17,), generator=generator)
    wide = z.double().requires_grad_()
    rows = wide / wide.norm(dim=1, keepdim=True) if normalize else wide
    expected = brute_force(rows, labels, margin, positive_margin, kind)
    expected.backward()
    loss = ContrastiveLoss(margin, positive_margin, kind, normalize=normalize)
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


def test_beyond_the_margin_the_gradient_is_exactly_zero():
    z = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 1.0001]], requires_grad=True)
    value = ContrastiveLoss(1.0, normalize=False)(z, torch.tensor([0, 1, 2]))
    value.backward()
    assert value == 0 and torch.all(z.grad == 0)


def test_equal_labels_attract_and_different_ones_repel():
    z = torch.tensor([[0.0, 0.0], [0.5, 0.0]], requires_grad=True)
    loss = ContrastiveLoss(1.0, normalize=False)
    same = loss(z, torch.tensor([7, 7]))
    assert float(same.detach()) == pytest.approx(0.125)
    same.backward()
    assert z.grad[0, 0] < 0 < z.grad[1, 0]  # a step against the gradient brings them together
    z.grad = None
    different = loss(z, torch.tensor([7, 8]))
    assert float(different.detach()) == pytest.approx(0.125)
    different.backward()
    assert z.grad[1, 0] < 0 < z.grad[0, 0]


def test_statistics():
    z = torch.tensor([[0.0], [0.2], [0.6], [3.0]])
    loss = ContrastiveLoss(1.0, normalize=False)
    loss(z, torch.tensor([0, 0, 1, 1]))
    found = {name: float(value) for name, value in loss.statistics.items()}
    assert found == pytest.approx(
        {
            "active": 4 / 6,  # both positive pairs, and the negatives at 0.6 and 0.4
            "positive_distance": (0.2 + 2.4) / 2,
            "negative_distance": (0.6 + 3.0 + 0.4 + 2.8) / 4,
            "positive_pairs": 2,
            "negative_pairs": 4,
        }
    )
