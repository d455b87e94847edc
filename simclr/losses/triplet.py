"""Triplet loss: a positive nearer than a negative by a margin.

    >>> z = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    >>> loss = TripletLoss(margin=0.2, mining="hard")
    >>> loss(z, torch.tensor([0, 0, 1, 1]))
    tensor(0.9081)
    >>> loss.statistics["hard"]
    tensor(4)

Schroff, Kalenichenko, Philbin 2015, "FaceNet: A Unified Embedding for Face Recognition and Clustering", eq. 3
(arXiv 1503.03832): sum over triplets of max(0, d_ap - d_an + margin). The paper's d is the squared distance of
normalised embeddings (``distance="squared"``); Hermans et al. 2017 (arXiv 1703.07737) found the plain one better.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from simclr.distances import DistanceName, pairwise_distance
from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, require, wide_sum
from simclr.losses.mined import Miner, Mining, all_of_batch, batch_all_statistics, triplet_statistics
from simclr.losses.share import Share
from simclr.mining.all import batch_all
from simclr.mining.hardest import Fallback
from simclr.numerics import l2_normalize

__all__ = ["Reduction", "TripletConfig", "TripletLoss"]

Reduction = Literal["active", "all"]
"""Mean over the terms above zero, or over all. The mean of the active ones does not fall while training succeeds: easy
triplets leave it. Watch ``active`` in the statistics instead."""


@dataclass(frozen=True, kw_only=True)
class TripletConfig(LabelLossConfig):
    """Triplet loss (Schroff et al. 2015)."""

    name: ClassVar[str] = "triplet"

    margin: float = 0.2
    """By how much a negative must be farther than a positive."""
    mining: Mining = "semi-hard"
    """Which triplets of a batch count: all, hard, semi-hard, distance-weighted or random; given: those that were mined
    offline (sampler.name mined)."""
    distance: DistanceName = "euclidean"
    """euclidean, squared (the paper's), manhattan or cosine."""
    reduction: Reduction = "active"
    """Mean over the triplets with a loss (active) or over all that were mined."""
    fallback: Fallback = "easiest"
    """For a positive pair without a semi-hard negative: its easiest negative, its hardest, or skip the pair."""
    normalize: bool = True
    """Bring embeddings to length 1 first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(0, 0, 0)

    @property
    def needs_triplets(self) -> bool:
        """With ``mining="given"``."""
        return self.mining == "given"

    def build(self, num_classes: int, dim: int, num_samples: int) -> "TripletLoss":
        """The module; none of the numbers matters to it."""
        return TripletLoss(
            self.margin, self.mining, self.distance, self.reduction, fallback=self.fallback, normalize=self.normalize
        )


class TripletLoss(SharedLabelLoss):
    """Triplet loss of L2-normalised embeddings: mean of max(0, d_ap - d_an + ``margin``) over mined triplets.

    ``mining``: "all" (every triplet), "hard" (one an anchor), "semi-hard", "distance-weighted", "random" (one a
    positive pair each), "given" (rows 3i, 3i + 1, 3i + 2); see `simclr.mining`. ``reduction``: mean over "active"
    triplets, those with a loss, or over "all". ``fallback``: what a positive pair without a semi-hard negative takes.
    ``cutoff`` and ``nonzero_below`` belong to distance-weighted draws. ``normalize=False`` compares embeddings as they
    are.

    `statistics`: triplets, active (share), easy, semi_hard, hard (counts of the mined triplets), anchors_dropped,
    order_violations (share with d_an <= d_ap), positive_distance, negative_distance (means over the mined triplets;
    over all pairs for "all").
    """

    shares: ClassVar[bool] = True

    def __init__(
        self,
        margin: float = 0.2,
        mining: Mining = "semi-hard",
        distance: DistanceName = "euclidean",
        reduction: Reduction = "active",
        *,
        fallback: Fallback = "easiest",
        normalize: bool = True,
        cutoff: float = 0.5,
        nonzero_below: float = 1.4,
    ) -> None:
        super().__init__()
        require(margin >= 0, "margin", margin, "0 or more")
        require(reduction in get_args(Reduction), "reduction", reduction, "active or all")
        self.margin, self.mining, self.distance, self.reduction = margin, mining, distance, reduction
        self.normalize = normalize
        self.mine = Miner(
            strategy=mining,
            distance=distance,
            margin=margin,
            unit=normalize,
            fallback=fallback,
            cutoff=cutoff,
            nonzero_below=nonzero_below,
        )

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean hinge, and the statistics of the mined triplets."""
        z, labels = share.all(z), share.all(labels)
        z = l2_normalize(z) if self.normalize else z
        if self.mining == "all":
            return self._all(z, labels, share)
        mined = self.mine(z, labels, generator, share)
        statistics = triplet_statistics(mined, self.margin, share)
        hinge = (mined.positive - mined.negative + self.margin).relu().masked_fill(~mined.triplets.valid, 0)
        total, active = share.sum(wide_sum(hinge), (hinge.detach() > 0).sum())
        statistics["active"] = active / statistics["triplets"]
        count = active if self.reduction == "active" else statistics["triplets"]
        return (total / count.clamp(min=1)).to(z.dtype), statistics

    def _all(self, z: Tensor, labels: Tensor, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        anchors = share.anchors(len(z), z.device)
        distances = pairwise_distance(share.own(z), None if anchors is None else z, kind=self.distance)
        every = all_of_batch(batch_all(distances, labels, self.margin, anchors=anchors), share)
        statistics = {**batch_all_statistics(every), "active": every.active / every.triplets}
        count = every.active if self.reduction == "active" else every.triplets
        return (every.loss / count.clamp(min=1)).to(z.dtype), statistics

    def warning(self, loss: float, statistics: Mapping[str, float]) -> str | None:
        """As the base, and the loss stuck at the margin: every distance equal."""
        if self.margin > 0 and abs(loss - self.margin) <= 0.01 * self.margin and statistics.get("active", 0) > 0.9:
            return (
                f"the triplet loss sits at its margin ({loss:.4g} of {self.margin}): all embeddings have collapsed to "
                "one point. Start again with a lower learning rate or mining semi-hard instead of hard."
            )
        return super().warning(loss, statistics)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, mining={self.mining}, distance={self.distance}, reduction={self.reduction}"
