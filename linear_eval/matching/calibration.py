"""Decisions and probabilities that hold later: a threshold and a calibration fitted on validation pairs, kept as JSON.

A threshold that is chosen on the pairs it is scored on flatters. Fit it on validation pairs, store it beside the
encoder it belongs to, and apply it to pairs nobody had seen:

>>> import torch, tempfile
>>> from linear_eval import load_verification, save_verification
>>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
>>> y = torch.tensor([0, 0, 1, 1])
>>> with tempfile.TemporaryDirectory() as folder:
...     _ = save_verification(folder, fit_threshold(x, y), fit_pair_calibration(x, y))
...     threshold, calibration = load_verification(folder)
>>> threshold.same(torch.tensor([0.99, 0.10])).tolist()
[True, False]
>>> calibration.probability(torch.tensor([0.999, 0.10])).tolist()
[1.0, 0.0]

From images, with an encoder and what ``evaluate.py --protocol open-set`` stored beside it::

    encoder = simclr.load_encoder("runs/NAME")
    threshold, calibration = linear_eval.load_verification("runs/NAME")
    similarity = threshold.compare(encoder(first), encoder(second))  # images (P, 3, H, W) twice -> (P,)
    threshold.same(similarity)                                       # (P,) bool
    calibration.probability(similarity)                              # (P,) in [0, 1]

The calibration of a *classifier's* probabilities is in :mod:`linear_eval.classify.reliability`, and offered here as well.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from linear_eval.classify.reliability import Reliability, expected_calibration_error, reliability
from linear_eval.features.numbers import Listed, as_numbers
from linear_eval.matching.roc import RocCurve, pair_curve
from linear_eval.matching.similarity import Distance, natural, prepare
from simclr.errors import ConfigError, DataError

__all__ = [
    "Criterion",
    "PairCalibration",
    "Reliability",
    "Threshold",
    "expected_calibration_error",
    "fit_pair_calibration",
    "fit_threshold",
    "pair_calibration_error",
    "reliability",
]

Criterion = Literal["eer", "far", "balanced-accuracy"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """When two images count as of one class, and what that gave on the pairs it was fitted on."""

    value: float
    """Cosine: same at or above. Euclidean: same at or below."""

    distance: Distance
    criterion: Criterion
    wanted_far: float | None
    """The FAR asked for, with the criterion ``"far"``."""

    far: float
    """FAR on the pairs it was fitted on."""

    tar: float
    """TAR on the pairs it was fitted on."""

    genuine_pairs: int
    impostor_pairs: int

    def compare(
        self, a: Annotated[Tensor, "P D"] | Listed, b: Annotated[Tensor, "P D"] | Listed
    ) -> Annotated[Tensor, "float P"]:
        """Features of one image and of another, (P, F) floating each -> (P,) float64 on the CPU, a cosine or a distance.

        Raises:
            DataError: two shapes that differ, or that are not rows of features.
        """
        a, b = as_numbers(a, "features"), as_numbers(b, "features")
        if a.ndim != 2 or a.shape != b.shape:
            raise DataError(f"expected features (P, F) twice, got {tuple(a.shape)} and {tuple(b.shape)}")
        a, b = a.cpu().double(), b.cpu().double()
        return cosine_similarity(a, b, eps=1e-300) if self.distance == "cosine" else (a - b).norm(dim=1)

    def same(self, similarity: Annotated[Tensor, "..."] | Listed | float) -> Annotated[Tensor, "bool ..."]:
        """Decide (P,) cosine similarities, or euclidean distances: (P,) bool. NaN is never the same."""
        given = as_numbers(similarity, "similarities")
        return given >= self.value if self.distance == "cosine" else given <= self.value


@dataclass(frozen=True, kw_only=True)
class PairCalibration:
    """Similarity to probability that two images are of one class: a monotone curve of straight pieces."""

    similarity: tuple[float, ...]
    """(M,) rising cosine similarities, or euclidean distances."""

    same: tuple[float, ...]
    """(M,) the probability at each."""

    distance: Distance
    prior: float
    """Share of pairs of one class that the probability assumes."""

    def probability(self, similarity: Annotated[Tensor, "..."] | Listed | float) -> Annotated[Tensor, "float ..."]:
        """(P,) cosine similarities or euclidean distances -> (P,) float64. Beyond the knots it stays at their ends."""
        given = as_numbers(similarity, "similarities").double().cpu()
        values = np.interp(given.numpy(), self.similarity, self.same)
        return torch.from_numpy(np.asarray(values))


def fit_threshold(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    pairs: Annotated[Tensor, "P 2"] | Listed | None = None,
    *,
    criterion: Criterion = "eer",
    far: float | None = None,
    distance: Distance = "cosine",
) -> Threshold:
    """Choose the threshold on validation embeddings ``x`` (N, F) of classes ``y`` (N,), over ``pairs`` or all of them.

    Args:
        criterion: ``"eer"``: FAR and FRR nearest to each other. ``"far"``: the loosest that keeps the FAR at or below
            ``far``. ``"balanced-accuracy"``: the best mean of TAR and 1 - FAR, whatever the share of genuine pairs.
            ``"far"`` takes the strictest threshold that accepts these pairs; the others lie halfway to the next score.

    Raises:
        DataError: as :func:`linear_eval.verification`, or too few impostor pairs to measure ``far``.
        ConfigError: an unknown criterion, or a ``far`` that is missing, out of (0, 1), or given without its criterion.
    """
    if criterion not in get_args(Criterion):
        raise ConfigError(f"unknown criterion {criterion!r}; expected one of {', '.join(get_args(Criterion))}")
    if (criterion == "far") != (far is not None) or (far is not None and not 0 < far < 1):
        raise ConfigError(f"criterion 'far' takes a far in (0, 1) and no other does, got {criterion!r} with far={far}")
    curve = pair_curve(prepare(x, y, distance), pairs)
    index = _chosen(curve, criterion, far)
    return Threshold(
        value=natural(curve.score_at(index) if criterion == "far" else curve.between(index), distance),
        distance=distance,
        criterion=criterion,
        wanted_far=far,
        far=float(curve.far[index]) if index >= 0 else 0.0,
        tar=float(curve.tar[index]) if index >= 0 else 0.0,
        genuine_pairs=curve.genuine_pairs,
        impostor_pairs=curve.impostor_pairs,
    )


def fit_pair_calibration(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    pairs: Annotated[Tensor, "P 2"] | Listed | None = None,
    *,
    prior: float | None = None,
    distance: Distance = "cosine",
) -> PairCalibration:
    """Isotonic regression of "same class" on similarity (Zadrozny & Elkan 2002), over ``pairs`` or all of them.

    Args:
        prior: share of genuine pairs where it will be used. None takes the share among the pairs it is fitted on; of
            *all* pairs of C balanced classes that is only about 1 / C, and the probabilities are low accordingly.

    Raises:
        DataError: as :func:`linear_eval.verification`.
        ConfigError: an unknown distance, or a prior outside (0, 1).
    """
    from sklearn.isotonic import IsotonicRegression

    if prior is not None and not 0 < prior < 1:
        raise ConfigError(f"the prior is a share of pairs in (0, 1), got {prior}")
    curve = pair_curve(prepare(x, y, distance), pairs)
    share = curve.genuine_pairs / (curve.genuine_pairs + curve.impostor_pairs) if prior is None else prior
    genuine, impostor = _mass(curve, share)
    mass = genuine + impostor
    values = curve.scores if distance == "cosine" else -curve.scores
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=distance == "cosine", out_of_bounds="clip")
    fit.fit(values, genuine / mass, sample_weight=mass)
    return PairCalibration(
        similarity=tuple(fit.X_thresholds_.tolist()),
        same=tuple(fit.y_thresholds_.tolist()),
        distance=distance,
        prior=share,
    )


def pair_calibration_error(
    calibration: PairCalibration,
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    pairs: Annotated[Tensor, "P 2"] | Listed | None = None,
    bins: int = 15,
) -> float:
    """Mean ``|share of genuine pairs - probability|`` over bins of probability, on pairs it was not fitted on.

    Genuine and impostor pairs are weighted to the share that the calibration assumes (``calibration.prior``), so that
    a test set with more classes does not look like bad calibration. Arguments and errors as :func:`fit_threshold`.
    """
    curve = pair_curve(prepare(x, y, calibration.distance), pairs)
    genuine, impostor = _mass(curve, calibration.prior)
    values = curve.scores if calibration.distance == "cosine" else -curve.scores
    probability = np.interp(values, calibration.similarity, calibration.same)
    which = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, genuine - probability * (genuine + impostor), minlength=bins)
    return float(np.abs(gap).sum())


def _chosen(curve: RocCurve, criterion: Criterion, far: float | None) -> int:
    if criterion == "eer":
        return curve.eer()[1]
    if criterion == "balanced-accuracy":
        return int(np.argmax(curve.tar - curve.far))
    assert far is not None
    index = curve.index_at_far(far)
    if index is None:
        needed = math.ceil(1 / far - 1e-9)
        raise DataError(
            f"a FAR of {far:g} needs at least {needed:,} pairs of different classes, "
            f"there are {curve.impostor_pairs:,}; give more images or a larger FAR"
        )
    return index


def _mass(curve: RocCurve, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Probability mass (T,) of genuine and of impostor pairs at each score, when ``share`` of all pairs are genuine."""
    genuine = np.diff(curve.genuine, prepend=0) * (share / curve.genuine_pairs)
    return genuine, np.diff(curve.impostor, prepend=0) * ((1 - share) / curve.impostor_pairs)
