"""Quadruplet loss: a positive nearer than a negative, and nearer than two images of two other classes.

Chen, Chen, Zhang, Huang 2017, "Beyond Triplet Loss: A Deep Quadruplet Network for Person Re-identification", eq. 6
(arXiv 1704.01719): max(0, d_ap - d_an + margin) + max(0, d_ap - d_lk + second_margin), where l and k are of two
classes, neither the anchor's. The second term pushes classes apart that never meet the anchor; its margin is the
smaller.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.distances import DistanceName, paired_distance, pairwise_distance
from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, require, sum_where, wide_sum
from simclr.losses.mined import Miner, triplet_statistics
from simclr.losses.share import ALONE, Share
from simclr.losses.triplet import Reduction
from simclr.mining.tuples import positive_table, widest
from simclr.numerics import l2_normalize, row_chunks

__all__ = ["QuadrupletConfig", "QuadrupletLoss", "QuadrupletMining", "nearest_pair_outside", "random_pair_outside"]

QuadrupletMining = Literal["hard", "random"]
"""``hard``: farthest positive, nearest negative, nearest pair of other classes, for every anchor. ``random``: a random
negative and a random pair of other classes for every positive pair."""


@dataclass(frozen=True, kw_only=True)
class QuadrupletConfig(LabelLossConfig):
    """Quadruplet loss (Chen et al. 2017)."""

    name: ClassVar[str] = "quadruplet"

    margin: float = 0.5
    """By how much the anchor's negative must be farther than its positive."""
    second_margin: float = 0.25
    """By how much two images of two other classes must be farther apart than anchor and positive."""
    mining: QuadrupletMining = "random"
    """Which quadruplets of a batch count: random or hard. With many images a class the hardest of all four teach nothing."""
    distance: DistanceName = "squared"
    """euclidean, squared (the paper's), manhattan or cosine."""
    reduction: Reduction = "active"
    """Mean over the terms with a loss (active) or over all that were mined, for each of the two terms."""
    normalize: bool = True
    """Bring embeddings to length 1 first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(0, 0, 0)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "QuadrupletLoss":
        """The module; none of the numbers matters to it."""
        return QuadrupletLoss(
            self.margin,
            self.second_margin,
            mining=self.mining,
            distance=self.distance,
            reduction=self.reduction,
            normalize=self.normalize,
        )


class QuadrupletLoss(SharedLabelLoss):
    """Quadruplet loss of L2-normalised embeddings: the mean of its first hinges plus the mean of its second hinges.

    Quadruplets are mined: all of a batch are N^4. ``mining`` draws "random" ones, or takes the hardest ("hard"), which never
    left the start with many images a class (docs/decisions.md, "defaults of N-pair and quadruplet loss"). A batch of two
    classes has no second term.
    ``reduction``: means over the hinges above 0 ("active") or over all mined ("all"), each term by itself.

    `statistics`: those of `TripletLoss` for the first term; active and second_active (shares), outside_distance (mean
    of d_lk).
    """

    shares: ClassVar[bool] = True

    def __init__(
        self,
        margin: float = 0.5,
        second_margin: float = 0.25,
        *,
        mining: QuadrupletMining = "random",
        distance: DistanceName = "squared",
        reduction: Reduction = "active",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        require(margin >= 0, "margin", margin, "0 or more")
        require(0 <= second_margin <= margin, "second_margin", second_margin, f"in [0, margin = {margin}]")
        require(mining in get_args(QuadrupletMining), "mining", mining, "hard or random")
        require(reduction in get_args(Reduction), "reduction", reduction, "active or all")
        self.margin, self.second_margin, self.mining = margin, second_margin, mining
        self.distance, self.reduction, self.normalize = distance, reduction, normalize
        self.mine = Miner(strategy=mining, distance=distance, margin=margin, unit=normalize)

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both terms of the mined quadruplets."""
        z, labels = share.all(z), share.all(labels)
        z = l2_normalize(z) if self.normalize else z
        mined = self.mine(z, labels, generator, share)
        valid = mined.triplets.valid
        if self.mining == "hard":
            rows = z.detach()
            distances = pairwise_distance(share.own(rows), None if share.ranks == 1 else rows, kind=self.distance)
            left, right, exists = (one.unsqueeze(1) for one in nearest_pair_outside(distances, labels, share))
        else:
            drawn = random_pair_outside(labels, widest(labels), generator)
            left, right, exists = (share.own(one)[:, : valid.shape[1]] for one in drawn)
        outside = paired_distance(F.embedding(left, z), F.embedding(right, z), self.distance, unit=self.normalize)
        exists = exists & valid
        first = (mined.positive - mined.negative + self.margin).relu()
        second = (mined.positive - outside + self.second_margin).relu()
        statistics = triplet_statistics(mined, self.margin, share)
        first_mean, statistics["active"] = self._mean(first, valid, share)
        second_mean, statistics["second_active"] = self._mean(second, exists, share)
        far, count = share.sum(sum_where(outside, exists), exists.sum())
        statistics["outside_distance"] = (far / count).to(z.dtype)
        return first_mean + second_mean, statistics

    def _mean(self, hinge: Tensor, valid: Tensor, share: Share) -> tuple[Tensor, Tensor]:
        hinge = hinge.masked_fill(~valid, 0)
        total, active, count = share.sum(wide_sum(hinge), (hinge.detach() > 0).sum(), valid.sum())
        mean = total / (active if self.reduction == "active" else count).clamp(min=1)
        return mean.to(hinge.dtype), active / count

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, second_margin={self.second_margin}, mining={self.mining}, distance={self.distance}"
        )


