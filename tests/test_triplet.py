"""Triplet loss against loops over triplets in float64, and against pytorch-metric-learning."""

import itertools

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers as pml_reducers

from simclr.distances import pairwise_distance
from simclr.losses import TripletLoss
from simclr.mining import distance_weighted, random_negatives
from simclr.numerics import l2_normalize

MARGIN = 0.3


def batch(samples=24, classes=6, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, dim, generator=generator), torch.randint(classes, (samples,), generator=generator)


def one_distance(a, b, kind):
    if kind == "cosine":
        return 1 - (a @ b) / (a.norm() * b.norm())
    if kind == "manhattan":
        return (a - b).abs().sum()
    squared = ((a - b) ** 2).sum()
    return squared if kind == "squared" else squared.sqrt()


def brute_force(z, labels, mining, kind, reduction, normalize=True):
    """Loss and counts by looking at every triplet; z float64 with a graph."""
    if normalize:
        z = z / z.norm(dim=1, keepdim=True)
    n, y = len(z), labels.tolist()
    d = [[one_distance(z[i], z[j], kind) if i != j else None for j in range(n)] for i in range(n)]
    chosen = []
    for a in range(n):
        positives = [j for j in range(n) if j != a and y[j] == y[a]]
        negatives = [k for k in range(n) if y[k] != y[a]]
        if not positives or not negatives:
            continue
        if mining == "all":
            chosen += itertools.product([a], positives, negatives)
        elif mining == "hard":
            farthest = max(positives, key=lambda j: float(d[a][j].detach()))
            chosen.append((a, farthest, min(negatives, key=lambda k: float(d[a][k].detach()))))
        else:
            for p in positives:
                inside = [k for k in negatives if d[a][p] < d[a][k] < d[a][p] + MARGIN]
                by = lambda k: float(d[a][k].detach())  # noqa: B023, E731
                chosen.append((a, p, min(inside, key=by) if inside else max(negatives, key=by)))
    gaps = [d[a][p] - d[a][k] for a, p, k in chosen]
    terms = [gap + MARGIN for gap in gaps if gap + MARGIN > 0]
    counts = {
        "triplets": len(chosen),
        "hard": sum(bool(gap >= 0) for gap in gaps),
        "semi_hard": sum(bool(-MARGIN < gap < 0) for gap in gaps),
        "easy": sum(bool(gap <= -MARGIN) for gap in gaps),
    }
    return sum(terms) / (len(terms) if reduction == "active" else len(chosen)), counts, len(terms)


@pytest.mark.parametrize("mining", ["all", "hard", "semi-hard"])
@pytest.mark.parametrize("kind", ["euclidean", "squared", "manhattan", "cosine"])
@pytest.mark.parametrize("reduction", ["active", "all"])
def test_equals_loops_over_triplets(mining, kind, reduction):
    z, labels = batch()
    wide = z.double().requires_grad_()
    expected, counts, active = brute_force(wide, labels, mining, kind, reduction)
    expected.backward()
    loss = TripletLoss(MARGIN, mining, kind, reduction)
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
    assert {name: int(loss.statistics[name]) for name in counts} == counts
    assert float(loss.statistics["active"]) == pytest.approx(active / counts["triplets"])
    assert float(loss.statistics["order_violations"]) == pytest.approx(counts["hard"] / counts["triplets"])


@pytest.mark.parametrize("mining", ["all", "hard", "semi-hard"])
def test_many_positives_take_the_other_way_to_the_gradient(mining):
    """Two classes of 24 samples in 16 dimensions: too many pairs to gather their rows."""
    z, labels = batch(24, 2, 16, seed=3)
    wide = z.double().requires_grad_()
    expected, counts, _ = brute_force(wide, labels, mining, "euclidean", "all", normalize=False)
    expected.backward()
    loss = TripletLoss(MARGIN, mining, reduction="all", normalize=False)
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
    assert int(loss.statistics["semi_hard"]) == counts["semi_hard"]


