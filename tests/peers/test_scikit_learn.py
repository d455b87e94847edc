"""Classifiers, neighbours, curves, weights of classes and distances beside scikit-learn's."""

from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_alike, embeddings
from sklearn import linear_model, metrics, neighbors
from sklearn.decomposition import PCA
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from linear_eval import fit_pair_calibration, knn_predictions, nmi, verification
from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.ridge import ALPHAS, error_figures, ridge_predictions
from linear_eval.features.arrays import as_features
from linear_eval.features.rows import Rows, column_statistics
from linear_eval.reports.embeddings import pca_map
from simclr.distances import pairwise_distance
from simclr.losses import CrossEntropyConfig, CrossEntropyLoss


def groups(rows: int, classes: int, seed: int = 0, dim: int = 6) -> tuple[Tensor, Tensor]:
    y = torch.arange(rows) % classes
    return embeddings(classes, dim, seed + 1)[y] + 0.8 * embeddings(rows, dim, seed + 2), y


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression(weighted: bool, classes: int, strength: float) -> None:
    x, y = groups(150, classes)
    x = (x - x.mean(0)) / x.std(0)
    weight = torch.rand(150, generator=torch.Generator().manual_seed(7)) + 0.5 if weighted else torch.ones(150)
    ours = fit_logistic(
        Rows(x.float()), y, classes, torch.tensor([strength]).double(), sample_weight=weight, tolerance=1e-9
    )
    c = (2 if classes == 2 else 1) / (strength * float(weight.sum()))  # of two classes theirs is the difference of ours
    model = linear_model.LogisticRegression(C=c, tol=1e-9, max_iter=20_000).fit(x.numpy(), y.numpy(), weight.numpy())
    logits = x @ ours.weight[0].double().T + ours.bias[0].double()
    shares = torch.softmax(logits, 1)
    np.testing.assert_allclose(shares, model.predict_proba(x.numpy()), atol=2e-3)
    assert ours.converged.all()


@pytest.mark.parametrize("metric", ["accuracy", "predictions"])
@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_neighbours(temperature: float, k: int, metric: str) -> None:
    (x, y), (queries, truth) = groups(120, 4), groups(50, 4, 8)
    model = neighbors.KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    )
    model.fit(x.float().double().numpy(), y.numpy())
    found = knn_predictions((x, y), (queries, truth), k, temperature)
    if metric == "accuracy":
        assert (found == truth).double().mean().item() == model.score(queries.float().double().numpy(), truth.numpy())
    else:
        assert found.tolist() == model.predict(queries.float().double().numpy()).tolist()


