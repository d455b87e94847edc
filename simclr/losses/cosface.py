"""CosFace: softmax over cosines to class directions, with a margin taken from the cosine of the own class.

Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition", eq. 4 (arXiv 1801.09414): cross-entropy of
logits s cos(theta_j), the own class with s (cos(theta_y) - m), s = 64, m = 0.35. The margin of ArcFace is one of the angle;
this one is the same at every angle, has no corner, and so trains from any start.

    >>> import torch
    >>> loss = CosFaceLoss(num_classes=2, dim=2, scale=1.0)
    >>> with torch.no_grad():
    ...     _ = loss.weight.copy_(torch.eye(2))
    >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).detach()  # log(1 + exp(0 - (1 - 0.35)))
    tensor(0.4201)
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from simclr.losses.directions import DirectionsConfig, DirectionsLoss
from simclr.losses.label_loss import require

__all__ = ["CosFaceConfig", "CosFaceLoss"]


@dataclass(frozen=True, kw_only=True)
class CosFaceConfig(DirectionsConfig):
    """CosFace (Wang et al. 2018), also called AM-softmax."""

    name: ClassVar[str] = "cosface"

    margin: float = 0.35
    """Margin m taken from the cosine to the own class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(1, 1, 1)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "CosFaceLoss":
        """The module with directions for ``num_classes`` in ``dim`` dimensions."""
        return CosFaceLoss(num_classes, dim, self.scale, self.margin, self.subcenters, self.sample_share)


class CosFaceLoss(DirectionsLoss):
    """CosFace, which normalises embeddings and class directions by definition; the mean over the batch.

    Parameters, `statistics`, ``subcenters`` and ``sample_share``: see `DirectionsLoss`.
    """

    shares: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scale: float = 64.0,
        margin: float = 0.35,
        subcenters: int = 1,
        sample_share: float = 1.0,
    ) -> None:
        super().__init__(num_classes, dim, scale, subcenters, sample_share)
        require(0 <= margin < 1, "margin", margin, "a part of a cosine in [0, 1)")
        self.margin = margin

    def with_margin(self, own: Tensor) -> Tensor:
        """Cosines (N, 1) to the own class less the margin."""
        return own - self.margin

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, margin={self.margin}"