@pytest.mark.parametrize(("mining", "miner"), [("distance-weighted", distance_weighted), ("random", random_negatives)])
def test_drawn_triplets_are_those_of_the_miner(mining, miner):
    z, labels = batch()
    unit = l2_normalize(z)
    more = (z.shape[1],) if mining == "distance-weighted" else ()
    triplets = miner(pairwise_distance(unit), labels, *more, generator=torch.Generator().manual_seed(4)).indices()
    wide = z.double().requires_grad_()
    normal = wide / wide.norm(dim=1, keepdim=True)
    a, p, n = normal[triplets.T]
    hinge = ((a - p).norm(dim=1) - (a - n).norm(dim=1) + MARGIN).relu()
    expected = hinge.sum() / (hinge > 0).sum()
    expected.backward()
    loss = TripletLoss(MARGIN, mining)
    value = loss(z.requires_grad_(), labels, generator=torch.Generator().manual_seed(4))
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


def test_distance_weighted_draws_by_distance_on_the_sphere_whatever_the_loss_measures():
    z, labels = batch()
    reports = []
    for kind in ("euclidean", "squared", "manhattan", "cosine"):
        loss = TripletLoss(MARGIN, "distance-weighted", kind)
        loss(z, labels, generator=torch.Generator().manual_seed(0))
        reports.append(float(loss.statistics["negative_distance"]))
    d = pairwise_distance(l2_normalize(z))
    triplets = distance_weighted(d, labels, 8, generator=torch.Generator().manual_seed(0)).indices()
    drawn = d[triplets[:, 0], triplets[:, 2]]
    assert reports[0] == pytest.approx(float(drawn.mean()), rel=1e-5)
    assert reports[1] == pytest.approx(float(drawn.square().mean()), rel=1e-5)
    assert reports[3] == pytest.approx(float(drawn.square().mean()) / 2, rel=1e-5)


@pytest.mark.parametrize("reduction", ["active", "all"])
@pytest.mark.parametrize("mining", ["all", "hard"])
def test_equals_pytorch_metric_learning(mining, reduction):
    z, labels = batch(40, 8, 12, seed=5)
    reducer = pml_reducers.AvgNonZeroReducer() if reduction == "active" else pml_reducers.MeanReducer()
    theirs = pml_losses.TripletMarginLoss(MARGIN, distance=pml_distances.LpDistance(), reducer=reducer)
    other = z.clone().requires_grad_()
    mined = pml_miners.BatchHardMiner()(other, labels) if mining == "hard" else None
    expected = theirs(other, labels, mined)
    expected.backward()
    value = TripletLoss(MARGIN, mining, reduction=reduction)(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_easy_triplets_have_no_gradient():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.01]], requires_grad=True)
    for mining in ("all", "hard", "semi-hard", "distance-weighted"):
        z.grad = None
        value = TripletLoss(0.2, mining)(z, torch.tensor([0, 0, 1, 1]))
        value.backward()
        assert value == 0 and torch.all(z.grad == 0)


def test_skip_leaves_out_pairs_without_a_semi_hard_negative():
    z, labels = batch(30, 5, 4, seed=2)
    skip, easiest = TripletLoss(0.1, fallback="skip"), TripletLoss(0.1)
    skip(z, labels), easiest(z, labels)
    assert skip.statistics["hard"] == 0 and skip.statistics["easy"] == 0
    assert skip.statistics["semi_hard"] == easiest.statistics["semi_hard"] > 0
    assert skip.statistics["triplets"] < easiest.statistics["triplets"]


def test_nothing_of_the_size_of_the_triplets_is_allocated():
    """All triplets of 512 samples in two classes: 33 million, 133 MB for one number each."""
    z, labels = batch(512, 2, 8)
    loss = TripletLoss(0.2, "all")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss(z.requires_grad_(), labels).backward()
    assert int(loss.statistics["triplets"]) > 30_000_000
    assert max(event.cpu_memory_usage for event in profile.events()) < 32 * 512 * 512
