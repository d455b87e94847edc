"""Few labels against scikit-learn on the same draws; the draws paired, nested and balanced."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from linear_eval import Features, few_labels
from linear_eval.classify.few_labels import draw_rows
from simclr.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def split() -> tuple[Features, Features]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    whole = Features(torch.from_numpy(x[order]).float(), torch.from_numpy(y[order]).long(), torch.arange(len(y)))
    return whole.subset(torch.arange(1300)), whole.subset(torch.arange(1300, 1797))


def test_scores_are_scikit_learns_on_the_same_draws(split: tuple[Features, Features]) -> None:
    train, test = split
    scores = few_labels(train, test, (1, 10), trials=3, seed=5, fractions=(0.1,))
    assert list(scores) == [1, 10, "10 %"]
    scaler = StandardScaler().fit(train.x.double().numpy())
    x, x_test = scaler.transform(train.x.double().numpy()), scaler.transform(test.x.double().numpy())
    for key, setting in ((1, {"per_class": 1}), (10, {"per_class": 10}), ("10 %", {"share": 0.1})):
        expected = []
        for trial in range(3):
            rows = draw_rows(train.y, trial, 5, **setting).numpy()
            model = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000).fit(x[rows], train.y.numpy()[rows])
            expected.append(model.score(x_test, test.y.numpy()))
        assert scores[key]["accuracies"] == pytest.approx(expected, abs=3.01 / len(test))
        assert scores[key]["mean"] == pytest.approx(np.mean(scores[key]["accuracies"]))
        assert scores[key]["std"] == pytest.approx(np.std(scores[key]["accuracies"], ddof=1))
        assert scores[key]["images"] == len(rows)
    assert scores[1]["mean"] < scores[10]["mean"]


@pytest.mark.parametrize("share", [1.0, 1])
def test_all_labels_and_one_label_a_class_are_two_settings(split: tuple[Features, Features], share: float) -> None:
    train, test = split
    scores = few_labels(train, test, (1,), trials=2, fractions=(share,))
    assert [score["images"] for score in scores.values()] == [10, len(train)]
    assert scores[1]["images"] == 10 and scores["100 %"]["images"] == len(train)
    scaler = StandardScaler().fit(train.x.double().numpy())
    model = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000)
    model.fit(scaler.transform(train.x.double().numpy()), train.y.numpy())
    expected = model.score(scaler.transform(test.x.double().numpy()), test.y.numpy())
    assert scores["100 %"]["accuracies"] == pytest.approx([expected] * 2, abs=1.01 / len(test))
    assert scores[1]["mean"] < expected - 0.1


def test_draws_hang_on_labels_and_seed_only_so_encoders_are_paired(split: tuple[Features, Features]) -> None:
    train, test = split
    again = few_labels(train, test, (2,), trials=2, fractions=())
    # An encoder that turns the standardised space and scales it per feature differs in nothing that is scored here.
    signs = torch.tensor([1.0, -3.0]).repeat(32)
    other = [Features(part.x * signs + 7, part.y, part.index) for part in split]
    paired = few_labels(*other, (2,), trials=2, fractions=())
    assert paired[2]["accuracies"] == pytest.approx(again[2]["accuracies"], abs=2.01 / len(test))
    assert few_labels(train, test, (2,), trials=2, fractions=()) == again
    assert few_labels(train, test, (2,), trials=2, seed=1, fractions=())[2]["accuracies"] != again[2]["accuracies"]


def test_draws_are_balanced_nested_and_different() -> None:
    y = torch.tensor([0] * 200 + [4] * 50 + [7] * 3)
    one, five, ten = (draw_rows(y, 0, 0, per_class=k) for k in (1, 5, 10))
    assert set(one.tolist()) < set(five.tolist()) < set(ten.tolist())
    assert [int((y[ten] == label).sum()) for label in (0, 4, 7)] == [10, 10, 3]
    assert len(set(ten.tolist())) == len(ten)
    assert set(draw_rows(y, 1, 0, per_class=5).tolist()) != set(five.tolist())
    tenth = y[draw_rows(y, 0, 0, share=0.1)]
    assert [int((tenth == label).sum()) for label in (0, 4, 7)] == [20, 5, 1]
    assert len(draw_rows(y, 0, 0, share=1.0)) == len(y)


def test_adding_a_class_leaves_the_draws_of_the_others_alone() -> None:
    y = torch.tensor([3] * 30 + [5] * 30)
    larger = torch.cat([y, torch.tensor([1] * 30)])
    before, after = draw_rows(y, 2, 9, per_class=4), draw_rows(larger, 2, 9, per_class=4)
    assert set(before.tolist()) <= set(after.tolist())


def test_labels_need_not_be_contiguous(split: tuple[Features, Features]) -> None:
    kept = [part.subset((part.y == 2) | (part.y == 6)) for part in split]
    names = torch.zeros(10, dtype=torch.int64)
    names[2], names[6] = 2**40, 11
    renamed = [Features(part.x, names[part.y], part.index) for part in kept]
    score = few_labels(*renamed, (5,), trials=3, fractions=())[5]
    assert score["mean"] > 0.9 and score["images"] == 10


def test_one_draw_has_no_deviation(split: tuple[Features, Features]) -> None:
    assert few_labels(*split, (1,), trials=1, fractions=())[1]["std"] == 0.0


def test_what_makes_no_sense_is_refused(split: tuple[Features, Features]) -> None:
    train, test = split
    for options in ({"per_class": (0,)}, {"trials": 0}, {"fractions": (0.0,)}, {"fractions": (1.5,)}, {"c": 0.0}):
        with pytest.raises(ConfigError, match="expected labels a class"):
            few_labels(train, test, **options)
    unlabelled = Features(train.x, torch.full_like(train.y, -1), train.index)
    with pytest.raises(DataError, match="training set has no labels"):
        few_labels(unlabelled, test)
    with pytest.raises(DataError, match="only the class 3"):
        few_labels(train.subset(train.y == 3), test)
    with pytest.raises(DataError, match="64 columns and test features 5"):
        few_labels(train, Features(test.x[:, :5], test.y, test.index))
