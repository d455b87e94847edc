"""Scores of features of any type of numbers, as arrays, lists and tensors, are those of the same numbers in float32."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import linear_eval
from linear_eval import Features, expected_calibration_error, few_labels, knn_accuracy, linear_probe, open_set
from linear_eval.classify.ridge import ridge_predictions
from simclr.errors import DataError

ROWS = 30
Y = torch.arange(ROWS) % 3
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0)).add(Y[:, None]).bfloat16().double()
# What every type below holds without loss.
KINDS: dict[str, Callable[[Tensor], Any]] = {
    "float64": lambda x: x,
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "array": lambda x: x.numpy(),
    "array of halves": lambda x: x.numpy().astype(np.float16),
    "list": lambda x: x.tolist(),
}
LABELS = {
    "int32": lambda y: y.int(),
    "array": lambda y: y.numpy(),
    "list": lambda y: y.tolist(),
    "uint16": lambda y: y.numpy().astype(np.uint16),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_made_of_any_numbers(kind: str, labels: str) -> None:
    index = LABELS[labels](torch.arange(ROWS))
    made = Features(KINDS[kind](X), LABELS[labels](Y), index, groups=LABELS[labels](Y))
    assert torch.equal(made.x, X.float()) and made.x.dtype == torch.float32
    for found, wanted in ((made.y, Y), (made.index, torch.arange(ROWS)), (made.groups, Y)):
        assert found is not None and torch.equal(found, wanted) and found.dtype == torch.int64


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "list"])
def test_every_classifier_scores_them_alike(kind: str) -> None:
    expected = Features(X.float(), Y, torch.arange(ROWS))
    given, pair = Features(KINDS[kind](X), Y.numpy(), range(ROWS)), (KINDS[kind](X), Y.tolist())
    whole = linear_probe(expected, expected, (0.01,), resamples=10)
    for features in (given, pair):
        found = linear_probe(features, features, (0.01,), resamples=10)
        assert torch.equal(found.predictions, whole.predictions) and found.objective == whole.objective
        assert found.classifier is not None and whole.classifier is not None
        logits = found.classifier.logits(KINDS[kind](X))
        torch.testing.assert_close(logits, whole.classifier.logits(X.float()), rtol=0, atol=0)
        assert torch.equal(found.classifier.predict(KINDS[kind](X)), whole.predictions)
        assert knn_accuracy(features, features, k=3) == knn_accuracy(expected, expected, k=3)
        few = few_labels(features, features, (2,), 2, fractions=())
        assert few == few_labels(expected, expected, (2,), 2, fractions=())
    predicted, _ = ridge_predictions(given, Y.double().numpy(), given)
    assert np.array_equal(predicted, ridge_predictions(expected, Y.double().numpy(), expected)[0])


def test_the_open_set_protocol_scores_them_alike() -> None:
    given, expected = Features(X, Y.numpy(), range(ROWS)), Features(X.float(), Y, torch.arange(ROWS))
    assert open_set(given, trials=20, ways=(2,)) == open_set(expected, trials=20, ways=(2,))


PAIRS = torch.tensor([[0, 3], [0, 1], [4, 7], [4, 8], [2, 9]])
OF_EMBEDDINGS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "recall_at_k": lambda x, y, pairs: linear_eval.recall_at_k(x, y, (1, 2), gallery_x=x, gallery_y=y),
    "map_at_r": lambda x, y, pairs: linear_eval.map_at_r(x, y, distance="euclidean"),
    "r_precision": lambda x, y, pairs: linear_eval.r_precision(x, y),
    "retrieval": lambda x, y, pairs: linear_eval.retrieval(x, y),
    "nmi": lambda x, y, pairs: linear_eval.nmi(x, y, restarts=1),
    "verification": lambda x, y, pairs: linear_eval.verification(x, y, pairs, fars=(0.5,)),
    "identification": lambda x, y, pairs: linear_eval.identification(x, y, (1,), template="mean"),
    "one_shot": lambda x, y, pairs: linear_eval.one_shot(x, y, 2, trials=20),
    "few_shot": lambda x, y, pairs: (
        linear_eval.few_shot(x, y, 2, episodes=20, within=y * 0 if torch.is_tensor(y) else [0] * ROWS).accuracy
    ),
    "fit_threshold": lambda x, y, pairs: linear_eval.fit_threshold(x, y, pairs),
    "fit_pair_calibration": lambda x, y, pairs: linear_eval.fit_pair_calibration(x, y, pairs),
}


@pytest.mark.parametrize("score", OF_EMBEDDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_match_scores_them_alike(kind: str, score: str) -> None:
    of = OF_EMBEDDINGS[score]
    for labels in LABELS.values():
        assert of(KINDS[kind](X), labels(Y), labels(PAIRS)) == of(X.float(), Y, PAIRS)


def test_decisions_and_probabilities_of_arrays() -> None:
    threshold, calibration = linear_eval.fit_threshold(X, Y), linear_eval.fit_pair_calibration(X, Y)
    alike = threshold.compare(X[:5].numpy(), X[5:10].tolist())
    torch.testing.assert_close(alike, torch.cosine_similarity(X[:5], X[5:10]))
    assert torch.equal(threshold.same(alike.numpy()), alike >= threshold.value)
    assert torch.equal(calibration.probability(alike.tolist()), calibration.probability(alike))
    assert 0 <= float(calibration.probability(0.3)) <= 1 and threshold.same(2.0)
    shares = torch.softmax(X[:, :3], 1)
    expected = expected_calibration_error(shares, Y)
    for given in (shares.numpy(), shares.tolist()):
        for labels in LABELS.values():
            assert expected_calibration_error(given, labels(Y)) == expected


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Features(X, Y.double(), Y), "labels are torch.float64: expected int64, or other whole numbers"),
        (lambda: Features(X, ["cat"] * ROWS, Y), "labels are list of what is no number .*'cat'.*number the classes"),
        (lambda: Features([["a"]], [0], [0]), "features are list of what is no number"),
        (lambda: linear_eval.recall_at_k(X, ["cat"] * ROWS), "the labels of x are list of what is no number .*'cat'"),
        (lambda: linear_eval.recall_at_k([*X.tolist()[:2], [1.0]], [0, 0, 1]), "x are list of what is no number"),
        (lambda: linear_eval.verification(X, Y, [["a", "b"]]), "pairs are list of what is no number"),
        (lambda: expected_calibration_error(X, np.array(["a"] * ROWS)), "labels are ndarray of what is no number"),
        (lambda: linear_probe((X * 1e300, Y), (X, Y)), "features of the training set are NaN or infinite for images 0"),
    ],
)
def test_what_holds_no_numbers_is_refused_in_words(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()
