"""Margin loss: pairs on their side of a learned boundary, by a margin, with distance-weighted negatives.

Wu, Manmatha, Smola, Kraehenbuehl 2017, "Sampling Matters in Deep Embedding Learning", section 4 (arXiv 1706.07567):
max(0, alpha + y_ij (d_ij - beta_i)) with y = 1 for a positive pair and -1 for a negative one, and a boundary in three
levels, beta_i = beta + beta_class[label of i] + beta_sample[i]. It asks of distances what isotonic regression asks of
scores: only that they be ordered around the boundary, not how large they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.distances import DistanceName, pairwise_distance
from simclr.losses.label_loss import (
    LabelLossConfig,
    SharedLabelLoss,
    check_classes,
    check_numbered,
    require,
    wide_sum,
)
from simclr.losses.mined import Miner, Mining, all_of_batch, batch_all_statistics, triplet_statistics
from simclr.losses.share import Share
from simclr.losses.triplet import Reduction
from simclr.mining.all import batch_all
from simclr.mining.hardest import Fallback
from simclr.numerics import l2_normalize, wide_dtype

__all__ = ["MarginConfig", "MarginLoss"]


@dataclass(frozen=True, kw_only=True)
class MarginConfig(LabelLossConfig):
    """Margin loss with distance-weighted sampling (Wu et al. 2017)."""

    name: ClassVar[str] = "margin"

    alpha: float = 0.2
    """Margin: how far on its side of the boundary a pair must be."""
    beta: float = 1.2
    """Where the boundary starts: positive pairs belong below it, negative pairs above."""
    learn_beta: bool = True
    """Train the boundary that all images share."""
    class_beta: bool = False
    """Train an offset of the boundary for every class."""
    sample_beta: bool = False
    """Train an offset of the boundary for every training image."""
    nu: float = 0.0
    """Weight of the boundaries in the loss: above 0 it draws them down, to tighter classes."""
    mining: Mining = "distance-weighted"
    """How negatives are chosen: distance-weighted (the paper's), random, hard or semi-hard; all: every pair; given: the
    triplets that were mined offline (sampler.name mined)."""
    cutoff: float = 0.5
    """Distances below it count as it in distance-weighted draws."""
    nonzero_below: float = 1.4
    """Negatives at this distance or beyond are never drawn."""
    distance: DistanceName = "euclidean"
    """euclidean, squared, manhattan or cosine; alpha and beta are in its units."""
    reduction: Reduction = "active"
    """Mean over the pairs with a loss (active) or over all pairs."""
    fallback: Fallback = "easiest"
    """For semi-hard mining: what a positive pair without a semi-hard negative takes."""
    lr_multiplier: float = 10.0
    """Learning rate of the boundaries, as a multiple of the encoder's. No weight decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(1, 1, 1)

    @property
    def needs_triplets(self) -> bool:
        """With ``mining="given"``."""
        return self.mining == "given"

    def build(self, num_classes: int, dim: int, num_samples: int) -> "MarginLoss":
        """The module, with as many class and sample boundaries as asked for."""
        return MarginLoss(
            self.alpha,
            self.beta,
            num_classes if self.class_beta else None,
            num_samples if self.sample_beta else None,
            self.nu,
            learn_beta=self.learn_beta,
            mining=self.mining,
            distance=self.distance,
            reduction=self.reduction,
            fallback=self.fallback,
            cutoff=self.cutoff,
            nonzero_below=self.nonzero_below,
        )


class MarginLoss(SharedLabelLoss):
    """Margin loss of L2-normalised embeddings: hinges of d_ap - beta + ``alpha`` and of beta - d_an + ``alpha``.

    For every mined triplet one hinge for its positive pair and one for its negative pair, both with the anchor's
    boundary; for ``mining="all"`` every ordered pair of the batch once. ``reduction="active"``: the sum over the number
    of hinges above zero (the authors' code), or "all": over the number of hinges. No active hinge gives exactly 0.

    The boundary is ``beta`` (a parameter, or a buffer with ``learn_beta=False``) + ``beta_class`` (``num_classes``,)
    where given + ``beta_sample`` (``num_samples``,) where given; the offsets start at 0. ``nu`` adds nu * beta_i for
    each triplet (each anchor for "all") to the sum. The parameters want a learning rate of their own and no weight
    decay.

    `statistics`: those of `TripletLoss` over the mined triplets, active (share of hinges above 0), and beta (the mean
    over anchors).

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 and indices outside 0..num_samples-1 (a GPU asserts).

        >>> loss = MarginLoss(mining="all")
        >>> loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).detach()  # sqrt(2) - 1.2 + 0.2
        tensor(0.4142)
    """

    shares: ClassVar[bool] = True

    beta: Tensor

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 1.2,
        num_classes: int | None = None,
        num_samples: int | None = None,
        nu: float = 0.0,
        *,
        learn_beta: bool = True,
        mining: Mining = "distance-weighted",
        distance: DistanceName = "euclidean",
        reduction: Reduction = "active",
        fallback: Fallback = "easiest",
        cutoff: float = 0.5,
        nonzero_below: float = 1.4,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        require(alpha >= 0, "alpha", alpha, "0 or more")
        require(nu >= 0, "nu", nu, "0 or more")
        require(
            0 < cutoff < nonzero_below < 2, "cutoff", cutoff, f"above 0 and below nonzero_below = {nonzero_below} < 2"
        )
        require(reduction in get_args(Reduction), "reduction", reduction, "active or all")
        for name, count in (("num_classes", num_classes), ("num_samples", num_samples)):
            require(count is None or count >= 1, name, count, "1 or more, or none for one boundary of all")
        self.alpha, self.nu, self.mining, self.distance, self.reduction = alpha, nu, mining, distance, reduction
        self.normalize = normalize
        self.mine = Miner(
            strategy=mining,
            distance=distance,
            margin=alpha,
            unit=normalize,
            fallback=fallback,
            cutoff=cutoff,
            nonzero_below=nonzero_below,
        )
        start = torch.tensor(float(beta))
        if learn_beta:
            self.beta = nn.Parameter(start)
        else:
            self.register_buffer("beta", start)
        self.beta_class = None if num_classes is None else nn.Parameter(torch.zeros(num_classes))
        self.beta_sample = None if num_samples is None else nn.Parameter(torch.zeros(num_samples))

    def boundaries(self, labels: Tensor, indices: Tensor | None = None) -> Tensor:
        """The boundary of each anchor: (N,). ``indices`` (N,) int64 are needed where every sample has its own."""
        beta = self.beta.expand(len(labels))
        if self.beta_class is not None:
            check_classes(labels, len(self.beta_class))
            beta = beta + F.embedding(labels, self.beta_class.unsqueeze(1)).squeeze(1)
        if self.beta_sample is not None:
            if indices is None:
                raise ValueError(
                    "a boundary a sample (num_samples) needs the images' indices: loss(z, labels, indices)"
                )
            if indices.dtype != torch.int64 or indices.shape != labels.shape:
                raise ValueError(
                    f"indices are {indices.dtype} of shape {tuple(indices.shape)}, expected int64 ({len(labels)},): the number "
                    "of each image in the training set"
                )
            check_numbered(indices, len(self.beta_sample), "indices", "samples")
            beta = beta + F.embedding(indices, self.beta_sample.unsqueeze(1)).squeeze(1)
        return beta

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of hinges and boundaries over their number, and the statistics of what was mined."""
        z, labels = share.all(z), share.all(labels)
        z = l2_normalize(z) if self.normalize else z
        every_beta = self.boundaries(labels, None if indices is None else share.all(indices)).to(z.dtype)  # (N,)
        beta = share.own(share.alike(every_beta))
        if self.mining == "all":
            return self._all(z, labels, beta, every_beta, share)
        mined = self.mine(z, labels, generator, share)
        valid, boundary = mined.triplets.valid, beta.unsqueeze(1)
        positive = (mined.positive - boundary + self.alpha).relu().masked_fill(~valid, 0)
        negative = (boundary - mined.negative + self.alpha).relu().masked_fill(~valid, 0)
        active = (positive.detach() > 0).sum() + (negative.detach() > 0).sum()
        statistics = triplet_statistics(mined, self.alpha, share)
        total = wide_sum(positive) + wide_sum(negative) + self.nu * (valid.sum(1) * beta).sum()
        return self._reduce(share.sum(total, active, 2 * valid.sum()), every_beta, statistics)

    def _all(
        self, z: Tensor, labels: Tensor, beta: Tensor, every_beta: Tensor, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        anchors = share.anchors(len(z), z.device)
        d = pairwise_distance(share.own(z), None if anchors is None else z, kind=self.distance)
        same = share.own(labels).unsqueeze(1) == labels
        itself = share.itself(len(z), z.device)
        boundary = beta.unsqueeze(1)
        hinge = torch.where(same, d - boundary + self.alpha, boundary - d + self.alpha).relu().masked_fill(itself, 0)
        every = all_of_batch(batch_all(d.detach(), labels, self.alpha, anchors=anchors), share)
        pairs = torch.full((), d.numel() - len(d), device=z.device)
        total = hinge.sum(dtype=None if self.normalize else wide_dtype(z.device)) + self.nu * beta.sum()
        sums = share.sum(total, (hinge.detach() > 0).sum(), pairs)
        return self._reduce(sums, every_beta, batch_all_statistics(every))

    def _reduce(
        self, sums: tuple[Tensor, ...], beta: Tensor, statistics: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, active, count = sums
        divisor = active if self.reduction == "active" else count
        loss = (total / divisor.clamp(min=1)).where(divisor > 0, 0 * total)
        return loss.to(beta.dtype), {**statistics, "active": active / count, "beta": beta.mean()}

    def warning(self, loss: float, statistics: Mapping[str, float]) -> str | None:
        """As the base, and a boundary that has left the range of distances of unit vectors."""
        beta = statistics.get("beta")
        if beta is not None and self.normalize and self.distance == "euclidean" and not 0 < beta < 2:
            return f"the mean boundary is {beta:.3g}, outside the distances (0, 2): lower its learning rate or nu"
        return super().warning(loss, statistics)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, nu={self.nu}, mining={self.mining}, distance={self.distance}"
