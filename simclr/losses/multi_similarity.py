"""Multi-similarity loss: of every anchor the pairs that are hard beside its other pairs, weighted by how hard.

Wang, Han, Huang, Dong, Scott 2019, "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning"
(arXiv 1904.06627), eq. 8-10. S_ij is the cosine. Mining keeps of anchor i the negatives with S_ij > min over its positives
S_ik - epsilon, and the positives with S_ij < max over its negatives S_ik + epsilon. Over what is kept

    L = 1/m sum_i [ 1/alpha log(1 + sum_p exp(-alpha (S_ip - lambda))) + 1/beta log(1 + sum_n exp(beta (S_in - lambda))) ]

alpha 2, beta 50, lambda 0.5 (the authors' code; the paper has 1), epsilon 0.1.

    >>> loss = MultiSimilarityLoss(alpha=1.0, beta=1.0, base=0.0)
    >>> loss(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))  # log(1 + 1/e) + log(1 + e)
    tensor(1.6265)
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from simclr.losses.label_loss import require
from simclr.losses.pair_loss import PairLoss, PairLossConfig, Pairs, log_one_plus_sum_exp
from simclr.numerics import float32_products

__all__ = ["MultiSimilarityConfig", "MultiSimilarityLoss"]


@dataclass(frozen=True, kw_only=True)
class MultiSimilarityConfig(PairLossConfig):
    """Multi-similarity loss with its mining (Wang et al. 2019)."""

    name: ClassVar[str] = "multi-similarity"

    alpha: float = 2.0
    """Factor of the similarities of positive pairs."""
    beta: float = 50.0
    """Factor of the similarities of negative pairs."""
    base: float = 0.5
    """Cosine lambda around which pairs weigh most; from 0.5 to 1."""
    epsilon: float | None = 0.1
    """Mining: by how much a pair may be easier than the anchor's hardest of the other kind; none keeps every pair."""

    def __post_init__(self) -> None:
        super().__post_init__()
        MultiSimilarityLoss(self.alpha, self.beta, self.base, self.epsilon)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "MultiSimilarityLoss":
        """The module; of the numbers only the width ``dim`` matters to it, for a memory."""
        kept = {"memory": self.memory, "memory_from": self.memory_from, "dim": dim}
        return MultiSimilarityLoss(self.alpha, self.beta, self.base, self.epsilon, **kept)


class MultiSimilarityLoss(PairLoss):
    """Multi-similarity loss of L2-normalised embeddings: the mean over the anchors that have a positive and a negative.

    Where each image of the batch has both this is the paper's mean over the batch; rows without one count as nothing. An
    anchor whose positives are all nearer than its negatives by more than ``epsilon`` adds 0. No gradient flows through the
    mining. ``memory``, ``memory_from`` and ``dim``: see `PairLoss`.

    `statistics`: pairs (kept), active (share of the anchors with a pair that is kept), positive_distance, negative_distance
    (mean cosine distances of all pairs).
    """

    shares: ClassVar[bool] = True

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        *,
        memory: int = 0,
        memory_from: int = 1000,
        dim: int | None = None,
    ) -> None:
        super().__init__(memory=memory, memory_from=memory_from, dim=dim)
        require(0 < alpha < math.inf, "alpha", alpha, "positive")
        require(0 < beta < math.inf, "beta", beta, "positive")
        require(-1 <= base <= 1, "base", base, "a cosine in [-1, 1]")
        require(epsilon is None or 0 <= epsilon <= 2, "epsilon", epsilon, "in [0, 2], or none for every pair")
        self.alpha, self.beta, self.base, self.epsilon = alpha, beta, base, epsilon

    def compare(
        self, z: Annotated[Tensor, "float N D"], pairs: Pairs
    ) -> tuple[Annotated[Tensor, "float"], dict[str, Tensor]]:
        """Mean over the anchors of what their kept pairs give."""
        with float32_products():
            similarity = z @ pairs.others.t()  # (N, N + M)
        positive, negative = self._kept(similarity.detach(), pairs)
        pull = log_one_plus_sum_exp(-self.alpha * (similarity - self.base), positive) / self.alpha
        push = log_one_plus_sum_exp(self.beta * (similarity - self.base), negative) / self.beta
        total, anchors, kept, active = pairs.share.sum(
            (pull + push).sum(),
            pairs.anchors.sum(),
            positive.sum() + negative.sum(),
            (positive | negative).any(1).sum(),
        )
        statistics = {"pairs": kept, "active": active / anchors, **pairs.mean_distances(1 - similarity)}
        return total / anchors.clamp(min=1), statistics

    def _kept(self, similarity: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The pairs that mining keeps, of anchors with both kinds."""
        positive, negative = (mask & pairs.anchors.unsqueeze(1) for mask in (pairs.positive, pairs.negative))
        if self.epsilon is None or not similarity.numel():
            return positive, negative
        farthest = similarity.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        nearest = similarity.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
        return (
            positive & (similarity < nearest + self.epsilon),
            negative & (similarity > farthest - self.epsilon),
        )

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, base={self.base}, epsilon={self.epsilon}"
