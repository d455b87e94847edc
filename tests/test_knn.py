"""Weighted nearest neighbours against brute force in float64 and scikit-learn; ties, zero rows, bounded chunks."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from linear_eval import Features, knn_accuracy, knn_predictions
from simclr import neighbours
from simclr.errors import ConfigError, DataError


def features(x: np.ndarray, y: np.ndarray) -> Features:
    return Features(torch.as_tensor(x).float(), torch.as_tensor(y).long(), torch.arange(len(y)))


def random_sets(seed: int, count: int = 300, queries: int = 80, width: int = 6, classes: int = 5) -> list[Features]:
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=count + queries)
    x = rng.normal(size=(classes, width))[y] + 1.2 * rng.normal(size=(count + queries, width))
    x *= rng.uniform(0.1, 10, size=(count + queries, 1))  # lengths must not matter
    return [features(x[:count], y[:count]), features(x[count:], y[count:])]


def brute_force(train: Features, test: Features, k: int, temperature: float) -> list[int]:
    bank = train.x.double().numpy()
    found = []
    for row in test.x.double().numpy():
        cosines = []
        for other in bank:
            length = np.linalg.norm(row) * np.linalg.norm(other)
            cosines.append(row @ other / length if length else 0.0)
        order = sorted(range(len(bank)), key=lambda i: (-cosines[i], i))[:k]
        votes: dict[int, float] = defaultdict(float)
        for i in order:
            votes[int(train.y[i])] += np.exp((cosines[i] - cosines[order[0]]) / temperature)
        found.append(min(votes, key=lambda label: (-votes[label], label)))
    return found


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.1), (20, 0.1), (20, 0.01), (20, 10.0), (1000, 0.1)])
def test_equals_brute_force(k: int, temperature: float) -> None:
    train, test = random_sets(k)
    expected = brute_force(train, test, k, temperature)
    assert knn_predictions(train, test, k, temperature).tolist() == expected
    accuracy = np.mean(np.array(expected) == test.y.numpy())
    assert knn_accuracy(train, test, k, temperature) == pytest.approx(accuracy)
    assert 0.2 < accuracy < 1


def test_equals_scikit_learn() -> None:
    train, test = random_sets(0, count=2000, queries=400, width=20)
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    model.fit(train.x.double().numpy(), train.y.numpy())
    assert (knn_predictions(train, test).numpy() == model.predict(test.x.double().numpy())).all()


@pytest.mark.parametrize("size", [1, 4 * 64 * 30])
def test_chunks_change_nothing_and_bound_the_memory(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = random_sets(3)
    whole = knn_predictions(train, test)
    largest = []

    def watched(cosines: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        largest.append(cosines.numel())
        return original(cosines, k)

    original = neighbours._largest
    monkeypatch.setattr(neighbours, "_largest", watched)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", size)
    assert torch.equal(knn_predictions(train, test), whole)
    assert len(largest) >= 40 and max(largest) <= max(size // 4, 20)


def test_of_equally_near_rows_the_earlier_ones_vote() -> None:
    y = torch.arange(40) // 10
    train = Features(
        torch.ones(40, 3), y[torch.randperm(40, generator=torch.Generator().manual_seed(0))], torch.arange(40)
    )
    query = Features(torch.ones(1, 3), torch.tensor([0]), torch.tensor([0]))
    for k in (1, 2, 7, 39):
        votes = train.y[:k].bincount()
        assert knn_predictions(train, query, k).item() == votes.argmax().item()


def test_of_equal_votes_the_lower_label_wins() -> None:
    train = Features(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([8, 2]), torch.arange(2))
    query = Features(torch.tensor([[1.0, 1.0]]), torch.tensor([8]), torch.tensor([0]))
    assert knn_predictions(train, query, 2).tolist() == [2]


def test_zero_rows_are_far_from_nothing_and_give_no_nan() -> None:
    train, test = random_sets(5, count=60)
    train.x[:7] = 0
    test.x[0] = 0
    for k in (1, 10, 60):
        assert knn_predictions(train, test, k).tolist() == brute_force(train, test, k, 0.1)


def test_labels_are_returned_as_they_are_and_test_labels_not_looked_at() -> None:
    train, test = random_sets(6)
    names = torch.tensor([2**40, 3, 50, 4, 9])
    renamed = Features(train.x, names[train.y], train.index)
    unlabelled = Features(test.x, torch.full_like(test.y, -1), test.index)
    assert torch.equal(knn_predictions(renamed, unlabelled, 1), names[knn_predictions(train, test, 1)])


def test_what_makes_no_sense_is_refused() -> None:
    train, test = random_sets(7)
    unlabelled = Features(train.x, torch.full_like(train.y, -1), train.index)
    broken = Features(train.x.clone(), train.y, train.index)
    broken.x[3, 0] = torch.nan
    narrow = Features(test.x[:, :2], test.y, test.index)
    with pytest.raises(ConfigError, match="k is 0"):
        knn_accuracy(train, test, 0)
    with pytest.raises(ConfigError, match="temperature is 0"):
        knn_accuracy(train, test, temperature=0)
    for bank, queries, expected in (
        (unlabelled, test, "training set has no labels"),
        (train, Features(test.x, -torch.ones_like(test.y), test.index), "test set has no labels"),
        (broken, test, "images 3"),
        (train, narrow, "6 columns and test features 2"),
    ):
        with pytest.raises(DataError, match=expected):
            knn_accuracy(bank, queries)
