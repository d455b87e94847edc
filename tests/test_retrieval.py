"""Retrieval against float64 loops, pytorch-metric-learning and scikit-learn, and on the inputs that break others."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

import linear_eval.matching.similarity
from linear_eval.matching.retrieval import map_at_r, nmi, r_precision, recall_at_k, retrieval
from linear_eval.matching.similarity import block_scores, pair_scores, prepare, rank_keys
from linear_eval.metrics import bootstrap_interval, interval_over_classes
from simclr.errors import ConfigError, DataError


def blobs(rows: int, width: int, classes: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return centres[y] + spread * torch.randn(rows, width, generator=generator), y


def brute_force(x, y, ks, gallery_x=None, gallery_y=None, distance="cosine"):
    """Textbook definitions, one query at a time. Ties: the lower row first."""
    itself = gallery_x is None
    queries = x.double().numpy()
    gallery = queries if itself else gallery_x.double().numpy()
    labels, gallery_labels = y.tolist(), (y if itself else gallery_y).tolist()
    hits, r_precisions, average_precisions, excluded = dict.fromkeys(ks, 0), [], [], 0
    for i, query in enumerate(queries):
        if distance == "cosine":
            lengths = np.linalg.norm(gallery, axis=1) * np.linalg.norm(query)
            far = [1.0 - round(float(g @ query) / length, 9) if length else 1.0 for g, length in zip(gallery, lengths)]
        else:
            far = [round(float(np.sqrt(((g - query) ** 2).sum())), 9) for g in gallery]
        order = [j for j in sorted(range(len(gallery)), key=lambda j: (far[j], j)) if not (itself and j == i)]
        right = [gallery_labels[j] == labels[i] for j in order]
        relevant = sum(right)
        if relevant == 0:
            excluded += 1
            continue
        for k in ks:
            hits[k] += any(right[:k])
        r_precisions.append(sum(right[:relevant]) / relevant)
        average_precisions.append(
            math.fsum(sum(right[: p + 1]) / (p + 1) for p in range(relevant) if right[p]) / relevant
        )
    count = len(r_precisions)
    return {k: hit / count for k, hit in hits.items()}, np.mean(r_precisions), np.mean(average_precisions), excluded


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes", "seed"), [(60, 5, 0), (120, 40, 1), (90, 2, 2)])
def test_equal_to_brute_force(rows, classes, seed, distance):
    x, y = blobs(rows, 6, classes, seed)
    result = retrieval(x, y, ks=(1, 2, 4, 8), distance=distance)
    recalls, precision, average, excluded = brute_force(x, y, (1, 2, 4, 8), distance=distance)
    assert result.recall_at_k == pytest.approx(recalls, abs=1e-12)
    assert result.r_precision == pytest.approx(precision, abs=1e-12)
    assert result.map_at_r == pytest.approx(average, abs=1e-12)
    assert (result.excluded, result.queries) == (excluded, rows - excluded)
    assert recall_at_k(x, y, distance=distance) == result.recall_at_k
    assert map_at_r(x, y, distance=distance) == result.map_at_r
    assert r_precision(x, y, distance=distance) == result.r_precision


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_separate_gallery_equal_to_brute_force(distance):
    x, y = blobs(40, 5, 6, 3)
    gallery_x, gallery_y = blobs(70, 5, 5, 3)  # class 5 is asked for and not there
    gallery_x[:10] = x[:10]  # equal to a query, and yet another image
    result = retrieval(x, y, (1, 3), gallery_x=gallery_x, gallery_y=gallery_y, distance=distance)
    recalls, precision, average, excluded = brute_force(x, y, (1, 3), gallery_x, gallery_y, distance)
    assert excluded > 0 and result.excluded == excluded and result.gallery == 70
    assert result.recall_at_k == pytest.approx(recalls, abs=1e-12)
    assert (result.r_precision, result.map_at_r) == pytest.approx((precision, average), abs=1e-12)


def test_equal_to_pytorch_metric_learning():
    x, y = blobs(300, 16, 12, 4, spread=2.0)
    x = torch.nn.functional.normalize(x)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
    )
    theirs = calculator.get_accuracy(x, y)
    assert recall_at_k(x, y, ks=(1,))[1] == pytest.approx(theirs["precision_at_1"], abs=1e-6)
    assert r_precision(x, y) == pytest.approx(theirs["r_precision"], abs=1e-6)
    assert map_at_r(x, y) == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)


def test_map_at_r_by_hand():
    # one query with R = 10 relevant rows; 1 + 2/10 of 10 for the first and the tenth right, and so on
    def map_of(right):  # a gallery whose neighbours of the query come in the given order
        angle = torch.linspace(0.01, 1.5, len(right) + 1)[1:]
        gallery = torch.stack([angle.cos(), angle.sin()], 1)
        return map_at_r(
            torch.tensor([[1.0, 0.0]]),
            torch.tensor([1]),
            gallery_x=gallery,
            gallery_y=torch.tensor(right),
        )

    rest = [0] * 90 + [1] * 9
    assert map_of([1, *[0] * 9, *rest]) == pytest.approx(0.1)
    assert map_of([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, *rest[:90], *[1] * 8]) == pytest.approx(0.12)
    assert map_of([1] * 2 + [0] * 8 + [0] * 90 + [1] * 8) == pytest.approx(0.2)
    assert map_of([1] * 10 + [0] * 90) == pytest.approx(1.0)


def test_an_exact_duplicate_counts_and_the_query_itself_does_not():
    x = torch.tensor([[3.0, 1.0, 2.0]] * 4 + [[-1.0, 0.2, 0.1]] * 2)
    # every row has a twin; rows 0 and 3 are of class 0, rows 1 and 2 of class 1: ties go to the lower row
    y = torch.tensor([0, 1, 1, 0, 2, 2])
    for distance in ("cosine", "euclidean"):
        result = retrieval(x, y, (1, 2, 3), distance=distance)
        # row 0 meets 1, 2, 3; row 1 meets 0, 2, 3; row 2 meets 0, 1, 3; row 3 meets 0, 1, 2; rows 4 and 5 each other
        assert result.recall_at_k == pytest.approx({1: 3 / 6, 2: 5 / 6, 3: 1.0})


def test_ties_do_not_depend_on_the_chunk_size(monkeypatch):
    x, y = blobs(200, 64, 20, 5)
    x = x.repeat(3, 1) * torch.tensor([1.0, 3.7, 0.1]).repeat_interleave(200)[:, None]  # parallel, not equal
    y = torch.cat([y, y.flip(0), y])
    expected = retrieval(x, y)
    for size in (8, 2**13, 2**16):
        monkeypatch.setattr(linear_eval.matching.similarity, "CHUNK_BYTES", size)
        monkeypatch.setattr(sys.modules[retrieval.__module__], "CHUNK_BYTES", size)
        assert retrieval(x, y) == expected


def test_a_collapsed_encoder_scores_like_an_arbitrary_order():
    y = torch.arange(10).repeat_interleave(10)
    result = retrieval(torch.full((100, 8), 0.3), y, (1,))
    # everybody retrieves row 0 (and row 0 retrieves row 1), so only the ten images of class 0 are right
    assert result.recall_at_k[1] == pytest.approx(0.1)
    assert result.r_precision == pytest.approx(0.1)


def test_singletons_are_excluded_and_counted():
    x, y = blobs(30, 4, 3, 6)
    lonely = torch.cat([y, torch.tensor([100, 101])])
    with_lonely = retrieval(torch.cat([x, torch.randn(2, 4) * 1e-3]), lonely)
    assert (with_lonely.queries, with_lonely.excluded) == (30, 2)


def test_k_beyond_the_gallery_looks_at_all_of_it():
    x, y = blobs(12, 3, 2, 7)
    assert recall_at_k(x, y, ks=(1, 1000))[1000] == 1.0


def test_labels_above_2_to_24_stay_apart():
    x = torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [0.01, 0.99]])
    y = torch.tensor([2**40, 2**40 + 1, 2**40, 2**40 + 1])  # as float32 all four are equal
    assert recall_at_k(x, y, ks=(1,)) == {1: 0.0}


def test_half_precision_and_zero_rows_are_scored():
    x, y = blobs(40, 8, 4, 8, spread=0.2)
    assert recall_at_k(x.bfloat16(), y, ks=(1,))[1] == pytest.approx(1.0)
    x[3] = 0
    assert recall_at_k(x, y, ks=(1,))[1] >= 0.95


@given(st.integers(2, 24), st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_property_equal_to_brute_force_on_coarse_points(rows, classes, seed):
    # coordinates from {-1, 0, 1}: zero rows, duplicates and ties abound
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (rows, 3), generator=generator).float()
    y = torch.randint(classes, (rows,), generator=generator)
    if y.unique(return_counts=True)[1].max() < 2:
        with pytest.raises(DataError, match="none of the"):
            retrieval(x, y)
        return
    for distance in ("cosine", "euclidean"):
        result = retrieval(x, y, (1, 2), distance=distance)
        recalls, precision, average, excluded = brute_force(x, y, (1, 2), distance=distance)
        assert result.recall_at_k == pytest.approx(recalls, abs=1e-12)
        assert (result.r_precision, result.map_at_r) == pytest.approx((precision, average), abs=1e-12)
        assert result.excluded == excluded


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_pair_scores_are_the_entries_of_the_block(distance):
    x, y = blobs(50, 33, 4, 9)
    x[7] = x[9]
    embeddings = prepare(x, y, distance)
    block = block_scores(embeddings.rows, embeddings.rows, distance)
    pairs = torch.cartesian_prod(torch.arange(50), torch.arange(50))
    assert torch.equal(pair_scores(embeddings, pairs).view(50, 50), block)
    assert torch.equal(block[7], block[9])
    keys = rank_keys(block.clone(), distance)
    assert torch.equal(keys.argsort(dim=1, descending=True), block.argsort(dim=1, descending=True, stable=True))


def test_nmi_of_separate_blobs_is_one_and_of_noise_is_low():
    x, y = blobs(200, 8, 5, 10, spread=0.01)
    assert nmi(x, y) == pytest.approx(1.0)
    noise = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    assert nmi(noise, y) < 0.15
    assert nmi(noise, y, seed=1) == nmi(noise, y, seed=1)


def test_nmi_of_a_collapsed_encoder_is_zero():
    assert nmi(torch.ones(20, 4), torch.arange(20) % 4) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), "empty"),
        (torch.randn(1, 4), torch.tensor([0]), "none of the 1 queries"),
        (torch.randn(5, 4), torch.arange(5), "none of the 5 queries"),
        (torch.randn(5, 4), torch.zeros(4, dtype=torch.int64), "5 rows but 4 labels"),
        (torch.randn(5, 4), torch.zeros(5), "must be integers"),
        (torch.randn(5, 4), torch.tensor([0, 0, -1, 1, -1]), "2 of 5 labels of x are below 0"),
        (torch.randn(5), torch.zeros(5, dtype=torch.int64), "matrix"),
        (torch.ones(5, 4, dtype=torch.int64), torch.zeros(5, dtype=torch.int64), "floating-point"),
        (torch.tensor([[1.0], [math.nan], [1.0], [math.inf]]), torch.zeros(4, dtype=torch.int64), "not finite: 1, 3"),
    ],
)
def test_bad_data_is_named(x, y, message):
    for score in (recall_at_k, map_at_r, r_precision):
        with pytest.raises(DataError, match=message):
            score(x, y)


def test_bad_settings_are_named():
    x, y = blobs(10, 3, 2, 11)
    with pytest.raises(ConfigError, match="positive"):
        recall_at_k(x, y, ks=(0, 1))
    with pytest.raises(ConfigError, match="manhattan"):
        map_at_r(x, y, distance="manhattan")
    with pytest.raises(ConfigError, match="gallery_x was given without gallery_y"):
        recall_at_k(x, y, gallery_x=x)
    with pytest.raises(DataError, match="3 features but the gallery has 2"):
        recall_at_k(x, y, gallery_x=x[:, :2], gallery_y=y)
    with pytest.raises(DataError, match="two classes"):
        nmi(x, torch.zeros(10, dtype=torch.int64))


def test_a_single_class_is_always_right():
    assert retrieval(torch.randn(9, 3), torch.zeros(9, dtype=torch.int64)).map_at_r == 1.0


def test_intervals_cover_new_classes_and_not_only_new_images():
    """The mean over all classes lies inside in about 95 of 100 draws of eight classes; an interval over images misses it."""
    generator = torch.Generator().manual_seed(0)
    shares = 0.2 + 0.6 * torch.rand(400, generator=generator, dtype=torch.float64)  # of right answers, class by class
    inside = of_images = 0
    for _ in range(200):
        some = torch.randperm(400, generator=generator)[:8]
        right = (torch.rand(8, 50, generator=generator, dtype=torch.float64) < shares[some, None]).flatten()
        low, high = interval_over_classes(right, torch.arange(8).repeat_interleave(50))
        inside += bool(low <= shares.mean() <= high)
        low, high = bootstrap_interval(right, resamples=1000)
        of_images += bool(low <= shares.mean() <= high)
    assert inside >= 0.9 * 200 > 0.7 * 200 > of_images


def test_every_figure_has_an_interval_around_it():
    x, y = blobs(300, 8, 6, seed=1, spread=1.5)
    result = retrieval(x, y, ks=(1, 4))
    figures = {"recall_at_1": result.recall_at_k[1], "recall_at_4": result.recall_at_k[4]}
    figures |= {"r_precision": result.r_precision, "map_at_r": result.map_at_r}
    assert result.intervals.keys() == figures.keys()
    for name, (low, high) in result.intervals.items():
        assert 0 <= low < figures[name] < high <= 1
    two = retrieval(x, torch.zeros_like(y), ks=(1,))
    assert set(two.intervals.values()) == {None}
