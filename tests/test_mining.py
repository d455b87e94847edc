"""Miners against plain loops over every triplet, on random and on adversarial batches."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr.distances import pairwise_distance
from simclr.errors import ConfigError
from simclr.mining import all as mining_all
from simclr.mining import (
    batch_all,
    check_labels,
    distance_weighted,
    distance_weights,
    hard,
    offline_triplets,
    positive_table,
    random_negatives,
    semi_hard,
)
from simclr.mining import tuples as mining_tuples
from simclr.mining.tuples import sort_into_intervals
from simclr.numerics import l2_normalize

MARGIN = 0.25


def grid_batch(seed, samples, classes, levels=None, dtype=torch.float32):
    """A symmetric matrix of distances and labels; with ``levels`` the distances are few exact numbers: ties abound."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator) + (1 << 40)  # float32 would merge them
    if levels is None:
        d = torch.rand(samples, samples, generator=generator, dtype=torch.float64).to(dtype)
    else:
        d = torch.randint(levels, (samples, samples), generator=generator).to(dtype) / 8
    d = torch.triu(d, 1)
    return d + d.T, labels


ADVERSARIAL = {
    "one class": (torch.rand(6, 6), torch.zeros(6, dtype=torch.int64)),
    "all singletons": (torch.rand(6, 6), torch.arange(6)),
    "duplicates at distance zero": (torch.zeros(7, 7), torch.tensor([0, 0, 1, 1, 1, 2, 2])),
    "ties": (torch.ones(8, 8) - torch.eye(8), torch.tensor([0, 1, 0, 1, 2, 2, 2, 3])),
    "empty": (torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)),
    "one sample": (torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)),
    "two of one class": (torch.ones(2, 2), torch.tensor([5, 5])),
    "one pair and a crowd": (torch.rand(9, 9), torch.tensor([-3] * 7 + [4, 4])),
}
RANDOM = {
    **{f"random {n} {c}": grid_batch(n + c, n, c) for n, c in ((5, 2), (12, 3), (24, 8), (70, 2), (33, 33))},
    **{f"tied {n} {c}": grid_batch(n * c, n, c, levels=6) for n, c in ((8, 2), (20, 4), (70, 2))},
    "float64": grid_batch(1, 20, 5, dtype=torch.float64),
}
BATCHES = {**ADVERSARIAL, **RANDOM}
each_batch = pytest.mark.parametrize(("d", "labels"), BATCHES.values(), ids=BATCHES.keys())


def others(labels, a):
    y = labels.tolist()
    positives = [j for j in range(len(y)) if j != a and y[j] == y[a]]
    return positives, [k for k in range(len(y)) if y[k] != y[a]]


def brute_hard(d, labels):
    found, d = [], d.numpy()
    for a in range(len(labels)):
        positives, negatives = others(labels, a)
        if positives and negatives:
            found.append([a, max(positives, key=lambda j: (d[a, j], -j)), min(negatives, key=lambda k: (d[a, k], k))])
    return found


def brute_semi_hard(d, labels, margin, fallback):
    found = []
    d, limit = d.numpy(), (d + margin).numpy()  # the sum rounded as its dtype rounds it
    for a in range(len(labels)):
        positives, negatives = others(labels, a)
        for p in positives:
            inside = [k for k in negatives if d[a, p] < d[a, k] < limit[a, p]]
            if inside:
                found.append([a, p, min(inside, key=lambda k: (d[a, k], k))])
            elif negatives and fallback == "hardest":
                found.append([a, p, min(negatives, key=lambda k: (d[a, k], k))])
            elif negatives and fallback == "easiest":
                found.append([a, p, max(negatives, key=lambda k: (d[a, k], -k))])
    return found


def brute_all(d, labels, margin):
    d = d.double().numpy()
    loss, counts, slope = 0.0, [0, 0, 0], np.zeros_like(d)
    for a in range(len(labels)):
        positives, negatives = others(labels, a)
        for p, n in itertools.product(positives, negatives):
            counts[0] += 1
            counts[2] += bool(d[a, n] <= d[a, p])
            if d[a, n] < d[a, p] + margin:
                counts[1] += 1
                loss += d[a, p] - d[a, n] + margin
                slope[a, p] += 1
                slope[a, n] -= 1
    return loss, counts, torch.from_numpy(slope)


@pytest.fixture(params=["narrow tables", "tables as wide as the batch"])
def tables(request, monkeypatch):
    """On a GPU, where the largest class is not known, every table has N - 1 columns and is searched by sorting."""
    if request.param.startswith("tables"):
        monkeypatch.setattr(mining_tuples, "_largest", lambda size, most: most)
        monkeypatch.setattr(mining_tuples, "FEW", 0)
        monkeypatch.setattr(mining_all, "FEW", 0)


