"""Softmax cross-entropy over classes with a linear head: the baseline of every metric-learning loss.

-log softmax(W z + b)_y, with label smoothing e: (1 - e) on the label and e / C on every class
(Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7). Soft targets t: -sum_c t_c log softmax(.)_c.

Class weights for unbalanced classes of n_c among N images: "balanced" N / (C n_c); "effective" the inverse of the
effective number (1 - b^n_c) / (1 - b), b = 1 - 1/N (Cui et al. 2019, "Class-Balanced Loss", eq. 1-3), scaled so that
the mean over the images is 1, as it is for "balanced".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.losses.label_loss import LabelLossConfig, LinearHeadLoss, check_classes, require
from simclr.losses.share import Share

__all__ = ["CrossEntropyConfig", "CrossEntropyLoss"]

_NO_LABEL = -(2**63)
"""torch leaves out images of the label -100 without a word; nobody has this one."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(LabelLossConfig):
    """Softmax cross-entropy with a linear head."""

    name: ClassVar[str] = "cross-entropy"
    soft_labels: ClassVar[bool] = True

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""

    class_weights: Literal["none", "balanced", "effective"] | tuple[float, ...] = "none"
    """Weight of each class: all 1, by its rarity among the training images, or given one by one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        if not isinstance(self.class_weights, str):
            fine = all(0 <= w < math.inf for w in self.class_weights) and any(self.class_weights)
            require(fine, "class_weights", self.class_weights, "0 or more, each, and not all 0")

    def fitted(self, targets: Tensor, num_classes: int) -> Self:
        """With the weights of the classes counted among ``targets`` (N,) int64; a class without images weighs 0."""
        if not isinstance(self.class_weights, str) or self.class_weights == "none":
            return self
        counts = torch.bincount(targets[targets >= 0].cpu(), minlength=num_classes).double()
        total = counts.sum()
        keep = 1 - 1 / total
        effective = (1 - keep**counts) / (1 - keep)
        rarity = counts if self.class_weights == "balanced" else effective
        weights = torch.where(counts > 0, 1 / rarity, 0.0)
        weights *= total / (weights * counts).sum()
        return replace(self, class_weights=tuple(weights.tolist()))

    def build(self, num_classes: int, dim: int, num_samples: int) -> "CrossEntropyLoss":
        """The module with a linear head from ``dim`` to ``num_classes``."""
        if isinstance(self.class_weights, str):
            require(self.class_weights == "none", "class_weights", self.class_weights, "fitted to labels before")
            return CrossEntropyLoss(num_classes, dim, self.label_smoothing)
        given = len(self.class_weights)
        require(given == num_classes, "class_weights", self.class_weights, f"one for each of {num_classes} classes")
        return CrossEntropyLoss(num_classes, dim, self.label_smoothing, self.class_weights)


class CrossEntropyLoss(LinearHeadLoss):
    """Cross-entropy of a linear head on embeddings as they are (not normalised), the mean over the batch.

    Labels may also be soft: shares of the classes, floating point (N, C), each row with a sum of 1 (or of a quality).
    With ``class_weights`` each class's share of a target counts by its weight, and the mean is still over the batch.

    Parameters: ``head``, an ``nn.Linear(dim, num_classes)``. `statistics`: accuracy.

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 (a GPU asserts).
    """

    shares: ClassVar[bool] = True

    def __init__(
        self, num_classes: int, dim: int, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(num_classes, dim)
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "in [0, 1)")
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        fits = weights is None or weights.shape == (num_classes,)
        require(fits, "class_weights", class_weights, f"one for each of {num_classes} classes")
        self.register_buffer("class_weights", weights)
        self.class_weights: Tensor | None

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy; 0 for an empty batch."""
        hard = labels.ndim == 1
        if hard:
            check_classes(labels, self.num_classes)
        logits = self._part_scores(z, share)
        weight = None if self.class_weights is None else self.class_weights.to(z.dtype)
        target = labels if hard else labels.to(z.dtype)
        total = F.cross_entropy(
            logits, target, weight, ignore_index=_NO_LABEL, reduction="sum", label_smoothing=self.label_smoothing
        )
        likeliest = labels if hard else labels.argmax(1)
        total, right = share.sum(total, (logits.argmax(1) == likeliest).sum())
        size = max(len(z) * share.ranks, 1)
        return total / size, {"accuracy": right / size}

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"
