"""Sets that do not fit in memory: the same scores from a file as from memory, and nothing near the file's size is made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from linear_eval import Features, few_labels, knn_predictions, linear_probe
from linear_eval.classify.few_labels import draw_rows
from linear_eval.classify.logistic import _evaluate, _Problem
from linear_eval.classify.probe import held_out_rows
from linear_eval.features import rows as rows_module
from linear_eval.features.extract import check_features
from linear_eval.features.rows import Rows, column_statistics, parts_of
from simclr import neighbours
from simclr.errors import DataError
from simclr.neighbours import nearest_neighbour_vote


def clusters(count: int, width: int, classes: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=count)
    means = np.random.default_rng(1000).normal(size=(classes, width))
    x = (0.1 * means[y] + rng.normal(size=(count, width))) * np.logspace(-0.5, 0.5, width) + 0.1
    return Features(torch.from_numpy(x).float(), torch.from_numpy(y), torch.arange(count))


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest storage that any operation made."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bounds of a large machine's chunks, brought down to the size of these tests."""
    monkeypatch.setattr(rows_module, "PART_VALUES", 1 << 17)
    monkeypatch.setattr(rows_module, "MAPPED_CACHE", 1 << 16)
    monkeypatch.setattr(rows_module, "chunk_values", lambda device: 1 << 15)
    monkeypatch.setattr("linear_eval.classify.logistic.chunk_values", lambda device: 1 << 15)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 1 << 19)
    monkeypatch.setattr(neighbours, "RESIDENT_CHUNKS", 1)
    yield


@pytest.fixture(scope="module")
def whole() -> tuple[Features, Features]:
    return clusters(8000, 160, 4, 0), clusters(400, 160, 4, 1)


@pytest.fixture
def mapped(whole: tuple[Features, Features], tmp_path: Path) -> Features:
    whole[0].save(tmp_path / "train")
    return Features.load(tmp_path / "train")


@pytest.mark.usefixtures("small_chunks")
def test_no_tensor_near_the_size_of_the_file_is_made(mapped: Features, whole: tuple[Features, Features]) -> None:
    size, test = mapped.x.numel() * 4, whole[1]
    with LargestTensor(mapped.x) as probe:
        linear_probe(mapped, test, [1e-3, 1e-1])
    with LargestTensor(mapped.x) as knn:
        knn_predictions(mapped, test)
    with LargestTensor(mapped.x) as both_ways:
        knn_predictions(test, mapped)
    for name, found in (("probe", probe), ("knn", knn), ("knn, mapped queries", both_ways)):
        assert 0 < found.bytes <= 4 * (1 << 17) * 2 + (1 << 16) < 0.3 * size, f"{name}: {found.bytes} of {size}"
    # The same watch over the same set in memory sees the standardised copy: it is not blind.
    with LargestTensor(mapped.x) as copying:
        linear_probe(Features(mapped.x, mapped.y, mapped.index), test, [1e-1])
    assert copying.bytes == size


def test_scores_from_a_file_are_those_from_memory(mapped: Features, whole: tuple[Features, Features]) -> None:
    train, test = whole
    one, two = linear_probe(train, test, [1e-3, 1e-1]), linear_probe(mapped, test, [1e-3, 1e-1])
    assert torch.equal(one.predictions, two.predictions) and one.validation == two.validation
    assert one.objective == pytest.approx(two.objective, rel=1e-6)
    assert one.train_accuracy == two.train_accuracy and 0.5 < one.accuracy < 1
    assert torch.equal(knn_predictions(train, test), knn_predictions(mapped, test))
    scores = [few_labels(part, test, (5,), trials=2, fractions=(0.1,)) for part in (train, mapped)]
    assert scores[0] == scores[1]


@pytest.mark.usefixtures("small_chunks")
def test_small_chunks_still_find_scikit_learns_optimum(mapped: Features, whole: tuple[Features, Features]) -> None:
    train, test = whole
    small = linear_probe(mapped, test, [1e-2, 1e-1, 1.0])
    assert (small.predictions == _standardised_probe(train, test, small.chosen)).double().mean() >= 0.995


