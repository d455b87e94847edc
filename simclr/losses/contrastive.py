"""Contrastive loss: pairs of one class pulled together, pairs of two classes pushed beyond a margin.

Hadsell, Chopra, LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", eq. 4. The paper's label Y of
a pair is 0 where the images are the same and 1 where they differ; other code has it the other way. Here nothing is
labelled a pair: images of equal labels are the same.

    >>> loss = ContrastiveLoss(margin=1.0, normalize=False)
    >>> loss(torch.tensor([[0.0], [0.5], [0.7]]), torch.tensor([0, 0, 1]))  # (0.25 + 0.3^2 + 0.8^2) / 2 / 3
    tensor(0.1633)
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from simclr.distances import DistanceName, check_distance, pairwise_distance
from simclr.losses.label_loss import require
from simclr.losses.pair_loss import PairLoss, PairLossConfig, Pairs

__all__ = ["ContrastiveConfig", "ContrastiveLoss"]


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(PairLossConfig):
    """Contrastive loss on pairs (Hadsell et al. 2006)."""

    name: ClassVar[str] = "contrastive"

    margin: float = 1.0
    """Distance beyond which images of different classes no longer repel each other."""
    positive_margin: float = 0.0
    """Distance below which images of one class no longer attract each other."""
    distance: DistanceName = "euclidean"
    """euclidean, squared, manhattan or cosine."""
    normalize: bool = True
    """Bring embeddings to length 1 first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(0, 0, 0)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "ContrastiveLoss":
        """The module; of the numbers only the width ``dim`` matters to it, for a memory."""
        return ContrastiveLoss(
            self.margin,
            self.positive_margin,
            self.distance,
            normalize=self.normalize,
            memory=self.memory,
            memory_from=self.memory_from,
            dim=dim,
        )


class ContrastiveLoss(PairLoss):
    """Contrastive loss of L2-normalised embeddings, the mean over all pairs i < j of the batch.

    With a ``memory`` (see `PairLoss`) it is the mean over all ordered pairs: those of the batch, and of it with the memory.

    Same class: 1/2 max(0, d - ``positive_margin``)^2 (the paper's 1/2 d^2 with the default of 0). Different classes:
    1/2 max(0, ``margin`` - d)^2, with an exactly zero gradient beyond the margin. ``normalize=False`` compares
    embeddings as they are, as the paper does.

    `statistics`: active (share of pairs with a loss), positive_distance, negative_distance, positive_pairs,
    negative_pairs.
    """

    shares: ClassVar[bool] = True

    def __init__(
        self,
        margin: float = 1.0,
        positive_margin: float = 0.0,
        distance: DistanceName = "euclidean",
        *,
        normalize: bool = True,
        memory: int = 0,
        memory_from: int = 1000,
        dim: int | None = None,
    ) -> None:
        super().__init__(normalize=normalize, memory=memory, memory_from=memory_from, dim=dim)
        require(margin > 0, "margin", margin, "positive")
        require(0 <= positive_margin < margin, "positive_margin", positive_margin, f"in [0, margin = {margin})")
        check_distance(distance)
        self.margin, self.positive_margin, self.distance = margin, positive_margin, distance

    def compare(
        self, z: Annotated[Tensor, "float N D"], pairs: Pairs
    ) -> tuple[Annotated[Tensor, "float"], dict[str, Tensor]]:
        """Mean over ordered pairs: the matrix holds each of the batch twice."""
        d = pairwise_distance(z, None if pairs.others is z else pairs.others, kind=self.distance)
        positive, negative = pairs.positive, pairs.negative
        hinge = torch.where(positive, d - self.positive_margin, self.margin - d).relu()
        hinge = hinge.masked_fill(~(positive | negative), 0)
        (count,) = pairs.share.sum(positive.sum() + negative.sum())
        halves = 2 * count.clamp(min=1)
        # Of embeddings as they are the sum may leave float32 where its mean does not.
        loss = hinge.square().sum() / halves if self.normalize else (hinge * halves.to(d.dtype).rsqrt()).square().sum()
        size = len(z) * pairs.share.ranks
        twice = [mask[:, :size].sum() for mask in (positive, negative)]
        once = [mask[:, size:].sum() for mask in (positive, negative)]
        loss, active, *numbers = pairs.share.sum(loss, (hinge.detach() > 0).sum(), *twice, *once)
        statistics = {
            "active": active / count,
            **pairs.mean_distances(d),
            "positive_pairs": numbers[0] // 2 + numbers[2],
            "negative_pairs": numbers[1] // 2 + numbers[3],
        }
        return loss, statistics

    def extra_repr(self) -> str:
        return f"margin={self.margin}, positive_margin={self.positive_margin}, distance={self.distance}"
