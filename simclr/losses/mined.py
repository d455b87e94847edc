"""Distances of mined triplets, for the losses that are a function of d_ap and d_an."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.distances import DistanceName, check_distance, paired_distance, pairwise_distance
from simclr.errors import ConfigError, require
from simclr.losses.label_loss import sum_where
from simclr.losses.share import ALONE, Share
from simclr.mining.all import AllTriplets
from simclr.mining.hardest import Fallback, hard, semi_hard
from simclr.mining.tuples import Triplets, given_triplets
from simclr.mining.weighted import distance_weighted, random_negatives
from simclr.numerics import l2_normalize

__all__ = ["MinedDistances", "Miner", "Mining", "all_of_batch", "batch_all_statistics", "triplet_statistics"]

Mining = Literal["all", "hard", "semi-hard", "distance-weighted", "random", "given"]
"""The strategies of `simclr.mining`, by the name a config gives them; "given": the rows are triplets already, anchor,
positive and negative in turn, as offline mining puts them into a batch."""


class MinedDistances(NamedTuple):
    """Mined triplets of the A anchors of a batch with their distances, differentiable in the embeddings."""

    triplets: Triplets
    positive: Tensor
    """(A, T): d_ap; arbitrary (but finite) where the triplet is not valid."""
    negative: Tensor
    """(A, T): d_an."""


@dataclass(frozen=True, kw_only=True)
class Miner:
    """How a loss mines a batch: ``miner(z (N, D), labels (N,), generator)``, by any strategy but "all".

    Raises `ConfigError` for a name that is unknown.
    """

    strategy: Mining
    distance: DistanceName
    """The loss's; distance-weighted draws take the euclidean distance of the normalised rows, whatever this is."""
    margin: float
    """Of semi-hard mining."""
    unit: bool = True
    """Whether the rows have length 1."""
    fallback: Fallback = "easiest"
    """What a positive pair without a semi-hard negative takes."""
    cutoff: float = 0.5
    """Distance-weighted draws: distances below it count as it."""
    nonzero_below: float = 1.4
    """Distance-weighted draws: negatives at this distance or beyond are never drawn."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Mining):
            raise ConfigError(f"unknown mining {self.strategy!r}; expected one of {', '.join(get_args(Mining))}")
        check_distance(self.distance)
        require(self.fallback in get_args(Fallback), "fallback", self.fallback, "easiest, hardest or skip")

    def __call__(
        self, z: Tensor, labels: Tensor, generator: torch.Generator | None, share: Share = ALONE
    ) -> MinedDistances:
        """Mine ``z`` (N, D) of all processes for the anchors of this one, and give the distances of what was chosen."""
        own, anchors = share.own(z), share.anchors(len(z), z.device)
        distances = pairwise_distance(own, None if anchors is None else z, kind=self.distance)
        triplets = self._choose(distances.detach(), z.detach(), labels, generator, anchors)
        # A few triplets an anchor: differences of the rows chosen, whose gradient costs nothing next to that of the matrix.
        if triplets.valid.shape[1] * z.shape[1] <= 4 * len(z):
            anchor = own.unsqueeze(1)
            positive = paired_distance(anchor, F.embedding(triplets.positive, z), self.distance, unit=self.unit)
            negative = paired_distance(anchor, F.embedding(triplets.negative, z), self.distance, unit=self.unit)
        else:
            positive, negative = distances.gather(1, triplets.positive), distances.gather(1, triplets.negative)
        return MinedDistances(triplets, positive, negative)

    def _choose(
        self,
        distances: Tensor,
        z: Tensor,
        labels: Tensor,
        generator: torch.Generator | None,
        anchors: Tensor | None,
    ) -> Triplets:
        if self.strategy == "hard":
            return hard(distances, labels, anchors=anchors)
        if self.strategy == "semi-hard":
            return semi_hard(distances, labels, self.margin, self.fallback, anchors=anchors)
        if self.strategy == "given":
            every = given_triplets(labels)
            return every if anchors is None else Triplets(*(one[anchors] for one in every))
        if self.strategy == "random":
            return random_negatives(distances, labels, generator=generator, anchors=anchors, of_all=True)
        if self.distance != "euclidean" or not self.unit:
            unit = z if self.unit else l2_normalize(z)
            distances = pairwise_distance(unit) if anchors is None else pairwise_distance(unit[anchors], unit)
        return distance_weighted(
            distances,
            labels,
            z.shape[1],
            cutoff=self.cutoff,
            nonzero_below=self.nonzero_below,
            generator=generator,
            anchors=anchors,
            of_all=True,
        )


def triplet_statistics(mined: MinedDistances, margin: float, share: Share = ALONE) -> dict[str, Tensor]:
    """Counts and means over the mined triplets; a mean over none is NaN.

    ``hard``: d_an <= d_ap. ``semi_hard``: d_ap < d_an < d_ap + margin. ``easy``: the rest. ``order_violations``: share
    of hard ones, whose order is wrong.
    """
    valid = mined.triplets.valid
    positive, negative = mined.positive.detach(), mined.negative.detach()
    count, wrong, inside, dropped, near, far = share.sum(
        valid.sum(),
        (valid & (negative <= positive)).sum(),
        (valid & (negative < positive + margin)).sum(),
        mined.triplets.anchors_dropped(),
        sum_where(positive, valid),
        sum_where(negative, valid),
    )
    return {
        "triplets": count,
        "hard": wrong,
        "semi_hard": (inside - wrong).clamp(min=0),
        "easy": count - torch.maximum(inside, wrong),
        "anchors_dropped": dropped,
        "order_violations": wrong / count,
        "positive_distance": (near / count).to(positive.dtype),
        "negative_distance": (far / count).to(negative.dtype),
    }


def all_of_batch(every: AllTriplets, share: Share) -> AllTriplets:
    """Sums and means of all processes, each of which has those of its anchors."""
    if share.ranks == 1:
        return every
    near, far = every.positive_distance, every.negative_distance
    pairs = every.positive_pairs, every.negative_pairs
    sums = share.sum(*every[:5], near.nan_to_num() * pairs[0], far.nan_to_num() * pairs[1], *pairs)
    return AllTriplets._make((*sums[:5], sums[5] / sums[7], sums[6] / sums[8], *sums[7:]))


def batch_all_statistics(every: AllTriplets) -> dict[str, Tensor]:
    """The same over every triplet of a batch; the mean distances are over all pairs."""
    return {
        "triplets": every.triplets,
        "hard": every.hard,
        "semi_hard": (every.active - every.hard).clamp(min=0),
        "easy": every.triplets - torch.maximum(every.active, every.hard),
        "anchors_dropped": every.anchors_dropped,
        "order_violations": every.hard / every.triplets,
        "positive_distance": every.positive_distance.float(),
        "negative_distance": every.negative_distance.float(),
    }
