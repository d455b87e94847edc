"""Retrieval, verification, calibration, accuracies and distances beside those of torchmetrics."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agreement import embeddings
from torch import Tensor

from linear_eval import (
    expected_calibration_error,
    linear_probe,
    nmi,
    r_precision,
    recall_at_k,
    reliability,
    verification,
)
from linear_eval.classify.ridge import error_figures
from simclr.distances import pairwise_distance

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: pip install -e '.[test]'")
import torchmetrics.functional as theirs
import torchmetrics.functional.classification as of_classes
from torchmetrics.functional.clustering import normalized_mutual_info_score
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRPrecision

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def groups(rows: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    y = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    return embeddings(classes, 8, seed + 1)[y] + 0.8 * embeddings(rows, 8, seed + 2), y


def searches(x: Tensor, y: Tensor, distance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, right or wrong, and number of the query, of every query with every other row."""
    scores = F.normalize(x) @ F.normalize(x).T if distance == "cosine" else -torch.cdist(x, x)
    others = ~torch.eye(len(x), dtype=torch.bool)
    queries = torch.arange(len(x))[:, None].expand(-1, len(x))
    return scores[others], (y[:, None] == y)[others], queries[others]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes"), [(40, 4), (80, 20)])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_recall_at_k_is_their_hit_rate(k: int, rows: int, classes: int, distance: Any) -> None:
    x, y = groups(rows, classes)
    metric = RetrievalHitRate(empty_target_action="skip", top_k=k)
    expected = metric(*(searches(x, y, distance)[i] for i in (0, 1)), indexes=searches(x, y, distance)[2])
    assert recall_at_k(x, y, (k,), distance=distance)[k] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes"), [(40, 4), (80, 20)])
def test_r_precision(rows: int, classes: int, distance: Any) -> None:
    x, y = groups(rows, classes)
    scores, right, queries = searches(x, y, distance)
    expected = RetrievalRPrecision(empty_target_action="skip")(scores, right, indexes=queries)
    assert r_precision(x, y, distance=distance) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes"), [(30, 3), (50, 12), (90, 5)])
def test_roc_of_all_pairs(rows: int, classes: int, distance: Any) -> None:
    x, y = groups(rows, classes)
    scores, right, _ = searches(x, y, distance)
    shares = (scores - scores.min()) / (scores.max() - scores.min())  # else theirs takes a sigmoid, which makes ties
    found = verification(x, y, distance=distance, fars=(0.1,))
    assert found.auc == pytest.approx(float(of_classes.binary_auroc(shares, right.long())), abs=1e-6)
    assert found.eer == pytest.approx(float(of_classes.binary_eer(shares, right.long())), abs=2 / int(right.sum()))
    far, tar, _ = of_classes.binary_roc(shares, right.long())
    assert found.tar_at_far[0.1] == pytest.approx(float(tar[far <= 0.1].max()), abs=1e-6)


@pytest.mark.parametrize("bins", [5, 15, 40])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_calibration_error(classes: int, bins: int) -> None:
    shares = torch.softmax(2 * embeddings(300, classes), 1)
    labels = torch.randint(classes, (300,), generator=torch.Generator().manual_seed(1))
    expected = of_classes.multiclass_calibration_error(shares, labels, classes, n_bins=bins, norm="l1")
    assert expected_calibration_error(shares, labels, bins) == pytest.approx(float(expected), abs=1e-6)
    assert sum(reliability(shares, labels, bins).count) == 300


@pytest.mark.parametrize("classes", [2, 5])
def test_accuracies_of_a_probe(classes: int) -> None:
    (x, y), (other, truth) = groups(200, classes), groups(150, classes, 5)
    found = linear_probe((x, y), (other, truth), (0.1,), resamples=10)
    guess, labels = found.predictions, [int(label) for label in found.classes]
    assert labels == list(range(classes))
    given: Any = {"num_classes": classes, "average": None}
    assert found.accuracy == pytest.approx(float(of_classes.multiclass_accuracy(guess, truth, classes, "micro")))
    np.testing.assert_allclose(found.per_class, of_classes.multiclass_recall(guess, truth, **given), atol=1e-6)
    precision = [
        0.0 if one is None else one for one in found.score().precision
    ]  # of a class that nothing was taken for
    np.testing.assert_allclose(precision, of_classes.multiclass_precision(guess, truth, **given), atol=1e-6)
    assert found.balanced == pytest.approx(
        float(of_classes.multiclass_accuracy(guess, truth, classes, "macro")), abs=1e-6
    )
    assert torch.equal(found.confusion, of_classes.multiclass_confusion_matrix(guess, truth, classes))


@pytest.mark.parametrize("rows", [5, 80])
def test_errors_of_numbers(rows: int) -> None:
    truth = embeddings(rows, 1).flatten()
    guess = truth + 0.3 * embeddings(rows, 1, seed=2).flatten()
    found = error_figures(guess.numpy(), truth.numpy(), resamples=10)
    assert found["mean_absolute_error"] == pytest.approx(float(theirs.mean_absolute_error(guess, truth)))
    assert found["root_mean_squared_error"] == pytest.approx(
        float(theirs.mean_squared_error(guess, truth, squared=False))
    )
    assert found["r_squared"] == pytest.approx(float(theirs.r2_score(guess, truth)))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("classes", [3, 8])
def test_clusters(classes: int, seed: int) -> None:
    from sklearn.cluster import KMeans

    x, y = groups(100, classes, seed)
    clusters = KMeans(classes, n_init=4, random_state=seed).fit_predict(x.float().numpy())
    expected = normalized_mutual_info_score(torch.from_numpy(clusters), y)
    assert nmi(x, y, seed, distance="euclidean") == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("dim", [2, 40])
@pytest.mark.parametrize("kind", ["euclidean", "manhattan", "cosine"])
def test_distances(kind: Any, dim: int) -> None:
    x, y = embeddings(9, dim), embeddings(7, dim, seed=1)
    pairwise = {
        "euclidean": theirs.pairwise_euclidean_distance,
        "manhattan": theirs.pairwise_manhattan_distance,
        "cosine": lambda x, y: 1 - theirs.pairwise_cosine_similarity(x, y),
    }
    torch.testing.assert_close(pairwise_distance(x, y, kind), pairwise[kind](x, y), rtol=1e-6, atol=1e-7)
