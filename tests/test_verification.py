"""Verification against scikit-learn, scipy and loops; its intervals against a simulation; its bins against its sort."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

import linear_eval.matching.similarity
from linear_eval.matching.roc import RocCurve, pair_curve
from linear_eval.matching.similarity import prepare
from linear_eval.matching.verification import verification
from linear_eval.metrics import clustered_interval
from simclr.errors import ConfigError, DataError


def blobs(rows: int, width: int, classes: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return centres[y] + spread * torch.randn(rows, width, generator=generator), y


def all_pairs(rows: int) -> torch.Tensor:
    return torch.combinations(torch.arange(rows), 2)


def naive_scores(x: torch.Tensor, pairs: torch.Tensor, distance: str) -> np.ndarray:
    a, b = x.double()[pairs[:, 0]], x.double()[pairs[:, 1]]
    if distance == "euclidean":
        return -(a - b).norm(dim=1).numpy()
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).numpy()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes", "seed"), [(80, 6, 0), (200, 60, 1), (50, 2, 2)])
def test_auc_eer_and_tar_equal_to_scikit_learn(rows, classes, seed, distance):
    x, y = blobs(rows, 8, classes, seed)
    pairs = all_pairs(rows)
    same = (y[pairs[:, 0]] == y[pairs[:, 1]]).numpy()
    scores = naive_scores(x, pairs, distance)
    result = verification(x, y, distance=distance)
    assert result.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-8)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    assert result.eer == pytest.approx(brentq(lambda f: 1 - f - interp1d(far, tar)(f), 0, 1), abs=1e-7)
    for wanted, got in result.tar_at_far.items():
        if got is None:
            assert wanted < 1 / (~same).sum()
        else:
            assert got == pytest.approx(tar[far <= wanted].max(), abs=1e-12)
    assert (result.genuine_pairs, result.impostor_pairs) == (same.sum(), (~same).sum())
    assert result.exact and result.auc_resolution == 0
    for point in result.operating_points:  # the reported threshold gives the reported rates
        if point.threshold is not None:
            sign = 1 if distance == "cosine" else -1
            accepted = scores >= sign * point.threshold - 1e-7 * abs(point.threshold)
            assert accepted[same].mean() == pytest.approx(point.tar)
            assert accepted[~same].sum() == point.false_accepts
    sizes = y.bincount()
    assert result.identities == int((sizes > 1).sum())


def test_on_equal_scores_auc_is_scikit_learns_to_the_last_digits():
    # coarse points: ties between genuine and impostor pairs abound, and their scores are exact in both
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])[torch.arange(40) % 4]
    y = torch.arange(40) % 3
    pairs = all_pairs(40)
    same = (y[pairs[:, 0]] == y[pairs[:, 1]]).numpy()
    assert verification(x, y).auc == pytest.approx(roc_auc_score(same, naive_scores(x, pairs, "cosine")), abs=1e-15)


def test_listed_pairs():
    x, y = blobs(60, 5, 4, 3)
    pairs = all_pairs(60)[torch.randperm(1770, generator=torch.Generator().manual_seed(0))[:500]]
    pairs = torch.cat([pairs, pairs[:20].flip(1)])  # repeated, and turned round: both are counted
    same = (y[pairs[:, 0]] == y[pairs[:, 1]]).numpy()
    result = verification(x, y, pairs)
    assert result.auc == pytest.approx(roc_auc_score(same, naive_scores(x, pairs, "cosine")), abs=1e-8)
    assert result.genuine_pairs + result.impostor_pairs == 520
    everything = verification(x, y, all_pairs(60))
    assert everything == verification(x, y)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_bins_agree_with_sorting(distance, monkeypatch):
    monkeypatch.setattr(
        linear_eval.matching.similarity, "CHUNK_BYTES", 8 * 300 * 37
    )  # several blocks, the last one partial
    x, y = blobs(300, 8, 10, 4)
    x[5] = x[6]  # distance zero, and similarity one
    x[7] = -x[8]
    embeddings = prepare(x, y, distance)
    exact, binned = pair_curve(embeddings), pair_curve(embeddings, exact_pairs=0)
    assert exact.exact and not binned.exact
    assert (binned.genuine_pairs, binned.impostor_pairs) == (exact.genuine_pairs, exact.impostor_pairs)
    assert 0 < binned.auc_resolution() < 1e-3
    assert abs(binned.auc() - exact.auc()) <= binned.auc_resolution() + 1e-12
    assert binned.eer()[0] == pytest.approx(exact.eer()[0], abs=1e-3)
    # every edge of a bin is a true operating point: the sorted scores give the same counts there
    for at in np.linspace(0, len(binned.scores) - 1, 50).astype(int):
        index = exact.index_at_score(float(binned.scores[at]))
        assert (exact.genuine[index], exact.impostor[index]) == (binned.genuine[at], binned.impostor[at])


def test_binned_intervals_use_the_same_thresholds(monkeypatch):
    x, y = blobs(200, 8, 10, 5)
    exact = verification(x, y)
    module = sys.modules[verification.__module__]  # linear_eval.verification, as a name, is the function
    monkeypatch.setattr(module, "pair_curve", lambda e, p: pair_curve(e, p, exact_pairs=0))
    binned = verification(x, y)
    assert not binned.exact
    for one, other in zip(exact.operating_points[:3], binned.operating_points[:3], strict=True):
        assert one.tar == pytest.approx(other.tar, abs=2e-3)
        assert one.interval == pytest.approx(other.interval, abs=5e-3)


def test_a_far_below_one_impostor_pair_is_not_invented():
    x, y = blobs(20, 4, 3, 6)
    result = verification(x, y, fars=(0.1, 1e-4))
    assert result.tar_at_far[1e-4] is None
    point = result.operating_points[1]
    assert point.tar is point.threshold is point.interval is None
    assert f"there are {result.impostor_pairs}" in point.note and "10,000" in point.note
    exactly = verification(x, y, fars=(1 / result.impostor_pairs,)).operating_points[0]
    assert exactly.tar is not None and exactly.false_accepts <= 1


def test_no_false_accept_allowed_where_the_best_pairs_tie():
    # four of six impostor pairs are exact duplicates: no threshold accepts 1 and rejects the others
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    result = verification(x, torch.tensor([0, 0, 1, 1, 0]), fars=(0.3,))
    point = result.operating_points[0]
    assert (point.tar, point.far, point.false_accepts) == (0.0, 0.0, 0)
    assert point.threshold > 1.0


def test_a_collapsed_encoder_is_at_chance():
    result = verification(torch.full((30, 16), 0.7), torch.arange(30) % 5)
    assert result.auc == 0.5
    assert result.eer == pytest.approx(0.5)
    assert result.tar_at_far[0.1] == 0.0


def test_perfect_separation():
    x = torch.eye(4).repeat_interleave(5, 0)
    result = verification(x, torch.arange(4).repeat_interleave(5))
    assert (result.auc, result.eer, result.tar_at_far[0.01]) == (1.0, 0.0, 1.0)
    assert 0.0 < result.threshold < 1.0  # halfway between the two kinds
    assert (result.tar_at_threshold, result.far_at_threshold) == (1.0, 0.0)


def test_a_given_threshold_is_applied():
    x, y = blobs(60, 5, 4, 7)
    pairs = all_pairs(60)
    same = (y[pairs[:, 0]] == y[pairs[:, 1]]).numpy()
    for distance, threshold in (("cosine", 0.25), ("euclidean", 3.0)):
        accepted = naive_scores(x, pairs, distance) >= (threshold if distance == "cosine" else -threshold)
        result = verification(x, y, threshold=threshold, distance=distance)
        assert (result.threshold, result.threshold_from) == (threshold, "given")
        assert result.tar_at_threshold == pytest.approx(accepted[same].mean())
        assert result.far_at_threshold == pytest.approx(accepted[~same].mean())
    assert verification(x, y, threshold=1.1).tar_at_threshold == 0.0
    assert verification(x, y, threshold=-1.1).far_at_threshold == 1.0


def test_stored_roc_holds_true_points_and_both_ends():
    x, y = blobs(300, 8, 12, 8)
    curve, result = pair_curve(prepare(x, y)), verification(x, y)
    known = set(zip(curve.far.tolist(), curve.tar.tolist())) | {(0.0, 0.0)}
    stored = list(zip(result.roc_far, result.roc_tar))
    assert set(stored) <= known
    assert stored[0] == (0.0, 0.0) and stored[-1] == (1.0, 1.0)
    assert 100 < len(stored) < 400
    assert float(np.trapezoid(result.roc_tar, result.roc_far)) == pytest.approx(result.auc, abs=2e-3)


def test_result_is_json():
    x, y = blobs(40, 5, 4, 9)
    stored = json.loads(json.dumps(verification(x, y).as_dict(), allow_nan=False))
    assert stored["tar_at_far"]["0.0001"] is None
    assert sum(stored["histogram"]["genuine"]) == stored["genuine_pairs"]
    assert sum(stored["histogram"]["impostor"]) == stored["impostor_pairs"]


def test_interval_over_classes_covers_and_one_over_pairs_does_not():
    # Classes differ in how easy they are: their TARs are drawn from a beta distribution with mean 0.8.
    # The question is the mean over classes; 24 classes of 45 pairs each answer it.
    generator, truth, covered, naive = np.random.default_rng(0), 0.8, 0, 0
    for _ in range(1000):
        accepted = generator.binomial(45, generator.beta(8, 2, size=24))
        low, high = clustered_interval(accepted, np.full(24, 45), units=240)
        covered += low <= truth <= high
        share = accepted.sum() / (24 * 45)
        half = 1.96 * math.sqrt(share * (1 - share) / (24 * 45))
        naive += abs(share - truth) <= half
    assert 930 <= covered <= 990  # 0.95 within the simulation's own error, conservative allowed
    assert naive < 700  # the reason for the whole construction


def test_interval_of_a_perfect_score_is_as_wide_as_the_images_allow():
    low, high = clustered_interval(np.full(50, 45), np.full(50, 45), units=500)
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 500), abs=1e-3)  # Clopper-Pearson of 500 of 500
    assert clustered_interval(np.array([3]), np.array([4]), units=5) is None


def test_intervals_of_the_result_come_from_the_classes():
    x, y = blobs(120, 6, 8, 10)
    point = verification(x, y).operating_points[0]
    pairs = all_pairs(120)
    scores, same = naive_scores(x, pairs, "cosine"), (y[pairs[:, 0]] == y[pairs[:, 1]]).numpy()
    label = y[pairs[:, 0]].numpy()
    trials = np.array([(same & (label == c)).sum() for c in range(8)])
    accepted = np.array([(same & (label == c) & (scores >= point.threshold - 1e-9)).sum() for c in range(8)])
    assert accepted.sum() / trials.sum() == pytest.approx(point.tar)
    assert point.interval == pytest.approx(clustered_interval(accepted, trials, units=120))
    assert point.interval[0] < point.tar < point.interval[1]
    listed = verification(x, y, pairs).operating_points[0]
    assert listed.interval == point.interval


def test_one_class_with_a_genuine_pair_has_no_interval():
    result = verification(torch.randn(12, 3), torch.tensor([0, 0, *range(1, 11)]))
    assert result.identities == 1
    assert result.operating_points[0].interval is None and "one class" in result.operating_points[0].note


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), "empty"),
        (torch.randn(1, 4), torch.tensor([0]), "got 0 and 0"),
        (torch.randn(5, 4), torch.arange(5), "got 0 and 10"),
        (torch.randn(5, 4), torch.zeros(5, dtype=torch.int64), "got 10 and 0"),
        (torch.tensor([[1.0], [math.nan]]), torch.zeros(2, dtype=torch.int64), "not finite: 1"),
    ],
)
def test_bad_data_is_named(x, y, message):
    with pytest.raises(DataError, match=message):
        verification(x, y)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([[0, 1], [2, 2]]), "compare a row with itself, the first is pair 1"),
        (torch.tensor([[0, 1], [0, 9]]), r"pair 1 is \[0, 9\], but there are rows 0..5"),
        (torch.tensor([[0, -1]]), "rows 0..5"),
        (torch.tensor([0, 1]), r"integers \(P, 2\)"),
        (torch.tensor([[0.0, 1.0]]), r"integers \(P, 2\)"),
        (torch.zeros(0, 2, dtype=torch.int64), "got 0 and 0"),
    ],
)
def test_bad_pairs_are_named(pairs, message):
    with pytest.raises(DataError, match=message):
        verification(torch.randn(6, 3), torch.arange(6) % 2, pairs)


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        verification(torch.randn(6, 3), torch.arange(6) % 2, fars=(1.0,))
    with pytest.raises(ConfigError, match="hamming"):
        verification(torch.randn(6, 3), torch.arange(6) % 2, distance="hamming")


def test_eer_between_two_operating_points():
    # FAR 0.2, FRR 0.4 then FAR 0.4, FRR 0.2: the lines cross at 0.3
    curve = RocCurve.from_counts(np.array([0.9, 0.5, 0.1]), np.array([3, 1, 1]), np.array([1, 1, 3]), exact=True)
    assert curve.eer()[0] == pytest.approx(0.3)