def nearest_pair_outside(distances: Tensor, labels: Tensor, share: Share = ALONE) -> tuple[Tensor, Tensor, Tensor]:
    """For every anchor the nearest two samples (l, k) of two classes, neither its own: l (A,), k (A,), exists (A,).

    ``distances`` (A, N) are those of this process's rows, the anchors, to the ``labels`` (N,) of all processes.

    For every row its nearest sample of another class, and its nearest of a class that is neither its own nor that
    one's: whichever class an anchor has, one of the two is the row's nearest outside it. O(N^2) memory.
    """
    size = len(distances)
    nearest, second = distances.new_empty(size), distances.new_empty(size)
    of_nearest, of_second, left, right = (distances.new_zeros(size, dtype=torch.int64) for _ in range(4))
    exists = distances.new_zeros(size, dtype=torch.bool)
    if size == 0:
        return left, left, exists
    table = positive_table(labels, share.anchors(len(labels), labels.device))
    for rows in row_chunks(size, len(labels), distances.device):
        others = table.hide_own_class(distances[rows], rows, torch.inf)
        nearest[rows], of_nearest[rows] = others.min(1)
        others.masked_fill_(labels[of_nearest[rows]].unsqueeze(1) == labels, torch.inf)
        second[rows], of_second[rows] = others.min(1)
    exact = replace(share, narrow=False)
    nearest, second, of_nearest, of_second = (exact.all(one) for one in (nearest, second, of_nearest, of_second))
    of_anchors = share.own(labels)
    for rows in row_chunks(size, len(labels), distances.device):
        own = of_anchors[rows].unsqueeze(1)
        blocked = labels[of_nearest] == own  # (rows, N): the row's nearest is of the anchor's class
        value = torch.where(blocked, second, nearest).masked_fill_(own == labels, torch.inf)
        least, left[rows] = value.min(1)
        exists[rows] = least < torch.inf
        right[rows] = torch.where(blocked, of_second, of_nearest).gather(1, left[rows].unsqueeze(1)).squeeze(1)
    return left, right, exists


def random_pair_outside(
    labels: Tensor, draws: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """For every anchor ``draws`` random pairs (l, k) of two classes, neither its own: l, k, exists: (N, ``draws``).

    l is any sample outside the anchor's class, k then any outside both classes, each as likely as the others.
    """
    order = torch.argsort(labels, stable=True)
    grouped = labels[order].contiguous()
    start = torch.searchsorted(grouped, labels)
    size = torch.searchsorted(grouped, labels, right=True) - start
    own_start, own_size = start.unsqueeze(1).expand(-1, draws), size.unsqueeze(1).expand(-1, draws)
    nothing = torch.zeros_like(own_size)
    left, any_left = _draw_outside(order, own_start, own_size, own_start, nothing, generator)
    right, any_right = _draw_outside(order, own_start, own_size, start[left], size[left], generator)
    return left, right, any_left & any_right


def _draw_outside(
    order: Tensor,
    start: Tensor,
    size: Tensor,
    other_start: Tensor,
    other_size: Tensor,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """A random sample outside two runs of ``order``, and whether there is one."""
    free = len(order) - size - other_size
    uniform = torch.rand(free.shape, device=order.device, generator=generator)
    place = torch.minimum((uniform * free).long(), free - 1).clamp(min=0)
    own_first = start <= other_start
    low_start, low_size = torch.where(own_first, start, other_start), torch.where(own_first, size, other_size)
    high_start, high_size = torch.where(own_first, other_start, start), torch.where(own_first, other_size, size)
    place = torch.where(place >= low_start, place + low_size, place)
    place = torch.where(place >= high_start, place + high_size, place)
    return order[place.clamp(max=max(len(order) - 1, 0))], free > 0
