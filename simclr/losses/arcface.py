"""ArcFace: softmax over angles to class directions, with a margin added to the angle of the own class.

Deng, Guo, Xue, Zafeiriou 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", eq. 3
(arXiv 1801.07698): cross-entropy of logits s cos(theta_j), the own class with s cos(theta_y + m), s = 64, m = 0.5.
Sub-centres: Deng et al. 2020, "Sub-center ArcFace", K directions a class, of which the nearest counts.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.losses.label_loss import LabelLoss, LabelLossConfig, check_classes, check_dim, check_sizes, require
from simclr.numerics import full_precision, l2_normalize, safe_sqrt

__all__ = ["ArcFaceConfig", "ArcFaceLoss"]

# Between this cosine and 1 the slope of the sine grows without bound, and float32 has one more number.
_LARGEST_COSINE = 1 - 1e-7


@dataclass(frozen=True, kw_only=True)
class ArcFaceConfig(LabelLossConfig):
    """ArcFace (Deng et al. 2019), with sub-centres (2020)."""

    name: ClassVar[str] = "arcface"

    scale: float = 64.0
    """Factor s of the cosines."""
    margin: float = 0.5
    """Margin m added to the angle to the own class, in radians."""
    easy_margin: bool = False
    """Add the margin only within 90 degrees of the own class: easier to start with."""
    subcenters: int = 1
    """Directions a class; more than one lets noisy images settle apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.scale, self.margin, self.subcenters)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "ArcFaceLoss":
        """The module with directions for ``num_classes`` in ``dim`` dimensions."""
        return ArcFaceLoss(num_classes, dim, self.scale, self.margin, self.easy_margin, self.subcenters)


class ArcFaceLoss(LabelLoss):
    """ArcFace, which normalises embeddings and class directions by definition; the mean over the batch.

    cos(theta + m) is taken as cos theta cos m - sin theta sin m, with the cosine clamped to +-(1 - 1e-7) so that the
    sine has a finite slope. Where theta + m > pi it would rise again: there it is cos theta - m sin m (with
    ``easy_margin``, plain cos theta beyond 90 degrees). All in float32, or float64.

    Parameters: ``weight`` (num_classes * subcenters, dim), the directions of class c in rows c * subcenters and
    following. `statistics`: accuracy (nearest direction, without margin), angle (mean to the own class, degrees).

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 (a GPU asserts).

        >>> loss = ArcFaceLoss(num_classes=2, dim=3)
        >>> with torch.no_grad():
        ...     _ = loss.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        ...     loss.cosines(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1.0000, 0.9746]])
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scale: float = 64.0,
        margin: float = 0.5,
        easy_margin: bool = False,
        subcenters: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(num_classes, dim)
        _check(scale, margin, subcenters)
        self.num_classes, self.scale, self.margin = num_classes, scale, margin
        self.easy_margin, self.subcenters = easy_margin, subcenters
        self.weight = nn.Parameter(torch.randn(num_classes * subcenters, dim) / math.sqrt(dim))

    def cosines(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"]:
        """Cosine of ``z`` (N, D) to the nearest direction of every class: (N, C), float32 or float64."""
        check_dim(z, self.weight.shape[1])
        with torch.autocast(z.device.type, enabled=False):
            z = full_precision(z)
            cosines = l2_normalize(z) @ l2_normalize(self.weight.to(z.dtype)).t()
            if self.subcenters > 1:
                cosines = cosines.unflatten(1, (self.num_classes, self.subcenters)).max(2).values
            return cosines

    def scores(self, z: Tensor) -> Tensor:
        """Class logits (N, C) of embeddings ``z`` (N, D): scaled cosines, without a margin."""
        return self.scale * self.cosines(z)

    def compute(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of the scaled cosines, the own class's with its margin."""
        check_classes(labels, self.num_classes)
        cosines = self.cosines(z)
        own = cosines.gather(1, labels.unsqueeze(1))
        clamped = own.clamp(-_LARGEST_COSINE, _LARGEST_COSINE)
        sine = safe_sqrt(1 - clamped.square())
        with_margin = clamped * math.cos(self.margin) - sine * math.sin(self.margin)
        if self.easy_margin:
            target = torch.where(own > 0, with_margin, own)
        else:
            # theta + m < pi is cos theta > cos(pi - m) = -cos m
            target = torch.where(own > -math.cos(self.margin), with_margin, own - self.margin * math.sin(self.margin))
        logits = self.scale * cosines.scatter(1, labels.unsqueeze(1), target)
        size = max(len(z), 1)
        statistics = {
            "accuracy": (cosines.argmax(1) == labels).sum() / size,
            "angle": torch.rad2deg(clamped.detach().acos().sum() / size),
        }
        return F.cross_entropy(logits, labels, reduction="sum") / size, statistics

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, scale={self.scale}, margin={self.margin}, "
            f"easy_margin={self.easy_margin}, subcenters={self.subcenters}"
        )


def _check(scale: float, margin: float, subcenters: int) -> None:
    require(scale > 0, "scale", scale, "positive")
    require(0 <= margin < math.pi / 2, "margin", margin, "an angle in radians in [0, pi/2)")
    require(subcenters >= 1, "subcenters", subcenters, "at least 1")
