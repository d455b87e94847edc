"""Center loss: embeddings drawn to the moving centre of their class, beside a softmax that keeps classes apart.

Wen, Zhang, Li, Qiao 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition", eq. 2-5:

    L = L_softmax + lambda L_C,  L_C = 1/2 |x - c_y|^2,  c_j <- c_j - alpha Delta_j,
    Delta_j = sum_{i: y_i = j} (c_j - x_i) / (1 + n_j),  n_j the number of samples of class j in the batch

alpha 0.5 and lambda 0.003. Alone, L_C is least when every embedding and centre is the same point: train with the
softmax.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.losses.cross_entropy import CrossEntropyLoss
from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, check_classes, check_dim, check_sizes, require
from simclr.losses.share import Share
from simclr.numerics import widened

__all__ = ["CenterConfig", "CenterCrossEntropyLoss", "CenterLoss"]


@dataclass(frozen=True, kw_only=True)
class CenterConfig(LabelLossConfig):
    """Softmax cross-entropy with center loss (Wen et al. 2016)."""

    name: ClassVar[str] = "center"

    weight: float = 0.003
    """Weight lambda of the center loss beside the cross-entropy."""
    alpha: float = 0.5
    """Step of the centres towards the batch: 0 never moves them, 1 takes the damped mean of the batch."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.weight >= 0, "weight", self.weight, "0 or more")
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "in [0, 1]")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")

    def build(self, num_classes: int, dim: int, num_samples: int) -> "CenterCrossEntropyLoss":
        """The module with a linear head and centres for ``num_classes`` in ``dim`` dimensions."""
        return CenterCrossEntropyLoss(num_classes, dim, self.alpha, self.weight, self.label_smoothing)


class CenterLoss(SharedLabelLoss):
    """Half the squared distance to the centre of the own class, embeddings as they are, the mean over the batch.

    ``centers`` (num_classes, dim) is a buffer, zero at first; no optimizer touches it. In training mode a call computes
    the loss with the centres as they are and then moves them by the paper's rule; in eval mode they stay. Memory is
    that of the batch (N, D): no matrix over classes is formed. Rows that are not finite do not move a centre.

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 (a GPU asserts).

    On several processes give every rank the gathered batch, in one order: they then move their centres alike, bit for
    bit. Only a call moves the centres: accumulate gradients over calls, and each moves them.

    `statistics`: center_distance (mean distance to the own centre).

        >>> loss = CenterLoss(num_classes=2, dim=1)
        >>> loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]))  # (1 + 9) / 2 / 2
        tensor(2.5000)
        >>> loss.centers.flatten()  # 0.5 * (1 + 3) / (1 + 2) for class 0
        tensor([0.6667, 0.0000])
    """

    shares: ClassVar[bool] = True

    centers: Tensor

    def __init__(self, num_classes: int, dim: int, alpha: float = 0.5) -> None:
        super().__init__()
        check_sizes(num_classes, dim)
        require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]")
        self.num_classes, self.alpha = num_classes, alpha
        self.register_buffer("centers", torch.zeros(num_classes, dim))

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss, then the centres' step."""
        check_classes(labels, self.num_classes)
        check_dim(z, self.centers.shape[1])
        difference = z - F.embedding(labels, self.centers).to(z.dtype)
        squared = widened(difference).square().sum(1)
        size = max(len(z) * share.ranks, 1)
        if self.training:
            self._move(share.all(difference.detach()), share.all(labels))  # N x D, and every process moves them alike
        total, distance = share.sum(squared.sum(), squared.detach().sqrt().sum())
        return (total / (2 * size)).to(z.dtype), {"center_distance": (distance / size).to(z.dtype)}

    @torch.no_grad()
    def _move(self, difference: Tensor, labels: Tensor) -> None:
        finite = torch.isfinite(difference).all(1)
        count = torch.zeros(self.num_classes, device=labels.device).index_add_(0, labels, finite.float())
        step = difference.masked_fill(~finite.unsqueeze(1), 0) * (self.alpha / (1 + count[labels])).unsqueeze(1)
        step = step.to(self.centers.dtype)
        if step.is_cuda:  # this one sorts there, so that sums have one order; on a CPU it is the other way round
            self.centers.index_put_((labels,), step, accumulate=True)
        else:
            self.centers.index_add_(0, labels, step)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}"


class CenterCrossEntropyLoss(SharedLabelLoss):
    """Cross-entropy of a linear head plus ``weight`` times `CenterLoss`, on embeddings as they are: the paper's L.

    `statistics`: accuracy, cross_entropy, center_distance.
    """

    shares: ClassVar[bool] = True

    def __init__(
        self, num_classes: int, dim: int, alpha: float = 0.5, weight: float = 0.003, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        require(weight >= 0, "weight", weight, "0 or more")
        self.weight = weight
        self.cross_entropy = CrossEntropyLoss(num_classes, dim, label_smoothing)
        self.center = CenterLoss(num_classes, dim, alpha)

    def scores(self, z: Tensor) -> Tensor:
        """Class logits (N, C) of embeddings ``z`` (N, D)."""
        return self.cross_entropy.scores(z)

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_softmax + weight L_C."""
        cross_entropy, of_classes = self.cross_entropy.compute_part(z, labels, indices, generator, share)
        center, of_centers = self.center.compute_part(z, labels, indices, generator, share)
        statistics = {**of_classes, "cross_entropy": cross_entropy, **of_centers}
        return cross_entropy + self.weight * center, statistics

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
