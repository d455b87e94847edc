"""Fitted thresholds against a search over all of them, calibration against scikit-learn, and files that come back."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from linear_eval.classify.reliability import expected_calibration_error, reliability
from linear_eval.matching.calibration import Threshold, fit_pair_calibration, fit_threshold, pair_calibration_error
from linear_eval.matching.stored import load_verification, save_verification
from linear_eval.matching.verification import verification
from simclr.errors import CheckpointError, ConfigError, DataError


def blobs(rows: int, width: int, classes: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=generator)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[y] + spread * torch.randn(rows, width, generator=generator), y


def scored(x: torch.Tensor, y: torch.Tensor, distance: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """Similarity (or distance) and sameness of all pairs, in plain float64."""
    pairs = torch.combinations(torch.arange(len(x)), 2)
    a, b = x.double()[pairs[:, 0]], x.double()[pairs[:, 1]]
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    values = cosine if distance == "cosine" else (a - b).norm(dim=1)
    return values.numpy(), (y[pairs[:, 0]] == y[pairs[:, 1]]).numpy()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("criterion", "far"), [("eer", None), ("far", 0.05), ("balanced-accuracy", None)])
def test_threshold_equal_to_a_search_over_all(criterion, far, distance):
    x, y = blobs(90, 6, 6, 0)
    values, same = scored(x, y, distance)
    signed = values if distance == "cosine" else -values
    fitted = fit_threshold(x, y, criterion=criterion, far=far, distance=distance)
    rates = [((signed >= t)[~same].mean(), (signed >= t)[same].mean()) for t in np.unique(signed)]
    if criterion == "eer":
        best = min(rates, key=lambda rate: abs(rate[0] - (1 - rate[1])))
    elif criterion == "far":
        best = max(rate for rate in rates if rate[0] <= far)
    else:
        best = max(rates, key=lambda rate: rate[1] - rate[0])
    assert (fitted.far, fitted.tar) == pytest.approx(best)
    # a hair looser for the criterion "far", whose threshold is itself a score, here rounded once more
    slack = 1e-6 if criterion == "far" else 0.0
    accepted = fitted.same(torch.from_numpy(values + (slack if distance == "cosine" else -slack)))
    assert accepted.numpy()[same].mean() == pytest.approx(fitted.tar)
    assert accepted.numpy()[~same].mean() == pytest.approx(fitted.far)


def test_a_threshold_fitted_on_validation_holds_on_a_test_set():
    fitted = fit_threshold(*blobs(300, 12, 10, 1), criterion="far", far=0.02)
    later = verification(*blobs(300, 12, 10, 2), threshold=fitted.value)
    assert later.threshold_from == "given"
    assert later.far_at_threshold == pytest.approx(0.02, abs=0.01)
    assert later.tar_at_threshold == pytest.approx(fitted.tar, abs=0.06)


def test_nan_is_never_the_same():
    for distance in ("cosine", "euclidean"):
        fitted = fit_threshold(*blobs(60, 4, 4, 3), distance=distance)
        assert not fitted.same(torch.tensor([math.nan])).any()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_calibration_equal_to_scikit_learn_on_the_raw_pairs(distance):
    x, y = blobs(80, 6, 5, 4)
    values, same = scored(x, y, distance)
    theirs = IsotonicRegression(y_min=0, y_max=1, increasing=distance == "cosine", out_of_bounds="clip")
    theirs.fit(values, same)
    ours = fit_pair_calibration(x, y, distance=distance)
    assert ours.prior == pytest.approx(same.mean())
    # between the knots, so that the last bits of a score do not matter
    knots = np.unique(values)
    middles = np.concatenate([[knots[0] - 1], (knots[1:] + knots[:-1]) / 2, [knots[-1] + 1]])
    got = ours.probability(torch.from_numpy(middles)).numpy()
    assert np.abs(got - theirs.predict(middles)).mean() < 1e-4
    assert got.min() >= 0 and got.max() <= 1
    steps = np.diff(got) if distance == "cosine" else -np.diff(got)
    assert (steps >= -1e-12).all()


def test_prior_moves_the_odds():
    x, y = blobs(200, 6, 10, 5, spread=2.5)
    natural, even = fit_pair_calibration(x, y), fit_pair_calibration(x, y, prior=0.5)
    probe = torch.linspace(0.0, 0.6, 7)
    p, q = natural.probability(probe).numpy(), even.probability(probe).numpy()
    inside = (p > 0.01) & (p < 0.9)
    assert inside.sum() >= 3
    # Bayes: the odds change by the ratio of the prior odds, at every similarity
    odds = (1 - natural.prior) / natural.prior
    assert (q / (1 - q))[inside] / (p / (1 - p))[inside] == pytest.approx(np.full(inside.sum(), odds), rel=0.25)


def test_calibration_error_on_pairs_it_was_not_fitted_on():
    fitted = fit_pair_calibration(*blobs(400, 12, 10, 6), prior=0.5)
    x, y = blobs(400, 12, 10, 7)
    assert pair_calibration_error(fitted, *blobs(400, 12, 10, 6)) < 1e-9  # isotonic is calibrated on its own pairs
    assert pair_calibration_error(fitted, x, y) < 0.05
    assert pair_calibration_error(fitted, torch.randn(400, 12), y) > 0.1


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_saved_and_loaded_without_a_change(tmp_path, distance):
    x, y = blobs(70, 5, 4, 8)
    threshold = fit_threshold(x, y, criterion="far", far=0.1, distance=distance)
    calibration = fit_pair_calibration(x, y, distance=distance)
    path = save_verification(tmp_path, threshold, calibration)
    assert path == tmp_path / "verification.json"
    assert [file.name for file in tmp_path.iterdir()] == ["verification.json"]
    assert load_verification(tmp_path) == (threshold, calibration)
    save_verification(tmp_path, threshold)
    assert load_verification(tmp_path) == (threshold, None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: content[: len(content) // 2],
        lambda content: "[]",
        lambda content: content.replace('"format": 1', '"format": 2'),
        lambda content: content.replace('"value"', '"worth"'),
        lambda content: content.replace('"distance": "cosine"', '"distance": "hamming"'),
        lambda content: json.dumps({**json.loads(content), "calibration": {"similarity": [1.0]}}),
        lambda content: json.dumps(
            {
                **json.loads(content),
                "calibration": {"similarity": [1.0, 0.0], "same": [0.0, 1.0], "distance": "cosine", "prior": 0.5},
            }
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = save_verification(tmp_path, fit_threshold(*blobs(40, 4, 3, 9)))
    path.write_text(damage(path.read_text()))
    with pytest.raises(CheckpointError, match=r"verification\.json"):
        load_verification(tmp_path)


def test_missing_files_and_bad_settings_are_named(tmp_path):
    x, y = blobs(40, 4, 3, 10)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_verification(tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        save_verification(tmp_path / "nowhere", fit_threshold(x, y))
    with pytest.raises(ConfigError, match="euclidean"):
        save_verification(tmp_path, fit_threshold(x, y), fit_pair_calibration(x, y, distance="euclidean"))
    with pytest.raises(ConfigError, match="takes a far"):
        fit_threshold(x, y, criterion="far")
    with pytest.raises(ConfigError, match="takes a far"):
        fit_threshold(x, y, far=0.1)
    with pytest.raises(ConfigError, match="unknown criterion"):
        fit_threshold(x, y, criterion="f1")
    with pytest.raises(ConfigError, match="prior"):
        fit_pair_calibration(x, y, prior=1.0)
    with pytest.raises(DataError, match="needs at least 10,000"):
        fit_threshold(x, y, criterion="far", far=1e-4)
    with pytest.raises(DataError, match="got 780 and 0"):
        fit_threshold(x, torch.zeros(40, dtype=torch.int64))


def test_threshold_decides_by_its_distance():
    common = {"criterion": "eer", "wanted_far": None, "far": 0.1, "tar": 0.9, "genuine_pairs": 5, "impostor_pairs": 5}
    values = torch.tensor([0.2, 0.5, 0.9])
    assert Threshold(value=0.5, distance="cosine", **common).same(values).tolist() == [False, True, True]
    assert Threshold(value=0.5, distance="euclidean", **common).same(values).tolist() == [True, True, False]


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_expected_calibration_error_equal_to_a_loop(bins):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.softmax(2 * torch.randn(400, 7, generator=generator), 1)
    labels = torch.randint(7, (400,), generator=generator)
    total = 0.0
    for at in range(bins):
        members = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probabilities.double().tolist(), labels.tolist())
            if at / bins < max(row) <= (at + 1) / bins
        ]
        if members:
            gap = np.mean([right for _, right in members]) - np.mean([sure for sure, _ in members])
            total += len(members) / 400 * abs(gap)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(total, abs=1e-9)
    diagram = reliability(probabilities, labels, bins)
    assert sum(diagram.count) == 400 and diagram.error == pytest.approx(total, abs=1e-9)


def test_perfect_and_worst_calibration():
    sure = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2, 0])) == 0.0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0, 1])) == 1.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.tensor([[3.0, -1.0]]), torch.tensor([0]), "apply softmax"),
        (torch.tensor([[0.5, 0.5], [math.nan, 0.5]]), torch.tensor([0, 0]), "the first is row 1"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), r"integers in \[0, 2\)"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]), r"expected \(N, C\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), r"expected \(N, C\)"),
    ],
)
def test_what_is_not_a_probability_is_refused(probabilities, labels, message):
    with pytest.raises(DataError, match=message):
        expected_calibration_error(probabilities, labels)
    with pytest.raises(ConfigError, match="bins"):
        expected_calibration_error(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), bins=0)
