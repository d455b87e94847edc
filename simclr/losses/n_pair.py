"""N-pair loss: each anchor picks its positive out of one positive of every class.

Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", eq. 6 (N-pair-mc): with one pair
(f_i, f_i+) from each of N classes,

    L = 1/N sum_i log(1 + sum_{j != i} exp(f_i . f_j+  -  f_i . f_i+))

a softmax cross-entropy over one positive and N - 1 negatives. The paper does not normalise the embeddings, which would
bound the logits to [-1, 1], and holds their squared length down instead (section 3.2.2). A head that ends in BatchNorm
gives them the length sqrt(D) from the start, and the softmax saturates; a temperature undoes the bound as well, and is
the default: normalised embeddings, products divided by it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, require, wide_sum
from simclr.losses.share import Share
from simclr.numerics import l2_normalize, widened

__all__ = ["NPairConfig", "NPairLoss"]


@dataclass(frozen=True, kw_only=True)
class NPairConfig(LabelLossConfig):
    """Multi-class N-pair loss (Sohn 2016), of normalised embeddings unless told otherwise."""

    name: ClassVar[str] = "n-pair"

    temperature: float | None = 0.1
    """Bring embeddings to length 1 and divide their products by this; none is the paper's form, products as they are."""

    l2_weight: float = 0.0
    """Weight of the mean squared length of the embeddings in the pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(0, 0, 0)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "NPairLoss":
        """The module; none of the numbers matters to it."""
        return NPairLoss(self.l2_weight, temperature=self.temperature)


class NPairLoss(SharedLabelLoss):
    """N-pair-mc loss, the mean over the pairs of the batch: of normalised embeddings, or as they are without a ``temperature``.

    In the order of the batch, the first and second sample of a class are a pair (anchor, positive), the third and
    fourth another, and so on; a sample left over is not used. Each anchor is compared with the positives of its own
    pair and of all pairs of other classes: with two samples a class this is the paper's loss.

    ``temperature=None`` is the paper's formula, products of the embeddings as they are; with one, of rows of length 1 divided
    by it, which heads that end in BatchNorm need (docs/decisions.md, "defaults of N-pair and quadruplet loss").

    ``l2_weight`` times the mean over pairs of ``(|f|^2 + |f+|^2) / 2`` is added.

    `statistics`: pairs, accuracy (share of anchors nearest to their own positive), samples_dropped, embedding_length.

        >>> loss = NPairLoss(temperature=None)
        >>> loss(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(0.3133)
    """

    shares: ClassVar[bool] = True

    def __init__(self, l2_weight: float = 0.0, *, temperature: float | None = 0.1) -> None:
        super().__init__()
        require(l2_weight >= 0, "l2_weight", l2_weight, "0 or more")
        require(temperature is None or 0 < temperature < math.inf, "temperature", temperature, "positive, or none")
        self.l2_weight, self.temperature = l2_weight, temperature

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the valid columns of all rows' products; rows that are no anchor are masked out.

        Anchor and positive may be of two processes: each takes a run of the rows sorted by class, whosever they are.
        """
        z, labels = share.all(z), share.all(labels)
        if len(z) < 2:
            zero = z.new_zeros(())
            count = torch.full((), len(z), device=z.device)
            nan = torch.full_like(zero, torch.nan)
            return zero, {"pairs": 0 * count, "accuracy": nan, "samples_dropped": count, "embedding_length": nan}
        order = torch.argsort(labels, stable=True)
        grouped = labels[order].contiguous()
        place = torch.arange(len(z), device=z.device) - torch.searchsorted(grouped, grouped)  # within the class
        # Row i of the sorted batch is an anchor if it has an even place and its class goes on.
        is_anchor = F.pad(grouped[1:] == grouped[:-1], (0, 1)) & (place % 2 == 0)
        z = F.embedding(order, z)
        size = len(z) // share.ranks
        rows = slice(share.rank * size, (share.rank + 1) * size)
        anchor, positive = z[rows], z.roll(-1, 0)
        numbers = torch.arange(len(z), device=z.device)
        own = numbers[rows].unsqueeze(1) == numbers
        allowed = (own | (grouped[rows].unsqueeze(1) != grouped)) & is_anchor
        if self.temperature is None:
            products = anchor @ positive.t()
        else:
            products = l2_normalize(anchor) @ l2_normalize(positive).t() / self.temperature
        logits = products.masked_fill(~(allowed | own), -torch.inf)
        terms = logits.logsumexp(1) - logits.diagonal(rows.start)
        count = is_anchor.sum()
        squares = widened(z).square().sum(1)
        lengths = (squares + squares.roll(-1, 0)) / 2
        right = (logits.detach().argmax(1) == numbers[rows]) & is_anchor[rows]
        total, squared, right = share.sum(
            wide_sum(terms.masked_fill(~is_anchor[rows], 0)),
            lengths.masked_fill(~is_anchor, 0)[rows].sum(),
            right.sum(),
        )
        loss, mean_square = total / count.clamp(min=1), squared / count.clamp(min=1)
        statistics = {
            "pairs": count,
            "accuracy": right / count,
            "samples_dropped": len(z) - 2 * count,
            "embedding_length": mean_square.detach().sqrt().to(z.dtype),
        }
        return (loss + self.l2_weight * mean_square).to(z.dtype), statistics

    def extra_repr(self) -> str:
        return f"l2_weight={self.l2_weight}, temperature={self.temperature}"
