"""The linear probe against scikit-learn and float64: the optimum, the choice, the scores; and the paper's SGD protocol."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from linear_eval import Features, bootstrap_interval, encoder_digest, linear_probe, paired_difference, sgd_probe
from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.probe import held_out_parts, held_out_rows
from linear_eval.features.rows import Rows, column_statistics
from simclr.errors import ConfigError, DataError


def features(x: np.ndarray, y: np.ndarray) -> Features:
    return Features(torch.as_tensor(x).float(), torch.as_tensor(y).long(), torch.arange(len(y)))


def noisy_classes(
    count: int, width: int, classes: int, seed: int, spread: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes in correlated features of very different scale, far from zero mean."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=count)
    mix = rng.normal(size=(width, width)) * np.logspace(0, -2, width)[:, None]
    means = np.random.default_rng(1000).normal(size=(classes, width))
    x = (spread * means[y] + rng.normal(size=(count, width))) @ mix
    return (x * np.logspace(-2, 2, width) + 3 * np.logspace(-2, 2, width)).astype(np.float32), y


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float) -> float:
    logits = x.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return entropy.mean() + 0.5 * strength * (weight.astype(np.float64) ** 2).sum()


def peer(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    """scikit-learn run to a far tighter tolerance than its default."""
    model = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=100_000)
    return model.fit(x.astype(np.float64), y)


def standardised(x: np.ndarray) -> np.ndarray:
    return StandardScaler().fit_transform(x.astype(np.float64)).astype(np.float32)


DIGITS = load_digits()


@pytest.mark.parametrize("strength", [1e-4, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("case", ["digits", "noisy", "more features than images"])
def test_same_optimum_and_predictions_as_scikit_learn(case: str, strength: float) -> None:
    if case == "digits":
        x, y = standardised(DIGITS.data)[:1200], DIGITS.target[:1200]
        x_test = standardised(DIGITS.data)[1200:]
        classes = 10
    else:
        count, width, classes = (1500, 20, 7) if case == "noisy" else (60, 90, 4)
        raw, labels = noisy_classes(count + 1000, width, classes, 0)
        x, y, x_test = standardised(raw)[:count], labels[:count], standardised(raw)[count:]
    model = peer(x, y, strength)
    fit = fit_logistic(
        Rows(torch.from_numpy(x)), torch.from_numpy(y), classes, torch.tensor([strength]).double(), tolerance=1e-8
    )
    weight, bias = fit.weight[0].numpy(), fit.bias[0].numpy()
    expected = objective(x, y, model.coef_, model.intercept_, strength)
    assert fit.converged.all()
    assert objective(x, y, weight, bias, strength) == pytest.approx(expected, rel=1e-5)
    assert fit.objective.item() == pytest.approx(expected, rel=1e-5)
    agree = (x_test @ weight.T + bias).argmax(1) == model.predict(x_test)
    assert agree.mean() >= 0.999


def test_two_classes_are_scikit_learns_at_twice_the_c() -> None:
    raw, y = noisy_classes(800, 12, 2, 3)
    x, strength = standardised(raw), 1e-2
    fit = fit_logistic(
        Rows(torch.from_numpy(x)), torch.from_numpy(y), 2, torch.tensor([strength]).double(), tolerance=1e-9
    )
    model = LogisticRegression(C=2 / (strength * len(x)), tol=1e-9, max_iter=10_000).fit(x.astype(np.float64), y)
    assert np.allclose((fit.weight[0, 1] - fit.weight[0, 0]).numpy(), model.coef_[0], atol=2e-4)
    assert (fit.bias[0, 1] - fit.bias[0, 0]).item() == pytest.approx(model.intercept_[0], abs=2e-4)


def test_all_strengths_at_once_are_each_alone() -> None:
    raw, y = noisy_classes(500, 15, 5, 1)
    rows, target = Rows(torch.from_numpy(standardised(raw))), torch.from_numpy(y)
    strengths = torch.logspace(-6, 0, 13, dtype=torch.float64)
    together = fit_logistic(rows, target, 5, strengths, tolerance=1e-8)
    for i, strength in enumerate(strengths):
        alone = fit_logistic(rows, target, 5, strength.view(1), tolerance=1e-8)
        assert together.objective[i].item() == pytest.approx(alone.objective.item(), rel=1e-6)
    assert together.converged.all()
    assert (together.objective.diff() > 0).all()  # a stronger penalty never lowers the optimum
    assert together.evaluations.max() > 2 * together.evaluations.min()  # and finished strengths have left


def test_gradient_vanishes_at_the_optimum_of_separable_classes() -> None:
    """Float64 check of the first-order condition where probabilities are within 1e-4 of one and float32 is thin."""
    x, y = standardised(DIGITS.data), DIGITS.target
    strength = 1e-5
    fit = fit_logistic(
        Rows(torch.from_numpy(x)), torch.from_numpy(y), 10, torch.tensor([strength]).double(), tolerance=1e-8
    )
    w = fit.weight[0].double().requires_grad_()
    b = fit.bias[0].double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(x).double() @ w.T + b, torch.from_numpy(y))
    (loss + 0.5 * strength * w.square().sum()).backward()
    assert loss < 0.01
    assert w.grad.abs().max() < 3e-6 and b.grad.abs().max() < 3e-6


def test_sample_weight_zero_is_leaving_the_row_out() -> None:
    raw, y = noisy_classes(300, 10, 4, 2)
    x, target = torch.from_numpy(standardised(raw)), torch.from_numpy(y)
    kept = torch.arange(300) % 3 != 0
    strengths = torch.tensor([1e-3, 1e-1], dtype=torch.float64)
    weighted = fit_logistic(Rows(x), target, 4, strengths, sample_weight=kept.float(), tolerance=1e-9)
    left_out = fit_logistic(Rows(x[kept]), target[kept], 4, strengths, tolerance=1e-9)
    assert torch.allclose(weighted.objective, left_out.objective, rtol=1e-6)
    assert torch.allclose(weighted.weight, left_out.weight, atol=1e-3)


def test_reading_in_chunks_standardises_as_at_once() -> None:
    raw, _ = noisy_classes(1000, 6, 3, 5)
    x = torch.from_numpy(raw)
    mean, scale = column_statistics(x)
    cached, streamed = (Rows(x, mean=mean, scale=scale, cache_bytes=size) for size in (1 << 30, 0))
    expected = torch.from_numpy(StandardScaler().fit_transform(raw.astype(np.float64)))
    for rows in (cached, streamed):
        together = torch.cat([chunk for _, chunk in rows.chunks(columns=1000)])
        assert torch.allclose(together.double(), expected, atol=1e-4)


def test_constant_features_standardise_to_zero() -> None:
    x = torch.full((1000, 3), 12345.678)
    x[:, 1] += torch.arange(1000) % 2
    mean, scale = column_statistics(x)
    z = Rows(x, mean=mean, scale=scale).read(0, 1000)
    assert z[:, [0, 2]].abs().max() < 1e-2 and z[:, 1].std() == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def split() -> tuple[Features, Features]:
    order = np.random.default_rng(0).permutation(len(DIGITS.target))
    x, y = DIGITS.data[order], DIGITS.target[order]
    return features(x[:1400], y[:1400]), features(x[1400:], y[1400:])


def test_the_protocol_is_what_scikit_learn_gives_step_by_step(split: tuple[Features, Features]) -> None:
    train, test = split
    strengths = [1e-3, 1e-2, 1e-1, 1.0]
    result = linear_probe(train, test, strengths, seed=3)

    scaler = StandardScaler().fit(train.x.double().numpy())
    x, x_test = scaler.transform(train.x.double().numpy()), scaler.transform(test.x.double().numpy())
    parts = [part.numpy() for part in held_out_parts(train.y, 0.1, 3)]
    held_out = sum(part.sum() for part in parts)
    assert 500 <= held_out < 500 + parts[0].sum()
    y = train.y.numpy()
    for strength, accuracy in zip(strengths, result.validation, strict=True):
        right = [(peer(x[~part], y[~part], strength).predict(x[part]) == y[part]).sum() for part in parts]
        assert accuracy == pytest.approx(sum(right) / held_out, abs=2.01 / held_out)
    assert result.validation[strengths.index(result.chosen)] == max(result.validation)
    final = peer(x, y, result.chosen)
    agree = result.predictions.numpy() == final.predict(x_test)
    assert agree.mean() >= 0.999 or (~agree).sum() <= 1
    assert result.objective == pytest.approx(objective(x, y, final.coef_, final.intercept_, result.chosen), rel=1e-4)
    truth = test.y.numpy()
    expected = sklearn_confusion(truth, result.predictions.numpy())
    assert np.array_equal(result.confusion.numpy(), expected)
    assert result.accuracy == pytest.approx((result.predictions.numpy() == truth).mean())
    assert np.allclose(result.per_class, expected.diagonal() / expected.sum(1))
    assert result.interval[0] < result.accuracy < result.interval[1]
    assert result.converged and result.held_out == held_out
    assert result.accuracy > 0.93


def test_test_labels_have_no_say_in_the_choice(split: tuple[Features, Features]) -> None:
    train, test = split[0].subset(torch.arange(200)), split[1].subset(torch.arange(300))
    shuffled = Features(
        test.x, test.y[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))], test.index
    )
    honest, blind = linear_probe(train, test), linear_probe(train, shuffled)
    assert honest.validation == blind.validation and honest.chosen == blind.chosen
    assert torch.equal(honest.predictions, blind.predictions)
    assert len(honest.strengths) >= 10
    assert blind.accuracy < 0.3


def test_same_seed_same_result_and_classifier_travels(split: tuple[Features, Features]) -> None:
    train, test = split
    one, two = (linear_probe(train, test, [1e-2, 1e-1], seed=1) for _ in range(2))
    assert torch.equal(one.classifier.weight, two.classifier.weight) and one.interval == two.interval
    assert torch.equal(one.classifier.predict(test.x), one.predictions)


def test_labels_need_not_be_contiguous_and_unseen_classes_count_as_wrong() -> None:
    raw, y = noisy_classes(600, 8, 3, 7, spread=2.0)
    names = np.array([7, -0, 2**40])
    train, plain = features(raw[:400], names[y][:400]), features(raw[400:], names[y][400:])
    result = linear_probe(train, plain)
    assert result.classes == (0, 7, 2**40) and result.unseen == ()
    assert set(result.predictions.tolist()) <= {0, 7, 2**40}
    strange = plain.y.clone()
    strange[:50] = 99
    unseen = linear_probe(train, Features(plain.x, strange, plain.index))
    assert unseen.unseen == (99,) and unseen.classes == (0, 7, 99, 2**40)
    assert unseen.per_class[2] == 0.0 and unseen.confusion[2].sum() == 50 and unseen.confusion[:, 2].sum() == 0
    assert unseen.accuracy == pytest.approx((result.correct[50:].sum() / 200).item())
    missing = linear_probe(train, plain.subset(plain.y != 7))
    assert math.isnan(missing.per_class[1]) and missing.to_dict()["per_class"][1] is None


def test_a_small_set_is_held_out_part_by_part_and_a_large_one_once() -> None:
    y = torch.arange(240) % 3
    parts = held_out_parts(y, 0.1, 0)
    assert len(parts) == 10 and torch.stack(parts).sum(0).eq(1).all()  # every row once
    assert all(part.sum() == 24 and len(y[part].unique()) == 3 for part in parts)
    assert torch.equal(parts[0], held_out_rows(y, 0.1, 0))
    assert len(held_out_parts(torch.arange(5000) % 3, 0.1, 0)) == 1
    assert len(held_out_parts(torch.arange(2000) % 3, 0.1, 0)) == 3
    pairs = held_out_parts(torch.arange(40) % 20, 0.1, 0)  # two rows a class: one of them, then the other
    assert [int(part.sum()) for part in pairs] == [20, 20]


def test_held_out_part_is_stratified_and_leaves_singletons_in_training() -> None:
    y = torch.tensor([0] * 100 + [1] * 40 + [2] * 3 + [3] * 2 + [4])
    held_out = held_out_rows(y, 0.1, 0)
    assert [int(held_out[y == label].sum()) for label in range(5)] == [10, 4, 1, 1, 0]
    assert torch.equal(held_out, held_out_rows(y, 0.1, 0)) and not torch.equal(held_out, held_out_rows(y, 0.1, 1))
    assert [int(held_out_rows(y, 0.9, 0)[y == label].sum()) for label in range(5)] == [90, 36, 2, 1, 0]


def test_one_image_a_class_still_gives_a_classifier() -> None:
    raw, y = noisy_classes(400, 30, 6, 9, spread=3.0)
    first = [int(np.flatnonzero(y == label)[0]) for label in range(6)]
    result = linear_probe(features(raw[first], y[first]), features(raw, y))
    assert result.held_out == 0 and result.validation == () and result.chosen == pytest.approx(1e-2)
    assert result.train_accuracy == 1.0 and result.accuracy > 0.3


def test_identical_features_give_the_commonest_class() -> None:
    y = np.array([0] * 30 + [1] * 50 + [2] * 20)
    same = features(np.full((100, 5), 3.5), y)
    result = linear_probe(same, same)
    assert result.accuracy == 0.5 and set(result.predictions.tolist()) == {1}


def test_interval_is_the_bootstrap_of_single_images() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(400) < 0.8
    brute = np.percentile([correct[rng.integers(400, size=400)].mean() for _ in range(5000)], [2.5, 97.5])
    assert np.allclose(bootstrap_interval(correct), brute, atol=0.006)
    for right in (0, 50):
        exact = binomtest(right, 50).proportion_ci(0.95, method="exact")
        assert bootstrap_interval([right > 0] * 50) == pytest.approx((exact.low, exact.high))


def test_paired_interval_is_the_bootstrap_of_pairs_and_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(500) < 0.8
    b = np.where(rng.random(500) < 0.9, a, ~a)
    draws = rng.integers(500, size=(5000, 500))
    brute = np.percentile(a[draws].mean(1) - b[draws].mean(1), [2.5, 97.5])
    found = paired_difference(a, b)
    assert np.allclose(found["interval"], brute, atol=0.006)
    assert found["difference"] == pytest.approx(a.mean() - b.mean())
    assert (found["a_only"], found["b_only"]) == ((a & ~b).sum(), (b & ~a).sum())
    unpaired = (
        bootstrap_interval(a)[1] - bootstrap_interval(b)[0] - (bootstrap_interval(a)[0] - bootstrap_interval(b)[1])
    )
    assert found["interval"][1] - found["interval"][0] < unpaired


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 0), (0, 1)])
@pytest.mark.parametrize("count", [1, 12, 500])
def test_equal_differences_leave_room_for_what_few_images_did_not_show(a: int, b: int, count: int) -> None:
    found = paired_difference([a] * count, [b] * count)
    low, high = found["interval"]
    assert low <= found["difference"] == a - b <= high
    # The largest share of another answer that still hides from `count` images in 2.5 of 100 tries.
    hidden = binomtest(0, count).proportion_ci(0.95, method="exact").high
    width = {0: 2 * hidden, 1: 2 * hidden}[abs(a - b)]
    assert high - low == pytest.approx(min(width, 2.0))


def test_what_makes_no_sense_is_refused_in_one_line() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    good = features(x, y)
    broken = x.copy()
    broken[4, 1] = np.nan
    cases: list[tuple[Features, Features, dict, type[Exception], str]] = [
        (features(x, -np.ones(20)), good, {}, DataError, "training set has no labels"),
        (good, features(x, -np.ones(20)), {}, DataError, "test set has no labels"),
        (features(broken, y), good, {}, DataError, "training set are NaN or infinite for images 4"),
        (good, features(broken, y), {}, DataError, "test set are NaN or infinite for images 4"),
        (good, features(x[:, :2], y), {}, DataError, "3 columns and test features 2"),
        (features(x, y * 0), good, {}, DataError, "only the class 0"),
        (good, good, {"strengths": []}, ConfigError, "at least one"),
        (good, good, {"strengths": [0.0, 1.0]}, ConfigError, "> 0"),
        (good, good, {"validation": 1.0}, ConfigError, "validation is 1.0"),
    ]
    for train, test, options, kind, expected in cases:
        with pytest.raises(kind, match=expected) as caught:
            linear_probe(train, test, **options)
        assert "\n" not in str(caught.value)


class Pixels:
    """Digits as a resident set of (1, 8, 8) images."""

    def __init__(self, rows: slice) -> None:
        self.pixels = torch.from_numpy(DIGITS.images[rows] * 15.9).to(torch.uint8).unsqueeze(1)
        self.labels = torch.from_numpy(DIGITS.target[rows]).long()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], int(self.labels[index])


class Scaled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images.float() / 255 if images.dtype == torch.uint8 else images).flatten(1)


def test_sgd_is_nesterov_momentum_on_a_cosine_from_zero() -> None:
    """On whole images (crop area 1, no flip) and one batch an epoch it is plain arithmetic, done here in float64."""
    images, epochs = Pixels(slice(0, 200)), 30
    result = sgd_probe(Scaled(), images, images, epochs=epochs, crop_scale=(1.0, 1.0), horizontal_flip=0.0)
    x = torch.cat([images.pixels.double().flatten(1) / 255, torch.ones(200, 1)], 1).numpy()
    one_hot = np.eye(10)[images.labels.numpy()]
    w, velocity = np.zeros((10, 65)), np.zeros((10, 65))
    for step in range(epochs):
        logits = x @ w.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        gradient = (p / p.sum(1, keepdims=True) - one_hot).T @ x / 200
        rate = 0.1 * 200 / 256 * 0.5 * (1 + math.cos(math.pi * step / epochs))
        velocity = 0.9 * velocity + gradient
        w -= rate * (gradient + 0.9 * velocity)
    assert np.allclose(result.classifier.weight.numpy(), w[:, :-1], atol=1e-4)
    assert np.allclose(result.classifier.bias.numpy(), w[:, -1], atol=1e-4)
    assert result.chosen is None and result.validation == ()


def test_sgd_learns_on_crops_and_leaves_the_encoder_alone() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(Scaled(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5))
    encoder.train()
    before, digest = copy.deepcopy(encoder.state_dict()), encoder_digest(encoder)
    train, test = Pixels(slice(0, 1200)), Pixels(slice(1200, 1797))
    options = {"epochs": 8, "batch_size": 256, "crop_scale": (0.6, 1.0), "horizontal_flip": 0.0}
    one, two = (sgd_probe(encoder, train, test, seed=1, **options) for _ in range(2))
    assert encoder_digest(encoder) == digest and encoder.training and encoder[4].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    assert one.accuracy > 0.7
    assert torch.equal(one.classifier.weight, two.classifier.weight)
    other = sgd_probe(encoder, train, test, seed=2, **options)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_sgd_refuses_sets_without_labels_and_features_that_explode() -> None:
    images = Pixels(slice(0, 50))
    unlabelled = Pixels(slice(0, 50))
    unlabelled.labels = torch.full((50,), -1)
    with pytest.raises(DataError, match="training set has no labels"):
        sgd_probe(Scaled(), unlabelled, images, epochs=1)
    with pytest.raises(DataError, match="test set has no labels"):
        sgd_probe(Scaled(), images, unlabelled, epochs=1)

    class Huge(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().flatten(1) * 1e30

    with pytest.raises(DataError, match="epoch 1"), warnings.catch_warnings():
        sgd_probe(Huge(), images, images, epochs=2, batch_size=10)
