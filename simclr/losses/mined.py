"""Distances of mined triplets, for the losses that are a function of d_ap and d_an."""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.distances import DistanceName, l2_normalize, paired_distance, pairwise_distance
from simclr.errors import ConfigError
from simclr.losses.label_loss import mean_where
from simclr.mining_all import AllTriplets
from simclr.mining_hard import Fallback, hard, semi_hard
from simclr.mining_tuples import Triplets, given_triplets
from simclr.mining_weighted import distance_weighted, random_negatives

__all__ = ["MinedDistances", "Mining", "batch_all_statistics", "check_mining", "mine", "triplet_statistics"]

Mining = Literal["all", "hard", "semi-hard", "distance-weighted", "random", "given"]
"""The strategies of `simclr.mining`, by the name a config gives them; "given": the rows are triplets already, anchor,
positive and negative in turn, as offline mining puts them into a batch."""


class MinedDistances(NamedTuple):
    """Mined triplets of a batch with their distances, differentiable in the embeddings."""

    triplets: Triplets
    positive: Tensor
    """(N, T): d_ap; arbitrary (but finite) where the triplet is not valid."""
    negative: Tensor
    """(N, T): d_an."""


def check_mining(name: str) -> None:
    """Raise `ConfigError` unless ``name`` is one of `Mining`."""
    if name not in get_args(Mining):
        raise ConfigError(f"unknown mining {name!r}; expected one of {', '.join(get_args(Mining))}")


def mine(
    z: Tensor,
    labels: Tensor,
    strategy: Mining,
    *,
    unit: bool,
    distance: DistanceName,
    margin: float,
    fallback: Fallback,
    cutoff: float,
    nonzero_below: float,
    generator: torch.Generator | None,
) -> MinedDistances:
    """Mine ``z`` (N, D) by any ``strategy`` but "all", and give the distances of what was chosen.

    ``unit``: the rows have length 1. Distance-weighted draws take the euclidean distance of the normalised rows,
    whatever ``distance`` the loss has.
    """
    distances = pairwise_distance(z, kind=distance)
    choose_by = distances.detach()
    if strategy == "hard":
        triplets = hard(choose_by, labels)
    elif strategy == "semi-hard":
        triplets = semi_hard(choose_by, labels, margin, fallback)
    elif strategy == "given":
        triplets = given_triplets(labels)
    elif strategy == "random":
        triplets = random_negatives(choose_by, labels, generator=generator)
    else:
        on_sphere = choose_by
        if distance != "euclidean" or not unit:
            on_sphere = pairwise_distance(z.detach() if unit else l2_normalize(z.detach()))
        triplets = distance_weighted(
            on_sphere, labels, z.shape[1], cutoff=cutoff, nonzero_below=nonzero_below, generator=generator
        )
    # A few triplets an anchor: differences of the rows chosen, whose gradient costs nothing next to that of the matrix.
    if triplets.valid.shape[1] * z.shape[1] <= 4 * len(z):
        anchor = z.unsqueeze(1)
        positive = paired_distance(anchor, F.embedding(triplets.positive, z), distance)
        negative = paired_distance(anchor, F.embedding(triplets.negative, z), distance)
    else:
        positive, negative = distances.gather(1, triplets.positive), distances.gather(1, triplets.negative)
    return MinedDistances(triplets, positive, negative)


def triplet_statistics(mined: MinedDistances, margin: float) -> dict[str, Tensor]:
    """Counts and means over the mined triplets; a mean over none is NaN.

    ``hard``: d_an <= d_ap. ``semi_hard``: d_ap < d_an < d_ap + margin. ``easy``: the rest. ``order_violations``: share
    of hard ones, whose order is wrong.
    """
    valid = mined.triplets.valid
    positive, negative = mined.positive.detach(), mined.negative.detach()
    count = valid.sum()
    wrong = (valid & (negative <= positive)).sum()
    inside = (valid & (negative < positive + margin)).sum()
    return {
        "triplets": count,
        "hard": wrong,
        "semi_hard": (inside - wrong).clamp(min=0),
        "easy": count - torch.maximum(inside, wrong),
        "anchors_dropped": mined.triplets.anchors_dropped(),
        "order_violations": wrong / count,
        "positive_distance": mean_where(positive, valid),
        "negative_distance": mean_where(negative, valid),
    }


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
