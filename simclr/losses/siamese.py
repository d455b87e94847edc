"""Siamese verification: the probability that two images are of one class, as a logistic function of their distance.

Koch, Zemel, Salakhutdinov 2015, "Siamese Neural Networks for One-shot Image Recognition", eq. 1: binary cross-entropy
of p(same) over pairs, one encoder for both images. The paper weighs the coordinates of |x - y|; here the distance is
any of `simclr.distances`, and p(same) = sigmoid(w (t - d)) with a learned threshold t and steepness w > 0: the encoder
alone serves search, and the two numbers turn a distance into a probability.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.distances import DistanceName, check_distance, pairwise_distance
from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, require, sum_where
from simclr.losses.share import ALONE, Share
from simclr.numerics import l2_normalize

__all__ = ["SiameseConfig", "SiameseLoss"]


@dataclass(frozen=True, kw_only=True)
class SiameseConfig(LabelLossConfig):
    """Binary cross-entropy on pairs (Koch et al. 2015)."""

    name: ClassVar[str] = "siamese"

    threshold: float = 1.0
    """Where the distance at which both answers are equally likely starts."""
    steepness: float = 5.0
    """Where the slope of the log-odds over distance starts."""
    balanced: bool = True
    """Give pairs of one class and pairs of two classes half of the weight each, as the paper samples them."""
    distance: DistanceName = "euclidean"
    """euclidean, squared, manhattan or cosine."""
    normalize: bool = True
    """Bring embeddings to length 1 first."""
    lr_multiplier: float = 10.0
    """Learning rate of threshold and steepness, as a multiple of the encoder's. No weight decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(0, 0, 0)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "SiameseLoss":
        """The module; none of the numbers matters to it."""
        return SiameseLoss(
            self.threshold, self.steepness, balanced=self.balanced, distance=self.distance, normalize=self.normalize
        )


class SiameseLoss(SharedLabelLoss):
    """Cross-entropy of p(same) = sigmoid(w (t - d)) on L2-normalised embeddings, over all pairs i < j of the batch.

    ``balanced``: the mean over pairs of one class plus the mean over pairs of two classes, halved (only one of them
    where the batch has no pair of the other kind); without it the mean over all pairs, most of which are of two
    classes. Parameters: `threshold` t, and `log_steepness`, whose exponential is w > 0.

    `statistics`: accuracy (balanced, or over all pairs, as the loss), threshold, steepness, positive_distance,
    negative_distance.
    """

    shares: ClassVar[bool] = True

    def __init__(
        self,
        threshold: float = 1.0,
        steepness: float = 5.0,
        *,
        balanced: bool = True,
        distance: DistanceName = "euclidean",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        require(steepness > 0, "steepness", steepness, "positive")
        check_distance(distance)
        self.balanced, self.distance, self.normalize = balanced, distance, normalize
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        self.log_steepness = nn.Parameter(torch.tensor(float(steepness)).log())

    def logits(self, distances: Annotated[Tensor, "float ..."]) -> Annotated[Tensor, "float ..."]:
        """Log-odds w (t - d) that two images at these ``distances`` (any shape) are of one class."""
        return self._logits(distances, ALONE)

    def _logits(self, distances: Tensor, share: Share) -> Tensor:
        return share.alike(self.log_steepness).exp() * (share.alike(self.threshold) - distances)

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy from log-odds; the matrix holds every pair twice."""
        every, classes = share.all(z), share.all(labels)
        every = l2_normalize(every) if self.normalize else every
        d = pairwise_distance(share.own(every), None if share.ranks == 1 else every, kind=self.distance)
        same = labels.unsqueeze(1) == classes
        logits = self._logits(d, share)
        loss = F.softplus(torch.where(same, -logits, logits))
        right = (logits.detach() > 0) == same
        positive, negative = same & ~share.itself(len(every), z.device), ~same
        positives, negatives = share.sum(positive.sum(), negative.sum())
        weight = self._weights(positive, negative, positives, negatives, loss.dtype)
        total, accuracy, near, far = share.sum(
            (loss * weight).sum(), (right * weight).sum(), sum_where(d, positive), sum_where(d, negative)
        )
        statistics = {
            "accuracy": accuracy,
            "threshold": self.threshold,
            "steepness": self.log_steepness.exp(),
            "positive_distance": (near / positives).to(d.dtype),
            "negative_distance": (far / negatives).to(d.dtype),
        }
        return total, statistics

    def _weights(
        self, positive: Tensor, negative: Tensor, positives: Tensor, negatives: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Weight of each pair, (A, N), sum 1 over all processes where there is a pair."""
        positive, negative = positive.to(dtype), negative.to(dtype)
        positives, negatives = positives.to(dtype), negatives.to(dtype)
        if not self.balanced:
            return (positive + negative) / (positives + negatives).clamp(min=1)
        kinds = (positives.clamp(max=1) + negatives.clamp(max=1)).clamp(min=1)
        return (positive / positives.clamp(min=1) + negative / negatives.clamp(min=1)) / kinds

    def extra_repr(self) -> str:
        return f"balanced={self.balanced}, distance={self.distance}"
