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
from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, check_dim, sum_where
from simclr.losses.memory import EmbeddingMemory, check_memory
from simclr.losses.share import ALONE, Share
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
    """Whom the N rows of a batch are compared with: S = N + M others, themselves and then the M rows of the memory.

    In a loss that ``shares`` (see `Loss`) the rows are those of one process, and the others begin with those of all.
    """

    others: Annotated[Tensor, "float S D"]
    """Without a gradient from the memory's first row on; ``z`` itself where there is no memory and one process."""
    positive: Annotated[Tensor, "bool N S"]
    """Of one class, without the row itself."""
    negative: Annotated[Tensor, "bool N S"]
    """Of different classes."""
    share: Share = ALONE
    """What adds up the parts of the processes."""

    def mean_distances(self, distances: Annotated[Tensor, "float N S"]) -> dict[str, Tensor]:
        """Statistics: the means over the positive and over the negative pairs of all processes; NaN where there is none."""
        near, far, positives, negatives = self.share.sum(
            sum_where(distances, self.positive),
            sum_where(distances, self.negative),
            self.positive.sum(),
            self.negative.sum(),
        )
        means = {"positive_distance": near / positives, "negative_distance": far / negatives}
        return {name: mean.to(distances.dtype) for name, mean in means.items()}

    @property
    def anchors(self) -> Annotated[Tensor, "bool N"]:
        """Rows with a positive and a negative."""
        return self.positive.any(1) & self.negative.any(1)


class PairLoss(SharedLabelLoss):
    """A loss of pairs of embeddings, L2-normalised or as they are.

    With ``memory`` rows every image of the batch is compared with so many embeddings of the latest calls as well, beside
    the batch (Wang et al. 2020): the loss of N anchors against N + M others, of which M get no gradient. ``dim`` is then
    the width D of the embeddings. A past embedding of an image counts as another image of its class, as another view would.
    The first ``memory_from`` calls remember nothing; in eval mode nothing is remembered either, but compared with. Memory of
    the computer: N x (N + M). A loss whose `compare` takes its sums and counts by ``pairs.share.sum`` says ``shares = True``, and
    is shared by processes.
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
    def compare(
        self, z: Annotated[Tensor, "float N D"], pairs: Pairs
    ) -> tuple[Annotated[Tensor, "float"], dict[str, Tensor]]:
        """Loss and statistics of the rows ``z`` (N, D) against ``pairs.others`` (N + M, D)."""

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch against itself and the memory, which then takes the batch in."""
        every, classes = share.all(z), share.all(labels)
        every = l2_normalize(every) if self.normalize else every
        z = share.own(every)
        same = labels.unsqueeze(1) == classes
        pairs = Pairs(every, same & ~share.itself(len(every), z.device), ~same, share)
        if self.memory is None:
            return self.compare(z, pairs)
        check_dim(z, self.memory.rows.shape[1])
        same, real = labels.unsqueeze(1) == self.memory.labels, self.memory.real()
        others = torch.cat([every, self.memory.rows.to(z.dtype)])
        positive, negative = torch.cat([pairs.positive, same & real], 1), torch.cat([pairs.negative, ~same & real], 1)
        loss, statistics = self.compare(z, Pairs(others, positive, negative, share))
        statistics["memory"] = real.sum()
        if self.training:
            self.memory.take_in(every, classes)
        return loss, statistics


def log_one_plus_sum_exp(x: Tensor, mask: Tensor, share: Share = ALONE) -> Tensor:
    """log(1 + sum of exp(x)) over the entries of ``mask`` in each row; exactly 0, with no gradient, where there is none.

    With a ``share`` each process has other columns of the same rows.
    """
    if share.ranks > 1:
        x = x.masked_fill(~mask, -torch.inf)
        largest = share.largest(x.amax(1)).clamp(min=0)
        (total,) = share.sum((x - largest.unsqueeze(1)).exp().sum(1))
        return largest + ((-largest).exp() + total).log()
    return F.pad(x.masked_fill(~mask, -torch.inf), (0, 1)).logsumexp(1)
