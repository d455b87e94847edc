"""Circle loss: every similarity is pulled the harder, the farther it is from where it should be.

Sun et al. 2020, "Circle Loss: A Unified Perspective of Pair Similarity Optimization", eq. 6-9 (arXiv 2002.10857), with pair
labels. s_p and s_n are the cosines of an anchor to its positives and negatives:

    L = softplus( logsumexp_n( gamma a_n (s_n - m) ) + logsumexp_p( -gamma a_p (s_p - 1 + m) ) )
    a_p = max(0, 1 + m - s_p),  a_n = max(0, s_n + m),  both without a gradient

gamma 80 and m 0.4 for retrieval of fine-grained classes; for faces 256 and 0.25.

    >>> loss = CircleLoss(margin=0.25, gamma=1.0)
    >>> loss(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))  # softplus(-1/16 - 1/16)
    tensor(0.6326)
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.losses.label_loss import require
from simclr.losses.pair_loss import PairLoss, PairLossConfig, Pairs
from simclr.numerics import differentiated_once, float32_products

__all__ = ["CircleConfig", "CircleLoss"]

_HELD = (
    "circle loss holds its weights while its gradient is taken, so that the gradient's own derivative would leave them out; "
    "use multi-similarity loss for second derivatives and forward mode"
)


@dataclass(frozen=True, kw_only=True)
class CircleConfig(PairLossConfig):
    """Circle loss on pairs (Sun et al. 2020)."""

    name: ClassVar[str] = "circle"

    margin: float = 0.4
    """Relaxation m: positive pairs belong above a cosine of 1 - m, negative ones below m."""
    gamma: float = 80.0
    """Scale gamma of the similarities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        CircleLoss(self.margin, self.gamma)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "CircleLoss":
        """The module; of the numbers only the width ``dim`` matters to it, for a memory."""
        return CircleLoss(self.margin, self.gamma, memory=self.memory, memory_from=self.memory_from, dim=dim)


class CircleLoss(PairLoss):
    """Circle loss of L2-normalised embeddings: the mean over the anchors that have a positive and a negative.

    The weights a_p and a_n carry no gradient, as in the paper: the gradient is that of the formula with these held, and a
    numeric derivative of the value, in which they move, is another one. So it is differentiated once, and not in forward mode:
    more is a NotImplementedError. ``memory``, ``memory_from``, ``dim``: see `PairLoss`.

    `statistics`: anchors, satisfied (share of pairs on their side of 1 - m, or m), positive_distance, negative_distance
    (mean cosine distances of all pairs).
    """

    shares: ClassVar[bool] = True

    def __init__(
        self,
        margin: float = 0.4,
        gamma: float = 80.0,
        *,
        memory: int = 0,
        memory_from: int = 1000,
        dim: int | None = None,
    ) -> None:
        super().__init__(memory=memory, memory_from=memory_from, dim=dim)
        require(0 <= margin < 1, "margin", margin, "a part of a cosine in [0, 1)")
        require(0 < gamma < math.inf, "gamma", gamma, "positive")
        self.margin, self.gamma = margin, gamma

    def compare(
        self, z: Annotated[Tensor, "float N D"], pairs: Pairs
    ) -> tuple[Annotated[Tensor, "float"], dict[str, Tensor]]:
        """Mean over the anchors; the rows that are none are masked out."""
        with float32_products():
            similarity = z @ pairs.others.t()  # (N, N + M)
        held, m = similarity.detach(), self.margin
        similarity = differentiated_once(similarity, _HELD)
        pull = -self.gamma * (1 + m - held).relu() * (similarity - 1 + m)
        push = self.gamma * (held + m).relu() * (similarity - m)
        anchors = pairs.anchors
        both = _log_sum_exp(pull, pairs.positive, anchors) + _log_sum_exp(push, pairs.negative, anchors)
        on_their_side = (pairs.positive & (held >= 1 - m)) | (pairs.negative & (held <= m))
        total, count, satisfied, compared = pairs.share.sum(
            F.softplus(both).masked_fill(~anchors, 0).sum(),
            anchors.sum(),
            on_their_side.sum(),
            pairs.positive.sum() + pairs.negative.sum(),
        )
        distances = pairs.mean_distances(1 - held)
        return total / count.clamp(min=1), {"anchors": count, "satisfied": satisfied / compared, **distances}

    def extra_repr(self) -> str:
        return f"margin={self.margin}, gamma={self.gamma}"


def _log_sum_exp(x: Tensor, mask: Tensor, anchors: Tensor) -> Tensor:
    """logsumexp of each row over ``mask``; of rows that are no anchors, whose masks may be empty, over all."""
    x = x.masked_fill(~mask & anchors.unsqueeze(1), -torch.inf)
    return x.logsumexp(1) if x.numel() else x.sum(1)
