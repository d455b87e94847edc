"""Are a classifier's probabilities true? Confidence against accuracy, and the expected calibration error."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from linear_eval.features.numbers import Listed, as_numbers
from simclr.errors import ConfigError, DataError

__all__ = ["Reliability", "answer_reliability", "expected_calibration_error", "reliability"]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against accuracy, by bins of confidence (Guo et al. 2017)."""

    edges: tuple[float, ...]
    """(B + 1,) from 0 to 1; a confidence c lies in the bin with lower < c <= upper."""

    count: tuple[int, ...]
    """(B,) predictions."""

    confidence: tuple[float | None, ...]
    """(B,) mean confidence, None in an empty bin."""

    accuracy: tuple[float | None, ...]
    """(B,) share that was right, None in an empty bin."""

    error: float
    """Expected calibration error: the mean of ``|accuracy - confidence|``, weighted by count."""


def reliability(
    probabilities: Annotated[Tensor, "N C"] | Listed, labels: Annotated[Tensor, "N"] | Listed, bins: int = 15
) -> Reliability:
    """Confidence of the likeliest class against how often it is right.

    Args:
        probabilities: (N, C) floating, each row summing to 1 (not logits).
        labels: (N,) int64 in [0, C).
        bins: bins of equal width.

    Raises:
        DataError: shapes that do not fit, labels out of range, or rows that are not probabilities.
        ConfigError: no bin.
    """
    if bins < 1:
        raise ConfigError(f"bins must be positive, got {bins}")
    probabilities = as_numbers(probabilities, "probabilities").double().cpu()
    labels = as_numbers(labels, "labels").cpu()
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or probabilities.numel() == 0:
        raise DataError(f"expected (N, C) and (N,), got {tuple(probabilities.shape)} and {tuple(labels.shape)}")
    classes = probabilities.shape[1]
    labels = labels if labels.is_floating_point() else labels.long()
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(f"labels must be integers in [0, {classes}), got {labels.dtype} up to {labels.max().item()}")
    # half types round each of C entries: allow for it, and still catch logits
    wrong = ~((probabilities.sum(1) - 1).abs() <= 1e-2) | (probabilities < 0).any(1)
    if wrong.any():
        at = int(torch.nonzero(wrong)[0])
        raise DataError(
            f"{int(wrong.sum())} rows are not probabilities, the first is row {at} with sum "
            f"{float(probabilities[at].sum()):.4g}; apply softmax to logits first"
        )
    confidence, predicted = probabilities.clamp_max(1.0).max(1)
    return answer_reliability(confidence, predicted == labels, bins)


def answer_reliability(confidence: Tensor, right: Tensor, bins: int = 15) -> Reliability:
    """``reliability`` of answers whose confidences are no row of probabilities, as those of independent sigmoids.

    Args:
        confidence: (N,) floating, in [0, 1].
        right: (N,) bool.
        bins: bins of equal width.
    """
    confidence = confidence.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    which = (torch.searchsorted(edges, confidence) - 1).clamp_(0, bins - 1)
    count = torch.bincount(which, minlength=bins)
    sure = torch.bincount(which, weights=confidence, minlength=bins)
    hits = torch.bincount(which, weights=right.double(), minlength=bins)
    return Reliability(
        edges=tuple(edges.tolist()),
        count=tuple(count.tolist()),
        confidence=tuple(s / n if n else None for s, n in zip(sure.tolist(), count.tolist(), strict=True)),
        accuracy=tuple(r / n if n else None for r, n in zip(hits.tolist(), count.tolist(), strict=True)),
        error=float((hits - sure).abs().sum() / len(right)),
    )


def expected_calibration_error(
    probabilities: Annotated[Tensor, "N C"] | Listed, labels: Annotated[Tensor, "N"] | Listed, bins: int = 15
) -> float:
    """Mean ``|accuracy - confidence|`` over bins of confidence, weighted by count (Guo et al. 2017, equation 3).

    Arguments and errors as :func:`reliability`.

    >>> sure = torch.tensor([[0.9, 0.1]] * 10)
    >>> round(expected_calibration_error(sure, torch.tensor([0] * 9 + [1])), 6)
    0.0
    >>> round(expected_calibration_error(sure, torch.tensor([0] * 5 + [1] * 5)), 6)
    0.4
    """
    return reliability(probabilities, labels, bins).error
