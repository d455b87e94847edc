"""What a list of right and wrong answers says: accuracy with its interval, per class, confusion.

>>> import numpy as np
>>> bootstrap_interval(np.array([1] * 90 + [0] * 10), seed=0)
(0.84, 0.95)
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = [
    "balanced_accuracy",
    "bootstrap_interval",
    "clustered_interval",
    "confusion_matrix",
    "difference_over_classes",
    "interval_over_classes",
    "mean_interval",
    "paired_difference",
    "per_class_accuracy",
    "per_class_precision",
]


def _interval(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_interval(
    correct: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy, over test images (N,) that were right (1) or wrong (0).

    The mean of N draws with replacement from zeros and ones is a binomial draw: that is how it is drawn. Where all
    answers agree every resample does too, which says nothing: there the exact interval of Clopper and Pearson (1934)
    is given instead.
    """
    answers = np.asarray(correct, dtype=bool)
    count, right = len(answers), int(answers.sum())
    if right in (0, count):
        reach = ((1 - confidence) / 2) ** (1 / count)
        return (reach, 1.0) if right else (0.0, 1 - reach)
    draws = np.random.default_rng(seed).binomial(count, right / count, size=resamples)
    return _interval(draws / count, confidence)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """How much more often ``a`` is right than ``b`` on the same N images, with a paired bootstrap interval.

    Images are drawn with replacement, each with both of its answers, so what the two have in common cancels. Only the
    difference -1, 0 or 1 of an image matters: a resample is one multinomial draw. Where all images have one difference
    every resample has too, which says nothing: of N images then a share of at most 1 - 0.025^(1/N) may have another one
    (Clopper and Pearson 1934), at worst the opposite.

    Returns:
        difference (share of the images), interval, and a_only / b_only: images that only one of them got right.
    """
    left, right = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if left.shape != right.shape:
        raise ValueError(f"answers of shape {left.shape} and {right.shape}: expected the same images for both")
    count = len(left)
    a_only, b_only = int((left & ~right).sum()), int((right & ~left).sum())
    shares = np.array([a_only, b_only, count - a_only - b_only]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    interval = _interval((draws[:, 0] - draws[:, 1]) / count, confidence)
    if shares.max() == 1:
        same, other = (a_only - b_only) / count, 1 - ((1 - confidence) / 2) ** (1 / count)
        reach = other * (1 if same == 0 else 2)
        interval = max(-1.0, same - reach), min(1.0, same + reach)
    return {
        "difference": (a_only - b_only) / count,
        "interval": interval,
        "a_only": a_only,
        "b_only": b_only,
    }


def clustered_interval(accepted: np.ndarray, trials: np.ndarray, units: int) -> tuple[float, float] | None:
    """95 % interval of a proportion whose trials are dependent within clusters (Korn & Graubard 1998).

    Args:
        accepted: (K,) successes of each cluster.
        trials: (K,) trials of each cluster, none of them 0.
        units: most independent trials there can be, such as the images that the pairs are made of.

    Returns:
        The two ends, or None for a single cluster, whose spread cannot be seen.

    >>> low, high = clustered_interval(np.array([45, 40, 44, 42]), np.array([45, 45, 45, 45]), units=40)
    >>> round(low, 2), round(high, 2)
    (0.71, 1.0)
    """
    from scipy import stats

    clusters, share = len(trials), float(accepted.sum() / trials.sum())
    if clusters < 2:
        return None
    spread = np.square(accepted - share * trials).sum() / trials.sum() ** 2 * clusters / (clusters - 1)
    effective = min(units, share * (1 - share) / spread) if spread > 0 else units
    effective *= (stats.norm.ppf(0.975) / stats.t.ppf(0.975, clusters - 1)) ** 2
    hits, misses = share * effective, (1 - share) * effective
    low = float(stats.beta.ppf(0.025, hits, misses + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, misses)) if misses > 0 else 1.0
    return low, high


def interval_over_classes(values: Tensor, labels: Tensor, units: int | None = None) -> tuple[float, float] | None:
    """``clustered_interval`` of the mean of ``values`` (N,), shares in [0, 1], each class of ``labels`` (N,) a cluster."""
    _, which = labels.unique(return_inverse=True)
    trials = torch.bincount(which)
    sums = torch.bincount(which, weights=values.double())
    return clustered_interval(sums.cpu().numpy(), trials.cpu().numpy(), len(values) if units is None else units)


def difference_over_classes(gains: Tensor, labels: Tensor) -> tuple[float, float] | None:
    """95 % interval of the mean of paired ``gains`` (N,), each class of ``labels`` (N,) a cluster; None for a single class.

    Student's t with the cluster-robust variance of a mean, which ``clustered_interval`` takes of a share too.
    """
    from scipy import stats

    _, which = labels.unique(return_inverse=True)
    counts, sums = torch.bincount(which).double(), torch.bincount(which, weights=gains.double())
    clusters, mean = len(counts), float(gains.double().mean())
    if clusters < 2:
        return None
    spread = float((sums - mean * counts).square().sum()) ** 0.5 / len(gains) * (clusters / (clusters - 1)) ** 0.5
    half = float(stats.t.ppf(0.975, clusters - 1)) * spread
    return mean - half, mean + half


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of ``values`` (N,), a resample at a time: memory grows with N alone."""
    numbers, random = np.asarray(values, dtype=np.float64), np.random.default_rng(0)
    means = [numbers[random.integers(0, len(numbers), len(numbers))].mean() for _ in range(2_000)]
    return _interval(np.array(means), 0.95)


def confusion_matrix(truth: Tensor, predicted: Tensor, classes: Tensor) -> Tensor:
    """Counts (C, C) int64: row the true class, column the predicted one, both in the order of ``classes``, sorted."""
    cells = torch.searchsorted(classes, truth) * len(classes) + torch.searchsorted(classes, predicted)
    return cells.bincount(minlength=len(classes) ** 2).view(len(classes), len(classes))


def per_class_accuracy(confusion: Tensor) -> tuple[float, ...]:
    """Share of each true class that was recognised; NaN for a class without a test image."""
    return tuple((confusion.diagonal() / confusion.sum(1)).double().tolist())


def per_class_precision(confusion: Tensor) -> tuple[float, ...]:
    """Of what was called each class, the share that was of it; NaN for a class that no image was taken for."""
    return tuple((confusion.diagonal() / confusion.sum(0)).double().tolist())


def balanced_accuracy(
    right: ArrayLike, support: ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean over classes of the share that was recognised, each class counting alike, with its 95 % bootstrap interval.

    Test images are drawn with replacement: how many of each class is a multinomial draw, how many of them are right a
    binomial one. A class that a draw leaves out is left out of its mean. Where all answers agree the interval is that of
    ``bootstrap_interval``, which at least is not empty.

    Args:
        right, support: (C,) images of each class that were recognised, and that there are; classes without any count for
            nothing.

    >>> balanced_accuracy([9, 0, 0], [9, 1, 0])[0]
    0.5
    """
    hits, counts = np.asarray(right), np.asarray(support)
    hits, counts = hits[counts > 0], counts[counts > 0]
    recall = hits / counts
    total = int(counts.sum())
    if hits.sum() in (0, total):
        answers = np.arange(total) < hits.sum()
        return float(recall.mean()), bootstrap_interval(answers, seed=seed)
    random = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, 500):  # memory for 500 draws of all classes at a time
        drawn = random.multinomial(total, counts / total, size=min(500, resamples - start))
        shares = random.binomial(drawn, recall) / np.maximum(drawn, 1)
        means.append(shares.sum(1) / (drawn > 0).sum(1))
    return float(recall.mean()), _interval(np.concatenate(means), 0.95)
