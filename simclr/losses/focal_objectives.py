"""The focal losses as objectives with a head: a classifier of independent sigmoids, and a regressor over bins."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor, nn

from simclr.errors import ConfigError
from simclr.losses.focal import (
    DistributionHead,
    distribution_focal_loss,
    integral,
    quality_focal_loss,
    soft_quality_focal_loss,
)
from simclr.losses.label_loss import (
    LabelLossConfig,
    LinearHeadLoss,
    SharedLabelLoss,
    check_classes,
    check_sizes,
    linear,
    require,
)
from simclr.losses.share import ALONE, Share
from simclr.losses.target_bins import TargetBins, choose_bins

__all__ = ["DistributionFocalConfig", "DistributionFocalLoss", "QualityFocalConfig", "QualityFocalLoss"]


@dataclass(frozen=True, kw_only=True)
class QualityFocalConfig(LabelLossConfig):
    """Quality focal loss with a linear head (Li et al. 2020)."""

    name: ClassVar[str] = "quality-focal"
    soft_labels: ClassVar[bool] = True

    beta: float = 2.0
    """Exponent of ``|y - sigma|``: how much less a sample weighs that is nearly right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", self.beta, "positive")

    def build(self, num_classes: int, dim: int, num_samples: int) -> "QualityFocalLoss":
        """The module with a linear head from ``dim`` to ``num_classes``."""
        return QualityFocalLoss(num_classes, dim, self.beta)


class QualityFocalLoss(LinearHeadLoss):
    """`quality_focal_loss` of a linear head on embeddings as they are, quality 1 at the label; mean over the batch.

    Labels below 0 are background; those above the last class raise `ValueError` on a CPU. Labels may also be soft: the
    quality of every class in [0, 1], floating point (N, C).
    Each class is a sigmoid of its own: `scores` are no logits of a softmax.

    Parameters: ``head``. `statistics`: accuracy (over the samples that have a class).
    """

    shares: ClassVar[bool] = True
    sigmoids: ClassVar[bool] = True

    def __init__(self, num_classes: int, dim: int, beta: float = 2.0) -> None:
        super().__init__(num_classes, dim)
        require(beta > 0, "beta", beta, "positive")
        self.beta = beta
        nn.init.constant_(self.head.bias, -4.0)  # sigma 0.018: rare classes, as focal losses start (Lin et al. 2017)

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss; 0 for an empty batch."""
        logits = self._part_scores(z, share)
        if labels.ndim == 2:
            right, counted = logits.argmax(1) == labels.argmax(1), torch.ones_like(labels[:, 0], dtype=torch.bool)
            loss = soft_quality_focal_loss(logits, labels, self.beta)
        else:
            check_classes(labels.clamp(min=0), self.num_classes)
            counted = labels >= 0
            right = (logits.argmax(1) == labels) & counted
            loss = quality_focal_loss(logits, labels, torch.ones_like(logits[:, 0]), self.beta)
        loss, right, count = share.sum(loss, right.sum(), counted.sum())
        return loss / share.ranks, {"accuracy": right / count}

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


@dataclass(frozen=True, kw_only=True)
class DistributionFocalConfig(LabelLossConfig):
    """Regression of a number by distribution focal loss over bins (Li et al. 2020)."""

    name: ClassVar[str] = "distribution-focal"
    reads_numbers: ClassVar[bool] = True

    low: float | None = None
    """Target at the first bin; None takes the bins from the training images' numbers (`choose_bins`), or one bin a class
    for labels 0..C-1 as the number."""
    high: float | None = None
    """Target at the last bin; None with low."""
    bins: int | None = None
    """Number of bins; None with low."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.low, self.high, self.bins)
        if any(value is None for value in given) and any(value is not None for value in given):
            raise ConfigError(f"low, high and bins are {given}; give all three (see choose_bins) or none")
        self._bins(2)

    def fitted(self, targets: Tensor, num_classes: int) -> Self:
        """With bins chosen on the histogram of ``targets`` (N,), where they are numbers and none are given."""
        if self.low is not None or not targets.is_floating_point():
            return self
        bins = choose_bins(targets)
        return replace(self, low=bins.low, high=bins.high, bins=bins.count)

    def _bins(self, num_classes: int) -> TargetBins:
        if self.low is None or self.high is None or self.bins is None:
            return TargetBins(low=0.0, high=num_classes - 1.0, count=num_classes)
        return TargetBins(low=self.low, high=self.high, count=self.bins)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "DistributionFocalLoss":
        """The module with a head from ``dim`` to the bins."""
        return DistributionFocalLoss(dim, self._bins(num_classes))


class DistributionFocalLoss(SharedLabelLoss):
    """`distribution_focal_loss` of a `DistributionHead` on embeddings as they are; mean over the batch.

    ``labels`` are the targets (N,) in the units of ``bins``: floating point or int64. Those beyond the first and last bin count
    as these, as in `TargetBins`.

    Parameters: ``head``. `statistics`: mean_error (absolute, in the target's units), mean_error_bins.
    """

    shares: ClassVar[bool] = True

    def __init__(self, dim: int, bins: TargetBins) -> None:
        super().__init__()
        check_sizes(bins.count, dim)
        self.bins = bins
        self.head = DistributionHead(dim, bins.count)

    def logits(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N bins"]:
        """Logits of the bins (N, count) of embeddings ``z`` (N, D)."""
        return self._logits(z, ALONE)

    def _logits(self, z: Tensor, share: Share) -> Tensor:
        return linear(self.head.linear, z, share)

    def predict(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N"]:
        """Predicted numbers (N,) of embeddings ``z`` (N, D), in the target's units."""
        return self.bins.to_values(integral(self.logits(z)))

    def check_labels(self, labels: Tensor, rows: int) -> None:
        """Raise `ValueError` unless ``labels`` are (rows,) numbers."""
        if labels.shape != (rows,) or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"targets are {labels.dtype} of shape {tuple(labels.shape)}, expected numbers ({rows},)")

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss; 0 for an empty batch."""
        logits = self._logits(z, share)
        target = labels.to(z.dtype)
        apart = (self.bins.to_values(integral(logits.detach())) - target).abs().sum() / max(len(z), 1)
        loss, error = (
            one / share.ranks for one in share.sum(distribution_focal_loss(logits, self.bins.to_bins(target)), apart)
        )
        return loss, {"mean_error": error, "mean_error_bins": error / self.bins.step}

    def extra_repr(self) -> str:
        return f"bins={self.bins}"
