"""Momentum contrast: views against the embeddings that a moving average of the weights gives the other views.

Chen, Xie, He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers" (MoCo v3, algorithm 1, arXiv
2104.02057), without the queue of its forerunners: the negatives are the keys of the batch's other images. With q_vb the
embedding of view v of image b, k_vb the key of the same view, s(v b, w c) = cos(q_vb, k_wc) / temperature:

    loss = 1/(V B) sum_vb 1/(V - 1) sum_{w != v} [ log( e^s(vb, wb) + sum_{u, c != b} e^s(vb, uc) ) - s(vb, wb) ]

All V views of the other images are negatives of every pair, as in NT-Xent; with ``negatives="other"`` the keys of view w
alone are (u = w), as in the paper. Its factor 2 * temperature is left out. The keys' BatchNorm uses the averaged statistics
(Cai et al. 2021, "Exponential Moving Average Normalization", arXiv 2101.08482), so that they do not depend on how the batch is
cut.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from simclr.errors import require
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.loss import LossConfig
from simclr.losses.ntxent.loss import checked_views
from simclr.losses.share import ALONE, Share
from simclr.losses.temperature import TemperatureLoss, check_temperature
from simclr.numerics import float32_products, unit_rows

__all__ = ["MoCoConfig", "MoCoLoss", "momentum_contrast"]

Negatives = Literal["all", "other"]
"""Whose keys of the other images an embedding is told from: those of all views, or of the view of its positive."""


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(LossConfig):
    """MoCo v3 on views of unlabelled images: SimCLR against a moving average of itself (Chen et al. 2021)."""

    name: ClassVar[str] = "moco"
    needs_keys: ClassVar[bool] = True

    temperature: float = 0.2
    """Temperature tau that divides the cosine similarities."""

    temperature_learned: bool = False
    """Learn the temperature, from `temperature` on and down to 0.01, as CLIP does (Radford et al. 2021)."""

    momentum: float = 0.99
    """Decay of the average that gives the keys, which is also what is exported; see `momentum_schedule`."""

    momentum_schedule: Literal["constant", "cosine"] = "constant"
    """`constant`: `momentum`, to which the decay rises from 0 in the first steps. `cosine`, the paper's: from `momentum` at the
    first step to 1 at the last one, by half a cosine."""

    negatives: Negatives = "all"
    """What an embedding is told from: the keys of other images, of `all` views, or of the `other` one alone, as in the paper."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature, "objective.temperature", self.temperature_learned)
        require(0 < self.momentum < 1, "objective.momentum", self.momentum, "in (0, 1)")
        for name, known in (("momentum_schedule", ("constant", "cosine")), ("negatives", get_args(Negatives))):
            value = getattr(self, name)
            require(value in known, f"objective.{name}", value, " or ".join(known))

    @property
    def average(self) -> float:
        """`momentum`."""
        return self.momentum

    @property
    def average_rises(self) -> bool:
        """Whether the decay goes from there to 1 over the run."""
        return self.momentum_schedule == "cosine"

    def chance(self, rows: int) -> float:
        """ln(N - 1): all keys are equally near (with more than two views it is ln(N - V + 1), nearly the same).

        With the negatives of the other view alone it is ln(N / 2), of two views.
        """
        return math.log(max(2, rows) - 1) if self.negatives == "all" else math.log(max(2, rows) / self.views)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "MoCoLoss":
        """The module; none of the numbers matters to it."""
        return MoCoLoss(self.temperature, self.negatives, temperature_learned=self.temperature_learned)


