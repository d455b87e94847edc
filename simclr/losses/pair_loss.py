"""What the losses on pairs share: who is compared with whom, in the batch and in a memory of past embeddings.

A new loss on pairs is a subclass of `PairLoss` with one method:

    >>> class NearestLoss(PairLoss):
    ...     def compare(self, z, pairs):
    ...         similarity = z @ pairs.others.t()
    ...         return similarity.masked_fill(~pairs.negative, -1).amax(1).mean(), {"pairs": pairs.negative.sum()}
    >>> loss = NearestLoss()
    >>> loss(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1]))
    tensor(0.6000)
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.errors import require
from simclr.losses.label_loss import LabelLoss, LabelLossConfig, check_dim
from simclr.losses.memory import EmbeddingMemory, check_memory
from simclr.numerics import l2_normalize

__all__ = ["PairLoss", "PairLossConfig", "Pairs", "log_one_plus_sum_exp"]


@dataclass(frozen=True, kw_only=True)
class PairLossConfig(LabelLossConfig):
    """Base of the configs of losses on pairs, which may take a memory of embeddings (XBM, Wang et al. 2020)."""

    memory: int = 0
    """How many embeddings of past steps every image of the batch is compared with as well; 0 is none."""
    memory_from: int = 1000
    """Steps before the first embeddings are remembered: at first they change too fast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_memory(self.memory, self.memory_from)


class Pairs(NamedTuple):
    """Whom the N rows of a batch are compared with: S = N + M others, themselves and then the M rows of the memory."""

    others: Annotated[Tensor, "float S D"]
    """Without a gradient from row N on; ``z`` itself where there is no memory."""
    positive: Annotated[Tensor, "bool N S"]
    """Of one class, without the row itself."""
    negative: Annotated[Tensor, "bool N S"]
    """Of different classes."""

    @property
    def anchors(self) -> Annotated[Tensor, "bool N"]:
        """Rows with a positive and a negative."""
        return self.positive.any(1) & self.negative.any(1)


class PairLoss(LabelLoss):
    """A loss of pairs of embeddings, L2-normalised or as they are.

    With ``memory`` rows every image of the batch is compared with so many embeddings of the latest calls as well, beside
    the batch (Wang et al. 2020): the loss of N anchors against N + M others, of which M get no gradient. ``dim`` is then
    the width D of the embeddings. A past embedding of an image counts as another image of its class, as another view would.
    The first ``memory_from`` calls remember nothing; in eval mode nothing is remembered either, but compared with. Memory of
    the computer: N x (N + M).
    """

    def __init__(
        self, *, normalize: bool = True, memory: int = 0, memory_from: int = 1000, dim: int | None = None
    ) -> None:
        super().__init__()
        check_memory(memory, memory_from)
        require(not memory or dim is not None, "dim", dim, "the width of the embeddings, for a memory of them")
        self.normalize = normalize
        self.memory = EmbeddingMemory(memory, dim or 0, memory_from) if memory else None

    @abstractmethod
    def compare(self, z: Tensor, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and statistics of the rows ``z`` (N, D) against ``pairs.others`` (N + M, D)."""

    def compute(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch against itself and the memory, which then takes the batch in."""
        z = l2_normalize(z) if self.normalize else z
        same = labels.unsqueeze(1) == labels
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        pairs = Pairs(z, same & ~itself, ~same)
        if self.memory is None:
            return self.compare(z, pairs)
        check_dim(z, self.memory.rows.shape[1])
        same, real = labels.unsqueeze(1) == self.memory.labels, self.memory.real()
        others = torch.cat([z, self.memory.rows.to(z.dtype)])
        positive, negative = torch.cat([pairs.positive, same & real], 1), torch.cat([pairs.negative, ~same & real], 1)
        loss, statistics = self.compare(z, Pairs(others, positive, negative))
        statistics["memory"] = real.sum()
        if self.training:
            self.memory.take_in(z, labels)
        return loss, statistics


def log_one_plus_sum_exp(x: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum of exp(x)) over the entries of ``mask`` in each row; exactly 0, with no gradient, where there is none."""
    return F.pad(x.masked_fill(~mask, -torch.inf), (0, 1)).logsumexp(1)
