"""Softmax cross-entropy over classes with a linear head: the baseline of every metric-learning loss.

-log softmax(W z + b)_y, with label smoothing e: (1 - e) on the label and e / C on every class
(Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.losses.label_loss import LabelLoss, LabelLossConfig, check_classes, require

__all__ = ["CrossEntropyConfig", "CrossEntropyLoss"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(LabelLossConfig):
    """Softmax cross-entropy with a linear head."""

    name: ClassVar[str] = "cross-entropy"

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")

    def build(self, num_classes: int, dim: int, num_samples: int) -> "CrossEntropyLoss":
        """The module with a linear head from ``dim`` to ``num_classes``."""
        return CrossEntropyLoss(num_classes, dim, self.label_smoothing)


class CrossEntropyLoss(LabelLoss):
    """Cross-entropy of a linear head on embeddings as they are (not normalised), the mean over the batch.

    Parameters: ``head``, an ``nn.Linear(dim, num_classes)``. `statistics`: accuracy.

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 (a GPU asserts).
    """

    def __init__(self, num_classes: int, dim: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "in [0, 1)")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.head = nn.Linear(dim, num_classes)

    def logits(self, z: Tensor) -> Tensor:
        """Class scores (N, C) of embeddings ``z`` (N, D), in z's full precision."""
        return F.linear(z, self.head.weight.to(z.dtype), self.head.bias.to(z.dtype))

    def compute(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy; 0 for an empty batch."""
        check_classes(labels, self.num_classes)
        logits = self.logits(z)
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
        size = max(len(z), 1)
        return total / size, {"accuracy": (logits.argmax(1) == labels).sum() / size}

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"
