"""Proxy-anchor loss: one learned proxy a class is the anchor, and all embeddings of the batch are compared with it.

Kim, Kim, Cho, Kwak 2020, "Proxy Anchor Loss for Deep Metric Learning", eq. 4 (arXiv 2003.13911). s(x, p) is the cosine, P+ the
proxies of the classes in the batch, X_p^+ the embeddings of proxy p's class and X_p^- the others:

    L = 1/|P+| sum_{p in P+} log(1 + sum_{x in X_p^+} exp(-alpha (s(x, p) - delta)))
      + 1/|P|  sum_{p in P}  log(1 + sum_{x in X_p^-} exp( alpha (s(x, p) + delta)))

alpha 32, delta 0.1; the proxies learn at 100 times the network's rate (the authors' code). No mining and no sampler of
classes: what is hard in the batch weighs most by itself.

    >>> loss = ProxyAnchorLoss(num_classes=2, dim=2, margin=0.0, alpha=1.0)
    >>> with torch.no_grad():
    ...     _ = loss.proxies.copy_(torch.eye(2))
    >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).detach()  # log(1 + 1/e) + (0 + log 2) / 2
    tensor(0.6598)
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, check_classes, check_dim, check_sizes, require
from simclr.losses.pair_loss import log_one_plus_sum_exp
from simclr.losses.share import ALONE, Share
from simclr.numerics import float32_products, full_precision, l2_normalize

__all__ = ["ProxyAnchorConfig", "ProxyAnchorLoss"]


@dataclass(frozen=True, kw_only=True)
class ProxyAnchorConfig(LabelLossConfig):
    """Proxy-anchor loss (Kim et al. 2020)."""

    name: ClassVar[str] = "proxy-anchor"

    alpha: float = 32.0
    """Scale of the cosines."""
    margin: float = 0.1
    """Margin delta: embeddings belong above this cosine to their own proxy, and below its negative to the others."""
    lr_multiplier: float = 100.0
    """Learning rate of the proxies, as a multiple of the encoder's. No weight decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build(1, 1, 1)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "ProxyAnchorLoss":
        """The module with proxies for ``num_classes`` in ``dim`` dimensions."""
        return ProxyAnchorLoss(num_classes, dim, self.margin, self.alpha)


class ProxyAnchorLoss(SharedLabelLoss):
    """Proxy-anchor loss, which normalises embeddings and proxies by definition.

    The pull is a mean over the classes in the batch, the push one over all classes.

    Parameters: ``proxies`` (num_classes, dim). `statistics`: accuracy (nearest proxy), classes (in the batch),
    positive_distance, negative_distance (mean cosine distances to the own proxy and to the others).

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 (a GPU asserts).
    """

    shares: ClassVar[bool] = True

    def __init__(self, num_classes: int, dim: int, margin: float = 0.1, alpha: float = 32.0) -> None:
        super().__init__()
        check_sizes(num_classes, dim)
        require(0 <= margin < 1, "margin", margin, "a part of a cosine in [0, 1)")
        require(0 < alpha < math.inf, "alpha", alpha, "positive")
        self.num_classes, self.margin, self.alpha = num_classes, margin, alpha
        self.proxies = nn.Parameter(torch.randn(num_classes, dim) * math.sqrt(2 / num_classes))

    def cosines(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"]:
        """Cosine of ``z`` (N, D) to every proxy: (N, C), float32 or float64."""
        return self._cosines(z, ALONE)

    def _cosines(self, z: Tensor, share: Share) -> Tensor:
        check_dim(z, self.proxies.shape[1])
        with torch.autocast(z.device.type, enabled=False), float32_products():
            z = full_precision(z)
            return l2_normalize(z) @ l2_normalize(share.alike(self.proxies).to(z.dtype)).t()

    def scores(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"]:
        """Class logits (N, C) of embeddings ``z`` (N, D): scaled cosines."""
        return self.alpha * self.cosines(z)

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pull to the own proxies and the push from the others."""
        check_classes(labels, self.num_classes)
        cosines = self._cosines(z, share).t()  # (C, A): the proxies are the anchors
        own = torch.arange(self.num_classes, device=z.device).unsqueeze(1) == labels
        pull = log_one_plus_sum_exp(-self.alpha * (cosines - self.margin), own, share)
        push = log_one_plus_sum_exp(self.alpha * (cosines + self.margin), ~own, share)
        size = max(len(z) * share.ranks, 1)
        members, right, to_own, to_all = share.sum(
            own.sum(1),
            (cosines.argmax(0) == labels).sum(),
            (cosines.detach() * own).sum(),
            cosines.detach().sum(),
        )
        present = (members > 0).sum()
        statistics = {
            "accuracy": right / size,
            "classes": present,
            "positive_distance": 1 - to_own / size,
            "negative_distance": 1 - (to_all - to_own) / (size * max(self.num_classes - 1, 1)),
        }
        return pull.sum() / present.clamp(min=1) + push.sum() / self.num_classes, statistics

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, margin={self.margin}, alpha={self.alpha}"