@pytest.mark.parametrize("rows", [9, 14])
def test_ridge_regression(rows: int) -> None:
    (x, _), (queries, _) = groups(rows, 3), groups(40, 3, 8)
    target = (x[:, 0] - 2 * x[:, 1]).numpy() + np.random.default_rng(0).normal(size=rows)
    train, test = (as_features((one, torch.zeros(len(one))), "training") for one in (x, queries))
    found, strength = ridge_predictions(train, target, test)
    mean, scale = (part.double().numpy() for part in column_statistics(train.x))
    fitted, asked = (train.x.double().numpy() - mean) / scale, (test.x.double().numpy() - mean) / scale
    errors = []  # every image left out in turn
    for alpha in ALPHAS:
        left = [np.arange(rows) != i for i in range(rows)]
        guesses = [linear_model.Ridge(alpha).fit(fitted[rest], target[rest]).predict(fitted[~rest])[0] for rest in left]
        errors.append(np.square(np.array(guesses) - target).sum())
    # theirs centres the columns of the rest anew, so that strengths of nearly one error may change places
    assert errors[ALPHAS.index(strength)] <= 1.02 * min(errors)
    np.testing.assert_allclose(found, linear_model.Ridge(strength).fit(fitted, target).predict(asked), atol=1e-8)
    figures = error_figures(found, asked[:, 0], resamples=10)
    assert figures["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(asked[:, 0], found))
    assert figures["r_squared"] == pytest.approx(metrics.r2_score(asked[:, 0], found))


def pairs_of(x: Tensor, y: Tensor, distance: str) -> tuple[np.ndarray, np.ndarray]:
    if distance == "cosine":
        scores = metrics.pairwise.cosine_similarity(x.numpy())
    else:
        scores = -metrics.pairwise.euclidean_distances(x.numpy())
    upper = np.triu_indices(len(x), 1)
    return scores[upper], (y[:, None] == y).numpy()[upper]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes"), [(30, 3), (60, 12), (90, 5)])
def test_roc_and_eer(rows: int, classes: int, distance: Any) -> None:
    x, y = groups(rows, classes)
    scores, same = pairs_of(x, y, distance)
    found = verification(x, y, distance=distance, fars=(0.01, 0.1, 0.5))
    assert found.auc == pytest.approx(metrics.roc_auc_score(same, scores), abs=1e-6)
    far, tar, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    for wanted, share in found.tar_at_far.items():
        assert share == pytest.approx(tar[far <= wanted].max())
    wrong, missed, _ = metrics.det_curve(same, scores)
    at = np.argmin(np.abs(wrong - missed))
    assert found.eer == pytest.approx((wrong[at] + missed[at]) / 2, abs=1 / same.sum() + 1 / (~same).sum())


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_calibration_of_pairs(distance: Any) -> None:
    x, y = groups(60, 5)
    scores, same = pairs_of(x, y, distance)
    model = IsotonicRegression(y_min=0, y_max=1, increasing=True, out_of_bounds="clip").fit(scores, same)
    found = fit_pair_calibration(x, y, distance=distance)
    values = scores if distance == "cosine" else -scores
    # Between the knots; ours of scores that are rounded, see linear_eval/matching/similarity.py
    np.testing.assert_allclose(found.probability(values), model.predict(scores), atol=2e-4)


@pytest.mark.parametrize("counts", [(5, 5, 5), (1, 10, 100), (7, 2)])
def test_balanced_class_weights(counts: tuple[int, ...]) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    fitted = CrossEntropyConfig(class_weights="balanced").fitted(labels, len(counts))
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels.numpy())
    np.testing.assert_allclose(fitted.class_weights, expected)


@pytest.mark.parametrize("classes", [2, 6])
def test_cross_entropy_is_their_log_loss(classes: int) -> None:
    ours, labels, z = CrossEntropyLoss(classes, 5).double(), torch.arange(12) % classes, embeddings(12, 5)
    shares = torch.softmax(ours.scores(z), 1).detach().numpy()
    expected = metrics.log_loss(labels.numpy(), shares, labels=list(range(classes)))
    assert ours(z, labels).item() == pytest.approx(expected, rel=1e-9)
    assert_alike(lambda z: ours(z, labels), lambda z: torch.nn.functional.cross_entropy(ours.scores(z), labels), z)


@pytest.mark.parametrize("dim", [2, 40])
@pytest.mark.parametrize(
    ("kind", "theirs"),
    [("euclidean", "euclidean"), ("squared", "sqeuclidean"), ("manhattan", "manhattan"), ("cosine", "cosine")],
)
def test_distances(kind: Any, theirs: str, dim: int) -> None:
    x, y = embeddings(9, dim), embeddings(7, dim, seed=1)
    expected = metrics.pairwise_distances(x.numpy(), y.numpy(), metric=theirs)
    np.testing.assert_allclose(pairwise_distance(x, y, kind), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [3, 7])
def test_clusters(classes: int) -> None:
    from sklearn.cluster import KMeans

    x, y = groups(84, classes)
    rows = (x / x.norm(dim=1, keepdim=True)).float().numpy()
    clusters = KMeans(classes, n_init=4, random_state=3).fit_predict(rows)
    assert nmi(x, y, seed=3) == pytest.approx(metrics.normalized_mutual_info_score(y.numpy(), clusters))


@pytest.mark.parametrize("rows", [10, 100])
def test_principal_components(rows: int) -> None:
    x, _ = groups(rows, 3)
    x = x / x.norm(dim=1, keepdim=True)
    found, shares = pca_map(x.float())
    model = PCA(2).fit(x.numpy())
    expected = model.transform(x.numpy())
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(shares, model.explained_variance_ratio_, rtol=1e-4)