def _standardised_probe(train: Features, test: Features, strength: float | None) -> Tensor:
    """scikit-learn's predictions at that strength."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    assert strength is not None
    scaler = StandardScaler().fit(train.x.double().numpy())
    model = LogisticRegression(C=1 / (strength * len(train)), tol=1e-6, max_iter=1000)
    model.fit(scaler.transform(train.x.double().numpy()), train.y.numpy())
    return torch.from_numpy(model.predict(scaler.transform(test.x.double().numpy())))


@pytest.mark.usefixtures("small_chunks")
def test_neighbours_read_the_training_rows_once_for_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clusters(900, 32, 3, 2), clusters(700, 32, 3, 3)
    whole = nearest_neighbour_vote(train.x, train.y, test.x, k=5)
    read = []
    unit = neighbours._unit

    def watched(rows: Tensor, device: torch.device) -> Tensor:
        read.append(len(rows))
        return unit(rows, device)

    monkeypatch.setattr(neighbours, "_unit", watched)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 8 * 25 * 64)  # 64 queries at once, 100 rows in a block
    monkeypatch.setattr(neighbours, "RESIDENT_CHUNKS", 4)
    assert torch.equal(nearest_neighbour_vote(train.x, train.y, test.x, k=5), whole)
    resident = 4 * 8 * 25 * 64 // (4 * 32 * 64) * 64
    rounds = -(-700 // resident)
    assert sum(read) == 700 + rounds * 900 and 1 < rounds < 700 / 64


@pytest.mark.parametrize(("strengths", "classes"), [(3, 4), (5, 600)])
def test_a_pass_of_the_probe_costs_four_operations_a_weight_and_row(strengths: int, classes: int) -> None:
    count, width = 700, 16
    x, y = torch.randn(count, width), torch.randint(classes, (count,))
    theta = 0.1 * torch.randn(strengths, classes, width + 1)
    strength = torch.logspace(-3, 0, strengths, dtype=torch.float64)
    # The counter knows only the form of this product that makes a new tensor.
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **kwargs: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        value, gradient, _ = _evaluate(_Problem(Rows(x), y, classes, None), theta, strength)
    assert counter.get_total_flops() == 4 * count * width * strengths * classes
    # The strengths are taken in groups when classes are many: the same sums as autograd's in float64, strength by strength.
    for i in range(strengths):
        t = theta[i].double().requires_grad_()
        logits = x.double() @ t[:, :-1].T + t[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, y) + 0.5 * strength[i] * t[:, :-1].square().sum()
        loss.backward()
        assert value[i].item() == pytest.approx(loss.item(), rel=1e-6)
        assert torch.allclose(gradient[i].double(), t.grad, atol=1e-6)


def test_neighbours_cost_two_operations_a_feature_and_pair() -> None:
    train, test = clusters(300, 24, 3, 4), clusters(50, 24, 3, 5)
    with FlopCounterMode(display=False) as counter:
        knn_predictions(train, test)
    assert counter.get_total_flops() == 2 * 300 * 50 * 24


@pytest.mark.parametrize("cache_bytes", [0, None])
def test_chosen_rows_are_read_as_if_they_were_all_there_is(cache_bytes: int | None) -> None:
    x = clusters(500, 12, 3, 6).x
    index = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:130]
    mean, scale = column_statistics(x)
    rows = Rows(x, mean=mean, scale=scale, index=index, cache_bytes=cache_bytes)
    expected = (x[index].double() - x.double().mean(0)) / x.double().std(0, correction=0)
    assert rows.count == 130
    assert torch.allclose(torch.cat([part for _, part in rows.chunks(1 << 20)]).double(), expected, atol=1e-5)
    plain = Rows(x, index=index, cache_bytes=cache_bytes)
    assert torch.equal(plain.read(7, 20), x[index[7:20]])


def test_reading_never_writes_to_the_features() -> None:
    x = clusters(300, 8, 3, 7).x
    before = x.clone()
    mean, scale = column_statistics(x)
    for options in ({"mean": mean, "scale": scale}, {"scale": scale}, {"mean": mean}, {}):
        Rows(x, **options, cache_bytes=0).read(0, 300)
        Rows(x, **options).read(0, 300)
    assert torch.equal(x, before)


@pytest.mark.usefixtures("small_chunks")
def test_statistics_and_checks_go_part_by_part() -> None:
    x = clusters(5000, 40, 3, 8).x * 1e4
    assert len(list(parts_of(x))) > 1 and torch.equal(torch.cat([part for _, part in parts_of(x)]), x)
    mean, scale = column_statistics(x)
    assert torch.allclose(mean.double(), x.double().mean(0), rtol=1e-6)
    assert torch.allclose(scale.double(), x.double().std(0, correction=0), rtol=1e-6)
    y, index = torch.zeros(5000, dtype=torch.int64), torch.arange(5000) + 70000
    check_features(Features(torch.full_like(x, 3e38), y, index), "large")  # finite, though no float32 holds the sum
    x[4321, 7], x[4400, 0], x[4400, 1] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(DataError, match="images 74321, 74400;"):
        check_features(Features(x, y, index), "large")


def test_rows_of_each_class_are_those_a_loop_finds() -> None:
    y = torch.tensor([5, 2, 5, -1, 9, 2, 5, 2**40, 9, 5])
    found = rows_module.rows_of_each_class(y)
    assert [label for label, _ in found] == sorted(set(y.tolist()))
    for label, rows in found:
        assert rows.tolist() == [i for i, other in enumerate(y.tolist()) if other == label]
    # What draws and splits were before the sort came in, fixed by their seeds.
    labels = torch.arange(60) % 3
    assert draw_rows(labels, 0, 0, per_class=2).tolist() == _drawn(labels, 2)
    assert held_out_rows(labels, 0.1, 0).nonzero().flatten().tolist() == _held_out(labels)


def _drawn(y: Tensor, count: int) -> list[int]:
    chosen = []
    for label in range(3):
        own = np.flatnonzero(y.numpy() == label)
        chosen += own[np.random.default_rng([0, 0, label]).permutation(len(own))[:count]].tolist()
    return chosen


def _held_out(y: Tensor) -> list[int]:
    generator, chosen = torch.Generator().manual_seed(0), []
    for label in range(3):
        own = (y == label).nonzero().flatten()
        chosen += own[torch.randperm(len(own), generator=generator)[: round(0.1 * len(own))]].tolist()
    return sorted(chosen)
