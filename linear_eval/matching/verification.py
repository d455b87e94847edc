"""1:1 verification: given two images, are they of one class? ROC, AUC, EER and TAR at fixed FARs, with intervals.

>>> import torch
>>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
>>> result = verification(x, torch.tensor([0, 0, 1, 1]))
>>> result.auc, result.eer, result.tar_at_far[0.1]
(1.0, 0.0, None)

The last one is None because four impostor pairs cannot measure a FAR of 0.1: the smallest they can show is 1 / 4.

**Intervals.** Pairs are not independent: every image stands in many of them, and the images of one class resemble each
other. An interval that counts pairs (Wilson, a bootstrap of pairs) is far too narrow. A genuine pair lies within one
class, so the classes are the independent units: the variance of the TAR comes from the spread between classes (the
ratio estimator of cluster sampling), turns into an effective number of trials, and the Clopper-Pearson interval of that
many trials is given (Korn & Graubard 1998, Survey Methodology 24: "Confidence intervals for proportions with small
expected number of positive counts estimated from survey data"). The effective number never exceeds the images that the
genuine pairs are made of. It answers: what would the TAR at *this threshold* be on other classes of the same kind?
The threshold's own uncertainty is not in it; ``false_accepts`` tells how many pairs fix it (with fewer than 30, by the
rule of 30, expect the FAR to be off by more than 30 %).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from linear_eval.features.numbers import Listed
from linear_eval.matching.roc import RocCurve, checked_pairs, pair_curve
from linear_eval.matching.similarity import Distance, Embeddings, block_scores, natural, pair_scores, prepare
from linear_eval.metrics import clustered_interval
from simclr.errors import ConfigError

__all__ = ["FARS", "OperatingPoint", "PairHistogram", "VerificationResult", "verification"]

FARS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The loosest threshold whose measured FAR does not exceed the wanted one. No interpolation."""

    wanted_far: float
    """The FAR asked for."""

    far: float | None = None
    """The FAR measured there, at most ``wanted_far``. None where it cannot be measured."""

    tar: float | None = None
    """Share of genuine pairs accepted there."""

    interval: tuple[float, float] | None = None
    """95 % interval of ``tar`` over classes; None with fewer than two classes that have a genuine pair."""

    threshold: float | None = None
    """Cosine: accepted at or above. Euclidean: accepted at or below."""

    false_accepts: int | None = None
    """Impostor pairs accepted there."""

    note: str = ""
    """Why a value is missing."""


@dataclass(frozen=True, kw_only=True)
class PairHistogram:
    """Pairs by similarity or distance, for a picture."""

    edges: tuple[float, ...]
    """(B + 1,) rising, cosine similarity or euclidean distance."""

    genuine: tuple[int, ...]
    """(B,) pairs of one class."""

    impostor: tuple[int, ...]
    """(B,) pairs of different classes."""


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """What verification measured. ``as_dict()`` can be written as JSON."""

    auc: float
    """Area under the ROC: the chance that a genuine pair is more alike than an impostor pair, ties counting half."""

    eer: float
    """Equal error rate: where FAR = 1 - TAR, linear between neighbouring operating points."""

    tar_at_far: dict[float, float | None]
    """TAR by wanted FAR; None where fewer than 1 / FAR impostor pairs exist (the reason is in ``operating_points``)."""

    threshold: float
    """Cosine: same at or above. Euclidean: same at or below. In the unit of ``distance``."""

    threshold_from: str
    """``"given"``: fitted elsewhere. ``"eer of these pairs"``: it saw the pairs it is scored on, so it flatters."""

    tar_at_threshold: float
    far_at_threshold: float

    operating_points: tuple[OperatingPoint, ...]
    distance: Distance
    genuine_pairs: int
    impostor_pairs: int
    identities: int
    """Classes with at least one genuine pair: the independent units of the intervals."""

    exact: bool
    """True: every score was its own operating point. False: counted in bins (all pairs, none sampled)."""

    auc_resolution: float
    """Most that ``auc`` can be off through the bins."""

    roc_far: tuple[float, ...]
    """(T,) the ROC thinned for storage: true operating points, ``(0, 0)`` and ``(1, 1)`` among them."""

    roc_tar: tuple[float, ...]
    """(T,)"""

    histogram: PairHistogram

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; the FARs become keys such as ``"0.001"``."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