@each_batch
def test_hard_is_the_farthest_positive_and_the_nearest_negative(d, labels, tables):
    assert hard(d, labels).indices().tolist() == brute_hard(d, labels)


@pytest.mark.parametrize("fallback", ["easiest", "hardest", "skip"])
@each_batch
def test_semi_hard_equals_a_search_of_every_pair(d, labels, fallback, tables):
    mined = semi_hard(d, labels, MARGIN, fallback)
    assert sorted(mined.indices().tolist()) == sorted(brute_semi_hard(d, labels, MARGIN, fallback))


@each_batch
def test_batch_all_sums_and_counts_every_triplet(d, labels, tables):
    d = d.clone().requires_grad_()
    mined = batch_all(d, labels, MARGIN)
    mined.loss.backward()
    loss, counts, slope = brute_all(d.detach(), labels, MARGIN)
    assert [int(mined.triplets), int(mined.active), int(mined.hard)] == counts
    assert float(mined.loss.detach()) == pytest.approx(loss, rel=2e-6, abs=1e-9)
    assert torch.equal(d.grad.double(), slope)
    assert int(mined.anchors_dropped) == sum(not all(others(labels, a)) for a in range(len(labels)))


@each_batch
def test_drawn_negatives_are_negatives_and_every_pair_that_can_have_one_has_one(d, labels, tables):
    expected = [(a, p) for a in range(len(labels)) for p in others(labels, a)[0] if others(labels, a)[1]]
    for mined in (
        distance_weighted(d, labels, 16, generator=torch.Generator().manual_seed(0)),
        random_negatives(d, labels, generator=torch.Generator().manual_seed(0)),
    ):
        triplets = mined.indices().tolist()
        assert sorted((a, p) for a, p, _ in triplets) == expected
        assert all(labels[n] != labels[a] for a, _, n in triplets)
        assert int(mined.anchors_dropped()) == len(labels) - len({a for a, _ in expected})


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-2, 3), min_size=0, max_size=14),
    seed=st.integers(0, 1 << 20),
    levels=st.sampled_from([None, 3, 9]),
    margin=st.sampled_from([0.0, 0.125, 0.3]),
)
def test_miners_on_any_labels(labels, seed, levels, margin):
    d, _ = grid_batch(seed, len(labels), 1, levels)
    labels = torch.tensor(labels, dtype=torch.int64)
    assert hard(d, labels).indices().tolist() == brute_hard(d, labels)
    for fallback in ("easiest", "hardest", "skip"):
        mined = semi_hard(d, labels, margin, fallback).indices().tolist()
        # float32 rounds d + margin; the loops are given the same sum.
        assert sorted(mined) == sorted(brute_semi_hard(d, labels, margin, fallback))
    loss, counts, _ = brute_all(d, labels, margin)
    mined = batch_all(d.double(), labels, margin)
    assert [int(mined.triplets), int(mined.active), int(mined.hard)] == counts
    assert float(mined.loss) == pytest.approx(loss, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("anchors", [[3, 0, 7], [11], []])
def test_a_subset_of_anchors_gives_the_rows_of_the_whole(anchors):
    d, labels = grid_batch(4, 12, 3)
    anchors = torch.tensor(anchors, dtype=torch.int64)
    chosen = set(anchors.tolist())
    for mine, brute in (
        (lambda rows, **more: hard(rows, labels, **more), brute_hard(d, labels)),
        (lambda rows, **more: semi_hard(rows, labels, 0.3, **more), brute_semi_hard(d, labels, 0.3, "easiest")),
    ):
        mined = mine(d[anchors], anchors=anchors).indices(anchors).tolist()
        assert sorted(mined) == sorted(triplet for triplet in brute if triplet[0] in chosen)


def test_blocks_of_rows_change_nothing():
    d, labels = grid_batch(8, 700, 40)  # several blocks of rows
    whole = semi_hard(d, labels, 0.1)
    parts = [
        semi_hard(d[i : i + 1], labels, 0.1, anchors=torch.tensor([i])).indices(torch.tensor([i]))
        for i in (0, 350, 699)
    ]
    rows = whole.indices()
    for part in parts:
        assert torch.equal(part, rows[rows[:, 0] == part[0, 0]])


@pytest.mark.parametrize("width", [0, 1, 5, 16, 17, 40])
@pytest.mark.parametrize("right", [False, True])
def test_intervals_equal_searchsorted(width, right):
    generator = torch.Generator().manual_seed(width)
    thresholds = (torch.randint(12, (6, width), generator=generator) / 4).sort(1).values
    values = torch.randint(12, (6, 50), generator=generator) / 4
    expected = [
        [sum(t < v or (right and t == v) for t in row) for v in cells] for row, cells in zip(thresholds, values)
    ]
    assert sort_into_intervals(thresholds, values, right).tolist() == expected


def test_positive_table_never_pairs_a_sample_with_itself():
    labels = torch.tensor([4, 9, 4, 4, 1, 9])
    table = positive_table(labels)
    for a in range(len(labels)):
        assert table.samples[a][table.valid[a]].tolist() == others(labels, a)[0]


# --- distance-weighted sampling -------------------------------------------------------------------------------------


def density(d, dimensions):
    """Density of the distance between uniform points on the sphere, up to a factor (Wu et al. 2017), from its log."""
    log = (dimensions - 2) * torch.log(d) + (dimensions - 3) / 2 * torch.log1p(-(d**2) / 4)
    return torch.exp(log - log.max())


@pytest.mark.parametrize(("dimensions", "nearest"), [(2, 0.5), (128, 1.24), (512, 1.33), (2048, 1.37)])
def test_draws_are_flat_in_distance(dimensions, nearest):
    """One anchor, negatives on the sphere at distances distributed as on the sphere: the drawn must be uniform.

    They cover [nearest, 1.4): below, a sample of this size holds no point (or too few to stand for a density), so there
    is nothing to draw.
    """
    generator = torch.Generator().manual_seed(dimensions)
    negatives, positives = 5000, 3000
    grid = torch.linspace(nearest, 1.4, 20001, dtype=torch.float64)
    mass = density(grid, dimensions).cumsum(0)
    # Stratified quantiles of the density: as many negatives at a distance as the sphere holds there.
    quantile = (torch.arange(negatives, dtype=torch.float64) + 0.5) / negatives
    d = grid[torch.searchsorted(mass, quantile * mass[-1])]
    assert torch.histc(d, 10, nearest, 1.4).min() > 30
    anchor = torch.nn.functional.normalize(torch.randn(dimensions, generator=generator, dtype=torch.float64), dim=0)
    away = torch.randn(negatives, dimensions, generator=generator, dtype=torch.float64)
    away = torch.nn.functional.normalize(away - (away @ anchor).unsqueeze(1) * anchor, dim=1)
    cosine = (1 - d**2 / 2).unsqueeze(1)
    points = cosine * anchor + (1 - cosine**2).sqrt() * away
    batch = torch.cat([anchor.expand(positives + 1, -1), points]).float()
    labels = torch.cat([torch.zeros(positives + 1), torch.ones(negatives)]).long()
    distances = pairwise_distance(batch[:1], batch)
    mined = distance_weighted(distances, labels, dimensions, generator=generator, anchors=torch.tensor([0]))
    drawn = distances[0, mined.negative[0]].double()
    assert len(drawn) == positives
    bins = 10
    count = torch.histc(drawn, bins, nearest, 1.4)
    chi_square = float(((count - positives / bins) ** 2 / (positives / bins)).sum())
    assert chi_square < 27.9  # 0.999 quantile of chi-square with 9 degrees of freedom


@pytest.mark.parametrize("dimensions", [2, 3, 128, 512, 2048])
def test_draws_follow_the_inverse_density(dimensions):
    """Negatives at ten distances near 1.4: each is drawn in proportion to 1 / density, cut off at both ends."""
    steps = torch.tensor([0.3, 0.45, 0.5, 1.36, 1.37, 1.375, 1.38, 1.39, 1.399, 1.4, 1.6], dtype=torch.float64)
    steps = steps if dimensions <= 3 else steps[3:]  # in high dimensions the nearest takes every draw
    expected = torch.where(steps < 1.4, 1 / density(steps.clamp(min=0.5), dimensions), 0)
    expected = expected / expected.sum()
    draws = 20_000
    labels = torch.cat([torch.zeros(draws + 1), torch.ones(len(steps))]).long()
    row = torch.cat([torch.zeros(draws + 1, dtype=torch.float64), steps]).float().unsqueeze(0)
    mined = distance_weighted(
        row, labels, dimensions, generator=torch.Generator().manual_seed(3), anchors=torch.tensor([0])
    )
    count = torch.bincount(mined.negative[0] - draws - 1, minlength=len(steps)).double()
    assert torch.all(count[expected == 0] == 0)
    likely = expected > 0
    chi_square = float((count - draws * expected)[likely].square().div(draws * expected[likely]).sum())
    assert chi_square < 35  # beyond the 0.9999 quantile for up to 10 cells


def test_one_close_pair_costs_no_other_anchor_its_weights():
    """D = 512, 64 anchors, two negatives of each other at distance 0.3: a maximum over the matrix would drop 62."""
    generator = torch.Generator().manual_seed(0)
    z = l2_normalize(torch.randn(64, 512, generator=generator))
    z[1] = l2_normalize(z[0] + 0.3 * l2_normalize(torch.randn(512, generator=generator)))
    labels = torch.arange(64) % 32
    d = pairwise_distance(z)
    mined = distance_weighted(d, labels, 512, generator=generator)
    assert int(mined.anchors_dropped()) == 0
    drawn = d.gather(1, mined.negative)
    has_weight = ((d < 1.4) & (labels[:, None] != labels)).any(1)
    assert has_weight.sum() > 50
    assert torch.all(drawn[has_weight] < 1.4)  # none of them fell back to an even draw
    assert mined.negative[0, 0] == 1 and mined.negative[1, 0] == 0


def test_fallback_draws_evenly_from_negatives_only():
    """Every negative beyond 1.4: all weights are zero, and the even draw must not touch positives or the anchor."""
    labels = torch.tensor([0] * 4001 + [1, 2, 3, 4])
    d = torch.full((1, len(labels)), 1.5)
    d[0, :4001] = 1.0
    mined = distance_weighted(d, labels, 128, generator=torch.Generator().manual_seed(1), anchors=torch.tensor([0]))
    count = torch.bincount(mined.negative[0] - 4001, minlength=4)
    assert count.sum() == 4000
    assert torch.all((count - 1000).abs() < 4 * math.sqrt(4000 * 0.25 * 0.75))


def test_random_negatives_are_even():
    labels = torch.tensor([0] * 4001 + [1] * 4)
    mined = random_negatives(
        torch.rand(1, len(labels)), labels, generator=torch.Generator().manual_seed(1), anchors=torch.tensor([0])
    )
    count = torch.bincount(mined.negative[0] - 4001, minlength=4)
    assert torch.all((count - 1000).abs() < 4 * math.sqrt(4000 * 0.25 * 0.75))


def test_same_seed_same_draws():
    d, labels = grid_batch(2, 30, 5)
    first, again, other = (
        distance_weighted(d, labels, 8, generator=torch.Generator().manual_seed(seed)).negative for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_refuse_what_has_no_meaning():
    with pytest.raises(ConfigError, match=r"cutoff 0\.5, nonzero_below 2"):
        distance_weights(torch.ones(1), 8, nonzero_below=2.0)
    with pytest.raises(ConfigError, match="1 dimensions"):
        distance_weights(torch.ones(1), 1)


# --- offline --------------------------------------------------------------------------------------------------------


@pytest.fixture
def subset():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(60, 6, generator=generator), torch.randint(5, (60,), generator=generator)


def test_offline_hard_is_the_hard_of_the_subset_inside_the_margin(subset):
    z, labels = subset
    d = pairwise_distance(l2_normalize(z))
    expected = [[a, p, n] for a, p, n in brute_hard(d, labels) if d[a, n] < d[a, p] + 0.2]
    mined = offline_triplets(z, labels, seed=0, strategy="hard")
    assert sorted(mined.tolist()) == expected
    assert mined.tolist() != expected  # in an order of their own


def test_offline_semi_hard_takes_so_many_positives_an_anchor(subset):
    z, labels = subset
    d = pairwise_distance(l2_normalize(z))
    every = brute_semi_hard(d, labels, 0.2, "skip")
    mined = offline_triplets(z, labels, seed=0, strategy="semi-hard", per_anchor=2).tolist()
    assert all(triplet in every for triplet in mined)
    for a in range(len(z)):
        assert sum(t[0] == a for t in mined) == min(2, sum(t[0] == a for t in every))


def test_offline_is_a_function_of_its_seed(subset):
    z, labels = subset
    mine = lambda seed: offline_triplets(z, labels, seed=seed, strategy="semi-hard", limit=20)  # noqa: E731
    assert torch.equal(mine(1), mine(1))
    assert not torch.equal(mine(1), mine(2))
    assert mine(1).shape == (20, 3)


def test_offline_without_a_triplet_is_empty_and_broken_rows_are_named(subset):
    z, labels = subset
    assert offline_triplets(z, torch.arange(60), seed=0).shape == (0, 3)
    assert offline_triplets(z, torch.zeros(60, dtype=torch.int64), seed=0).shape == (0, 3)
    z[13] = torch.nan
    with pytest.raises(ValueError, match=r"1 rows, the first of them \[13\]"):
        offline_triplets(z, labels, seed=0)


def test_unknown_names_and_wrong_labels_are_refused(subset):
    z, labels = subset
    with pytest.raises(ConfigError, match="unknown fallback 'soft'"):
        semi_hard(pairwise_distance(z), labels, 0.1, "soft")
    with pytest.raises(ConfigError, match="unknown strategy 'all'"):
        offline_triplets(z, labels, seed=0, strategy="all")
    with pytest.raises(ConfigError, match="per_anchor and limit must be at least 1"):
        offline_triplets(z, labels, seed=0, per_anchor=0)
    with pytest.raises(TypeError, match=r"torch\.float32, expected int64"):
        check_labels(labels.float(), 60)
    with pytest.raises(ValueError, match=r"shape \(60,\), expected \(59,\)"):
        check_labels(labels, 59)
