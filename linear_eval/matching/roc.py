"""The ROC of pairs: how many pairs of one class, and of different classes, are accepted at every threshold.

Up to ``EXACT_PAIRS`` pairs every distinct score is an operating point of its own. Above that the pairs are counted
into a fixed fine histogram of scores, all of them and none sampled: 60,000 rows are 1.8e9 pairs, which no list holds.
An operating point of that form is the edge of a bin, and its counts are still exact; only the order *within* a bin is
unknown, and ``RocCurve.auc_resolution`` bounds what that can change.

The words are those of ISO/IEC 19795-1: a *genuine* pair is of one class, an *impostor* pair of two; FAR is the share
of impostor pairs that are accepted, TAR the share of genuine pairs that are accepted, FRR = 1 - TAR.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from linear_eval.features.numbers import Listed, as_numbers
from linear_eval.matching.similarity import COSINE_GRID, Distance, Embeddings, block_scores, pair_scores
from simclr.errors import DataError

__all__ = ["EXACT_PAIRS", "RocCurve", "pair_curve"]

EXACT_PAIRS = 2**23
"""Largest number of pairs whose scores are held and sorted (4,096 rows, all with all). More are counted in bins."""

COSINE_BINS = 2**20
EUCLIDEAN_SHIFT = 10  # of the 23 bits of a float32's mantissa 13 stay: distances to 1 part in 8,192


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """Counts of accepted pairs by threshold; a pair is accepted when its score is at least the threshold."""

    scores: np.ndarray
    """(T,) float64, strictly falling: the thresholds, as scores (see :mod:`linear_eval.matching.similarity`)."""

    genuine: np.ndarray
    """(T,) int64: genuine pairs accepted at each threshold. The last entry is all of them."""

    impostor: np.ndarray
    """(T,) int64: impostor pairs accepted at each threshold. The last entry is all of them."""

    exact: bool
    """Whether every distinct score is a threshold. False: thresholds are the edges of bins."""

    @staticmethod
    def from_counts(scores: np.ndarray, genuine: np.ndarray, impostor: np.ndarray, exact: bool) -> "RocCurve":
        """From the number of pairs at each of the falling ``scores``, all (T,).

        Raises:
            DataError: no genuine or no impostor pair, so that one of the two rates does not exist.
        """
        total_genuine, total_impostor = int(genuine.sum()), int(impostor.sum())
        if total_genuine == 0 or total_impostor == 0:
            raise DataError(
                f"verification needs pairs of one class and pairs of different classes, got {total_genuine:,} and "
                f"{total_impostor:,}; give at least two classes, one of them with two images"
            )
        return RocCurve(scores=scores, genuine=genuine.cumsum(), impostor=impostor.cumsum(), exact=exact)

    @property
    def genuine_pairs(self) -> int:
        return int(self.genuine[-1])

    @property
    def impostor_pairs(self) -> int:
        return int(self.impostor[-1])

    @property
    def tar(self) -> np.ndarray:
        return self.genuine / self.genuine_pairs

    @property
    def far(self) -> np.ndarray:
        return self.impostor / self.impostor_pairs

    def auc(self) -> float:
        """Chance that a genuine pair outscores an impostor pair, ties counting half (Mann-Whitney)."""
        heights = self.tar + np.concatenate([[0.0], self.tar[:-1]])
        return float(np.sum(np.diff(self.far, prepend=0.0) * heights) / 2)

    def auc_resolution(self) -> float:
        """Most that :meth:`auc` can be off because scores share a bin; 0 when exact."""
        if self.exact:
            return 0.0
        return float(np.sum(np.diff(self.far, prepend=0.0) * np.diff(self.tar, prepend=0.0)) / 2)

    def eer(self) -> tuple[float, int]:
        """Equal error rate, linear between neighbouring operating points, and the index of the nearer point."""
        far, gap = np.concatenate([[0.0], self.far]), np.concatenate([[1.0], 1 - self.tar - self.far])
        after = int(np.argmax(gap <= 0))  # first point with FAR >= FRR; the last point has FAR 1, FRR 0
        share = gap[after - 1] / (gap[after - 1] - gap[after])
        rate = far[after - 1] + share * (far[after] - far[after - 1])
        nearer = after - 1 if after > 1 and gap[after - 1] < -gap[after] else after
        return float(rate), nearer - 1

    def index_at_far(self, far: float) -> int | None:
        """The loosest operating point whose FAR does not exceed ``far``: -1 accepts nothing at all.

        None when a FAR of this size is less than one impostor pair, and so cannot be measured.
        """
        allowed = math.floor(far * self.impostor_pairs * (1 + 1e-12))
        if allowed < 1:
            return None
        return int(np.searchsorted(self.impostor, allowed, side="right")) - 1

    def index_at_score(self, score: float) -> int:
        """The loosest operating point that accepts nothing below ``score``: -1 accepts nothing at all."""
        return int(np.searchsorted(-self.scores, -score, side="right")) - 1

    def score_at(self, index: int) -> float:
        """Threshold of an operating point, one that nothing reaches for index -1."""
        return float(self.scores[index]) if index >= 0 else float(np.nextafter(self.scores[0], np.inf))

    def between(self, index: int) -> float:
        """Threshold halfway from an operating point to the next score, which is the safest that accepts the same pairs.

        In bins the scores next to the edge are not known, and the edge itself is given.
        """
        if not self.exact or not 0 <= index < len(self.scores) - 1:
            return self.score_at(index)
        return float(self.scores[index] + self.scores[index + 1]) / 2

    def thinned(self, points: int = 300) -> tuple[list[float], list[float]]:
        """(FAR, TAR) of about ``points`` operating points, dense in FAR and in log FAR, both ends among them."""
        low = math.log10(1 / self.impostor_pairs)
        wanted = np.concatenate([np.linspace(0, 1, points // 2), np.logspace(low, 0, points // 2)])
        index = np.searchsorted(self.far, wanted * (1 + 1e-12), side="right") - 1
        kept = np.unique(np.concatenate([index[index >= 0], [len(self.scores) - 1]]))
        return [0.0, *self.far[kept].tolist()], [0.0, *self.tar[kept].tolist()]


def pair_curve(
    embeddings: Embeddings, pairs: Tensor | Listed | None = None, exact_pairs: int = EXACT_PAIRS
) -> RocCurve:
    """ROC of ``pairs`` (P, 2) int64 of row numbers, or of all N (N - 1) / 2 pairs of different rows.

    Raises:
        DataError: pairs of another shape or type, out of range, of a row with itself, or all genuine or all impostor.
    """
    rows = len(embeddings)
    if pairs is None:
        count, chunks = rows * (rows - 1) // 2, _all_pairs(embeddings)
    else:
        listed = checked_pairs(pairs, rows).to(embeddings.rows.device)
        count, chunks = len(listed), _listed_pairs(embeddings, listed)
    if count <= exact_pairs:
        return _exact_curve(list(chunks))
    return _binned_curve(chunks, embeddings.distance)


def checked_pairs(pairs: Annotated[Tensor, "P 2"] | Listed, rows: int) -> Annotated[Tensor, "int64 P 2"]:
    """``pairs`` if they are (P, 2) integers that name two different ones of ``rows`` rows, else a DataError."""
    pairs = as_numbers(pairs, "pairs")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or pairs.dtype == torch.bool:
        raise DataError(f"pairs must be integers (P, 2), got {tuple(pairs.shape)} {pairs.dtype}")
    pairs = pairs.long()
    outside = torch.nonzero(((pairs < 0) | (pairs >= rows)).any(1)).flatten()
    if len(outside):
        at = int(outside[0])
        raise DataError(f"pair {at} is {pairs[at].tolist()}, but there are rows 0..{rows - 1} only")
    same = torch.nonzero(pairs[:, 0] == pairs[:, 1]).flatten()
    if len(same):
        raise DataError(
            f"{len(same)} pairs compare a row with itself, the first is pair {int(same[0])}; "
            "such a pair is always accepted and says nothing: leave it out"
        )
    return pairs


def _all_pairs(embeddings: Embeddings) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and sameness of the pairs i < j, a run of rows i at a time: among these, then with all that follow."""
    rows, labels = embeddings.rows, embeddings.labels
    for start, stop in embeddings.row_chunks(len(rows)):
        scores = block_scores(rows[start:stop], rows[start:], embeddings.distance)
        same = labels[start:stop, None] == labels[None, start:]
        width = stop - start
        upper = torch.ones(width, width, dtype=torch.bool, device=rows.device).triu_(1)
        yield scores[:, :width][upper], same[:, :width][upper]
        yield scores[:, width:], same[:, width:]