def verification(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    pairs: Annotated[Tensor, "P 2"] | Listed | None = None,
    *,
    distance: Distance = "cosine",
    threshold: float | None = None,
    fars: Sequence[float] = FARS,
) -> VerificationResult:
    """Score how well ``x`` tells pairs of one class from pairs of two.

    Args:
        x: (N, F) embeddings, a tensor, an array or a list; compared by their cosine, or as they are by the euclidean distance.
        y: (N,) int64 classes.
        pairs: (P, 2) int64 row numbers; None compares all N (N - 1) / 2 pairs, in memory linear in N. Up to
            ``linear_eval.matching.roc.EXACT_PAIRS`` pairs are sorted, more are counted in bins of 2e-6 in cosine (1.2e-4
            relative in distance).
        threshold: fitted on other pairs (:func:`linear_eval.matching.calibration.fit_threshold`) and applied to these.
        fars: the FARs to report a TAR at, each in (0, 1).

    Raises:
        DataError: nothing to score, rows that are not finite, bad pairs, or no genuine or no impostor pair.
        ConfigError: an unknown distance, or a FAR outside (0, 1).
    """
    for far in fars:
        if not 0 < far < 1:
            raise ConfigError(f"a false accept rate lies between 0 and 1, got {far}")
    embeddings = prepare(x, y, distance)
    listed = None if pairs is None else checked_pairs(pairs, len(embeddings))
    curve = pair_curve(embeddings, listed)
    eer, eer_index = curve.eer()
    index = eer_index if threshold is None else curve.index_at_score(natural(threshold, distance))
    points, identities = _operating_points(embeddings, listed, curve, fars)
    roc_far, roc_tar = curve.thinned()
    return VerificationResult(
        auc=curve.auc(),
        eer=eer,
        tar_at_far={point.wanted_far: point.tar for point in points},
        threshold=natural(curve.between(eer_index), distance) if threshold is None else float(threshold),
        threshold_from="eer of these pairs" if threshold is None else "given",
        tar_at_threshold=float(curve.tar[index]) if index >= 0 else 0.0,
        far_at_threshold=float(curve.far[index]) if index >= 0 else 0.0,
        operating_points=points,
        distance=distance,
        genuine_pairs=curve.genuine_pairs,
        impostor_pairs=curve.impostor_pairs,
        identities=identities,
        exact=curve.exact,
        auc_resolution=curve.auc_resolution(),
        roc_far=tuple(roc_far),
        roc_tar=tuple(roc_tar),
        histogram=_histogram(curve, distance),
    )


def _operating_points(
    embeddings: Embeddings, pairs: Tensor | None, curve: RocCurve, fars: Sequence[float]
) -> tuple[tuple[OperatingPoint, ...], int]:
    indices = [curve.index_at_far(far) for far in fars]
    thresholds = torch.tensor([curve.score_at(index) for index in indices if index is not None], dtype=torch.float64)
    accepted, trials, images = _genuine_by_class(embeddings, pairs, thresholds)
    columns = iter(accepted)
    points = []
    for far, index in zip(fars, indices, strict=True):
        if index is None:
            needed = math.ceil(1 / far - 1e-9)
            note = f"a FAR of {far:g} needs at least {needed:,} impostor pairs, there are {curve.impostor_pairs:,}"
            points.append(OperatingPoint(wanted_far=far, note=note))
            continue
        interval = clustered_interval(next(columns), trials, images)
        points.append(
            OperatingPoint(
                wanted_far=far,
                far=float(curve.far[index]) if index >= 0 else 0.0,
                tar=float(curve.tar[index]) if index >= 0 else 0.0,
                interval=interval,
                threshold=natural(curve.score_at(index), embeddings.distance),
                false_accepts=int(curve.impostor[index]) if index >= 0 else 0,
                note="" if interval else "no interval: only one class has a genuine pair",
            )
        )
    return tuple(points), len(trials)


def _genuine_by_class(
    embeddings: Embeddings, pairs: Tensor | None, thresholds: Tensor
) -> tuple[np.ndarray, np.ndarray, int]:
    """Accepted at each threshold (T, K) and in all (K,), of the K classes with a genuine pair; images in such pairs."""
    rows, thresholds = embeddings.rows, thresholds.to(embeddings.rows.device)
    _, which = embeddings.labels.unique(return_inverse=True)
    classes = int(which.max()) + 1
    accepted = torch.zeros(len(thresholds), classes, dtype=torch.int64)
    if pairs is None:
        sizes = torch.bincount(which, minlength=classes)
        members = which.argsort(stable=True).split(sizes.tolist())
        for label, member in enumerate(members):
            own = Embeddings(rows=rows[member], labels=embeddings.labels[member], distance=embeddings.distance)
            for start, stop in own.row_chunks(len(own)):
                scores = block_scores(own.rows[start:stop], own.rows, own.distance)
                upper = torch.ones_like(scores, dtype=torch.bool).triu_(start + 1)
                for at, threshold in enumerate(thresholds):
                    accepted[at, label] += int(((scores >= threshold) & upper).sum())
        trials, images = sizes * (sizes - 1) // 2, int(sizes[sizes > 1].sum())
    else:
        pairs = checked_pairs(pairs, len(embeddings)).to(rows.device)
        pairs = pairs[which[pairs[:, 0]] == which[pairs[:, 1]]]
        for part in pairs.split(max(1, 2**25 // (8 * rows.shape[1]))):
            scores, label = pair_scores(embeddings, part), which[part[:, 0]]
            for at, threshold in enumerate(thresholds):
                accepted[at] += torch.bincount(label[scores >= threshold], minlength=classes).cpu()
        trials, images = torch.bincount(which[pairs[:, 0]], minlength=classes), len(pairs.unique())
    some = (trials > 0).cpu()
    return accepted[:, some].numpy(), trials.cpu()[some].numpy(), images


def _histogram(curve: RocCurve, distance: Distance, bins: int = 100) -> PairHistogram:
    values = curve.scores if distance == "cosine" else -curve.scores
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    genuine, _ = np.histogram(values, edges, weights=np.diff(curve.genuine, prepend=0))
    impostor, _ = np.histogram(values, edges, weights=np.diff(curve.impostor, prepend=0))
    return PairHistogram(
        edges=tuple(edges.tolist()),
        genuine=tuple(int(n) for n in genuine),
        impostor=tuple(int(n) for n in impostor),
    )
