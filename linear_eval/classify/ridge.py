"""The regression probe: how much of a number a linear function reads off frozen features.

Features are standardised by the training set's mean and deviation, the target is centred by its training mean, and ridge
regression is fitted in float64. Its strength is the one of the least squared error when every training image is left out
in turn, which has a closed form (scikit-learn's ``RidgeCV``); the test images are predicted once.
"""

import numpy as np
from numpy.typing import NDArray

from linear_eval.features.extract import Features
from linear_eval.features.rows import column_statistics

__all__ = ["ALPHAS", "error_figures", "ridge_predictions"]

ALPHAS = tuple(10.0 ** (exponent / 2) for exponent in range(-4, 13))
"""Strengths that are tried, 0.01 to 1e6, two a decade."""

Numbers = NDArray[np.float64]


def ridge_predictions(train: Features, target: Numbers, test: Features) -> tuple[Numbers, float]:
    """Predicted numbers (M,) of the test images, and the strength that was chosen.

    Args:
        train: features of N training images; their labels are not looked at.
        target: (N,) the number of each.
        test: features of M images.
    """
    from sklearn.linear_model import RidgeCV

    mean, scale = (part.double() for part in column_statistics(train.x))
    fit = RidgeCV(alphas=ALPHAS).fit(((train.x.double() - mean) / scale).numpy(), target)
    predicted: Numbers = fit.predict(((test.x.double() - mean) / scale).numpy())
    return predicted, float(fit.alpha_)


def error_figures(predicted: Numbers, truth: Numbers, *, resamples: int = 2_000, seed: int = 0) -> dict[str, object]:
    """Errors of predictions (M,) of the numbers (M,), with 95 % percentile bootstrap intervals over test images.

    Returns:
        ``mean_absolute_error`` with ``interval``, ``root_mean_squared_error``, ``r_squared`` with ``r_squared_interval``;
        R² is one minus the squared error's share of that of the test images' mean, None where they have one number.
    """
    error = predicted - truth
    random = np.random.default_rng(seed)
    means, shares = [], []
    for _ in range(resamples):
        rows = random.integers(0, len(truth), len(truth))
        means.append(np.abs(error[rows]).mean())
        spread = np.square(truth[rows] - truth[rows].mean()).sum()
        if spread > 0:
            shares.append(1 - np.square(error[rows]).sum() / spread)
    spread = np.square(truth - truth.mean()).sum()
    return {
        "mean_absolute_error": float(np.abs(error).mean()),
        "interval": _ends(means),
        "root_mean_squared_error": float(np.sqrt(np.square(error).mean())),
        "r_squared": float(1 - np.square(error).sum() / spread) if spread > 0 else None,
        "r_squared_interval": _ends(shares) if spread > 0 else None,
    }


def _ends(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
