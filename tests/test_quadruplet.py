"""Quadruplet loss against loops over quadruples in float64."""

import itertools

import pytest
import torch

from simclr.distances import pairwise_distance
from simclr.losses import QuadrupletLoss
from simclr.losses.quadruplet import nearest_pair_outside, random_pair_outside

LABELS = {
    "random": torch.tensor([0, 1, 2, 1, 0, 3, 3, 2, 0, 1, 4]),
    "two classes": torch.tensor([0, 0, 1, 1, 1]),
    "three classes": torch.tensor([2, 0, 1, 1, 0, 2]),
    "singletons": torch.arange(6),
    "one class": torch.zeros(5, dtype=torch.int64),
}
each = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())


def outside(labels, a):
    y = labels.tolist()
    return [(i, j) for i, j in itertools.permutations(range(len(y)), 2) if len({y[i], y[j], y[a]}) == 3]


@each
@pytest.mark.parametrize("seed", range(4))
def test_nearest_pair_outside_the_anchors_class(labels, seed):
    d = pairwise_distance(torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed)))
    left, right, exists = nearest_pair_outside(d, labels)
    for a in range(len(labels)):
        pairs = outside(labels, a)
        assert bool(exists[a]) == bool(pairs)
        if pairs:
            assert (int(left[a]), int(right[a])) in pairs
            assert d[left[a], right[a]] == min(d[i, j] for i, j in pairs)


@each
def test_random_pairs_are_every_pair_outside_alike(labels):
    draws = 3000
    left, right, exists = random_pair_outside(labels, draws, torch.Generator().manual_seed(0))
    sizes = {int(label): int((labels == label).sum()) for label in labels}
    for a in range(len(labels)):
        pairs = outside(labels, a)
        assert exists[a].all() == exists[a].any() == bool(pairs)
        if not pairs:
            continue
        found = list(zip(left[a].tolist(), right[a].tolist()))
        assert set(found) <= set(pairs)
        # l is even over what is outside the anchor's class, k over what is outside both.
        free = len(labels) - sizes[int(labels[a])]
        chi_square, cells = 0.0, 0
        for i, j in pairs:
            expected = draws / free / (free - sizes[int(labels[i])])
            chi_square += (found.count((i, j)) - expected) ** 2 / expected
            cells += 1
        assert chi_square < cells + 5 * (2 * cells) ** 0.5


@pytest.mark.parametrize("reduction", ["active", "all"])
@pytest.mark.parametrize("kind", ["squared", "euclidean"])
@each
def test_hard_equals_a_search_of_every_quadruple(labels, kind, reduction):
    if len(labels.unique()) in (1, len(labels)):
        return  # without a triplet: exactly zero, in test_label_loss.py
    margin, second_margin = 0.9, 0.4
    z = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(1))
    wide = z.double().requires_grad_()
    rows = wide / wide.norm(dim=1, keepdim=True)
    squared = (rows.unsqueeze(1) - rows).square().sum(2)
    d = squared if kind == "squared" else (squared + torch.eye(len(z))).sqrt()  # the diagonal is never looked at
    first, second = [], []
    for a in range(len(labels)):
        positives = [j for j in range(len(labels)) if j != a and labels[j] == labels[a]]
        negatives = [k for k in range(len(labels)) if labels[k] != labels[a]]
        if positives:
            far = max((d[a, j] for j in positives), key=torch.Tensor.item)
            first.append(far - min((d[a, k] for k in negatives), key=torch.Tensor.item) + margin)
            if outside(labels, a):
                second.append(
                    far - min((d[i, j] for i, j in outside(labels, a)), key=torch.Tensor.item) + second_margin
                )
    expected = 0.0
    for terms in (first, second):
        active = [term for term in terms if term > 0]
        expected = expected + sum(active) / max(len(active) if reduction == "active" else len(terms), 1)
    expected.backward()
    loss = QuadrupletLoss(margin, second_margin, mining="hard", distance=kind, reduction=reduction)
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


def test_random_quadruplets_repeat_with_their_seed():
    labels = torch.arange(20) % 5
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    loss = QuadrupletLoss(mining="random")
    first, again, other = (float(loss(z, labels, generator=torch.Generator().manual_seed(s))) for s in (1, 1, 2))
    assert first == again != other
    assert loss.statistics["triplets"] == 20 * 3