def _listed_pairs(embeddings: Embeddings, pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    width = embeddings.rows.shape[1]
    for part in pairs.split(max(1, 2**25 // (8 * width))):  # two copies of (P, F) float64 at a time
        labels = embeddings.labels[part]
        yield pair_scores(embeddings, part), labels[:, 0] == labels[:, 1]


def _exact_curve(chunks: list[tuple[Tensor, Tensor]]) -> RocCurve:
    scores = np.concatenate([part.flatten().cpu().numpy() for part, _ in chunks] or [np.empty(0)])
    same = np.concatenate([part.flatten().cpu().numpy() for _, part in chunks] or [np.empty(0, dtype=bool)])
    falling, which = np.unique(-scores, return_inverse=True)
    genuine = np.bincount(which[same], minlength=len(falling))
    impostor = np.bincount(which[~same], minlength=len(falling))
    return RocCurve.from_counts(-falling, genuine, impostor, exact=True)


def _binned_curve(chunks: Iterator[tuple[Tensor, Tensor]], distance: Distance) -> RocCurve:
    """Bins are numbered so that their scores fall; two counters a bin, impostor and genuine."""
    bins = COSINE_BINS if distance == "cosine" else (0x7F800000 >> EUCLIDEAN_SHIFT) + 1
    counts = torch.zeros(2 * bins, dtype=torch.int64)
    for scores, same in chunks:
        if distance == "cosine":  # 1 -> bin 0, -1 -> the last bin
            bin_of = (1 - scores).mul_(bins // 2).to(torch.int32).clamp_max_(bins - 1)
        else:  # the bits of a non-negative float32 sort like its value
            bin_of = scores.neg().float().abs_().view(torch.int32).bitwise_right_shift_(EUCLIDEAN_SHIFT)
        counts += torch.bincount(bin_of.mul_(2).add_(same).flatten(), minlength=2 * bins).cpu()
    impostor, genuine = counts.view(bins, 2).T.numpy()
    used = np.flatnonzero(genuine + impostor)
    # The least score of a bin, so that "at least the threshold" is "in this bin or a better one".
    if distance == "cosine":
        least = 1.0 - (used + 1) * (2.0 / bins) + COSINE_GRID
        least[used == bins - 1] = -1.0
    else:
        largest = ((used.astype(np.int64) + 1) << EUCLIDEAN_SHIFT) - 1
        least = -np.minimum(largest, 0x7F7FFFFF).astype(np.int32).view(np.float32).astype(np.float64)
    return RocCurve.from_counts(least, genuine[used], impostor[used], exact=False)
