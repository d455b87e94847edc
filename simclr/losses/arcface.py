"""ArcFace: softmax over angles to class directions, with a margin added to the angle of the own class.

Deng, Guo, Xue, Zafeiriou 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", eq. 3
(arXiv 1801.07698): cross-entropy of logits s cos(theta_j), the own class with s cos(theta_y + m), s = 64, m = 0.5.
Sub-centres and partial class weights: `simclr.losses.directions`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simclr.losses.directions import LARGEST_COSINE, DirectionsConfig, DirectionsLoss
from simclr.losses.label_loss import require
from simclr.numerics import safe_sqrt

__all__ = ["ArcFaceConfig", "ArcFaceLoss"]


@dataclass(frozen=True, kw_only=True)
class ArcFaceConfig(DirectionsConfig):
    """ArcFace (Deng et al. 2019), with sub-centres (2020)."""

    name: ClassVar[str] = "arcface"

    margin: float = 0.5
    """Margin m added to the angle to the own class, in radians."""
    easy_margin: bool = False
    """Add the margin only within 90 degrees of the own class: easier to start with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(1, 1, 1)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "ArcFaceLoss":
        """The module with directions for ``num_classes`` in ``dim`` dimensions."""
        return ArcFaceLoss(
            num_classes, dim, self.scale, self.margin, self.easy_margin, self.subcenters, self.sample_share
        )


class ArcFaceLoss(DirectionsLoss):
    """ArcFace, which normalises embeddings and class directions by definition; the mean over the batch.

    cos(theta + m) is taken as cos theta cos m - sin theta sin m, with the cosine clamped to +-(1 - 1e-7) so that the
    sine has a finite slope. Where theta + m > pi it would rise again: there it is cos theta - m sin m (with
    ``easy_margin``, plain cos theta beyond 90 degrees). All in float32, or float64.

    Parameters, `statistics`, ``subcenters`` and ``sample_share``: see `DirectionsLoss`.

        >>> loss = ArcFaceLoss(num_classes=2, dim=3)
        >>> with torch.no_grad():
        ...     _ = loss.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        ...     loss.cosines(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1.0000, 0.9746]])
    """

    shares: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scale: float = 64.0,
        margin: float = 0.5,
        easy_margin: bool = False,
        subcenters: int = 1,
        sample_share: float = 1.0,
    ) -> None:
        super().__init__(num_classes, dim, scale, subcenters, sample_share)
        require(0 <= margin < math.pi / 2, "margin", margin, "an angle in radians in [0, pi/2)")
        self.margin, self.easy_margin = margin, easy_margin

    def with_margin(self, own: Tensor) -> Tensor:
        """Cosines of the angles (N, 1) to the own class and the margin."""
        clamped = own.clamp(-LARGEST_COSINE, LARGEST_COSINE)
        sine = safe_sqrt(1 - clamped.square())
        widened = clamped * math.cos(self.margin) - sine * math.sin(self.margin)
        if self.easy_margin:
            return torch.where(own > 0, widened, own)
        # theta + m < pi is cos theta > cos(pi - m) = -cos m
        return torch.where(own > -math.cos(self.margin), widened, own - self.margin * math.sin(self.margin))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, margin={self.margin}, easy_margin={self.easy_margin}"