def momentum_contrast(
    views: Annotated[Tensor, "float V B D"],
    keys: Annotated[Tensor, "float V B D"],
    temperature: float | Annotated[Tensor, "float ..."] = 0.2,
    negatives: Negatives = "all",
) -> Annotated[Tensor, "float"]:
    """The loss of `views` (V, B, D) against `keys` (V, B, D), V >= 2: a scalar in float32, or float64 for float64.

    Rows are normalised here; the keys get no gradient. One image alone has no negatives: the loss is exactly 0. A row
    that is not finite makes the loss NaN. Memory grows with the square of V * B. `temperature` may be a tensor of one
    number, and gets its gradient.

    Raises:
        TypeError: either is not floating point.
        ValueError: their shapes are not one (V, B, D) with V >= 2, or `temperature` is not above 0.

    >>> z = torch.eye(2).repeat(2, 1, 1)  # two views of two images, each at its own key
    >>> momentum_contrast(z, z, temperature=1.0)  # log(e + 2) - 1
    tensor(0.5514)
    """
    return _part(views, keys, temperature, negatives, ALONE)


def _part(views: Tensor, keys: Tensor, temperature: float | Tensor, negatives: Negatives, share: Share) -> Tensor:
    if views.shape != keys.shape:
        raise ValueError(
            f"views has shape {tuple(views.shape)} and keys {tuple(keys.shape)}; momentum contrast expects one key for "
            "each embedding, both (V, B, D)"
        )
    q, temperature = checked_views(views, temperature)
    k, _ = checked_views(keys.detach(), temperature)
    num_views, batch, _ = q.shape
    with torch.autocast(q.device.type, enabled=False):
        q, k = (
            unit_rows(q.flatten(0, 1)),
            unit_rows(share.all(k.flatten(0, 1))),
        )  # (V*b, D) of this process, (V*B, D) of all
        with float32_products():
            similarity = (q @ k.T / temperature).view(num_views, batch, num_views, batch * share.ranks)
    first = share.rank * batch  # of this process's images among all
    own_image = torch.eye(batch, similarity.shape[3], dtype=torch.bool, device=q.device).roll(first, 1)[None, :, None]
    others = similarity.masked_fill(own_image, float("-inf"))
    all_views = negatives == "all"  # (V, 1 or V, B): view of the embedding, of the keys, image
    others = others.logsumexp(dim=(2, 3))[:, None] if all_views else others.logsumexp(dim=3).movedim(1, 2)
    positives = similarity.diagonal(first, dim1=1, dim2=3)  # (V, V, B): view of the embedding, of the key, image
    # log(e^p + e^n) - p, exact also where it is far below the rounding of either term
    pairs = -nn.functional.logsigmoid(positives - others)
    other_view = ~torch.eye(num_views, dtype=torch.bool, device=q.device)[:, :, None]
    return share.mean(torch.where(other_view, pairs, 0.0).sum() / (num_views * (num_views - 1) * batch))


class MoCoLoss(TemperatureLoss):
    """Momentum contrast as a module, `momentum_contrast` with its temperature.

    With `temperature_learned` the temperature is a parameter, see `simclr.losses.temperature.LearnedTemperature`.

    >>> MoCoLoss()(torch.randn(2, 8, 16), keys=torch.randn(2, 8, 16)).shape
    torch.Size([])
    """

    shares: ClassVar[bool] = True

    def __init__(
        self, temperature: float | Tensor = 0.2, negatives: Negatives = "all", *, temperature_learned: bool = False
    ) -> None:
        super().__init__(temperature, temperature_learned)
        require(negatives in get_args(Negatives), "negatives", negatives, " or ".join(get_args(Negatives)))
        self.negatives = negatives

    def forward(
        self, views: Annotated[Tensor, "float V B D"], keys: Annotated[Tensor, "float V B D"]
    ) -> Annotated[Tensor, "float"]:
        """`views` (V, B, D) with a gradient and `keys` (V, B, D) without to the scalar loss."""
        return momentum_contrast(views, keys, self.tau(), self.negatives)

    def on_batch(self, batch: EmbeddedBatch) -> Tensor:
        """The loss of the views and the average's embeddings of them."""
        assert batch.keys is not None
        return self(batch.z, batch.keys)

    def on_share(self, batch: EmbeddedBatch, share: Share) -> Tensor:
        """The loss of this process's views against all processes' keys, which alone are gathered, and its mean over them."""
        assert batch.keys is not None
        return _part(batch.z, batch.keys, self.tau(share), self.negatives, share)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, (super().extra_repr(), f"negatives={self.negatives!r}")))
