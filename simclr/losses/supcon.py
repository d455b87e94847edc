"""SupCon, the supervised contrastive loss: every row of the anchor's class is a positive.

Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2, L_out (arXiv 2004.11362). N = V * B rows, row v * B + b is
view v of image b and carries its label, s_ik = cos(z_i, z_k) / temperature, P(i) the other rows with i's label:

    loss = mean over anchors i with a positive of  1/|P(i)| sum_{p in P(i)} [ logsumexp_{k != i} s_ik - s_ip ]
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from simclr.losses.arguments import Kind, hint
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.loss import LossConfig
from simclr.losses.share import ALONE, Share
from simclr.losses.temperature import TemperatureLoss, check_temperature, usable_temperature
from simclr.mining.given import Listed, as_labels
from simclr.numerics import float32_products, unit_rows

__all__ = ["SupConConfig", "SupConLoss", "sup_con"]


@dataclass(frozen=True, kw_only=True)
class SupConConfig(LossConfig):
    """Supervised contrastive loss: every view of every image of a class is a positive (Khosla et al. 2020, eq. 2)."""

    name: ClassVar[str] = "supcon"
    views: ClassVar[int] = 1
    needs_labels: ClassVar[bool] = True

    temperature: float = 0.1
    """Temperature tau that divides the cosine similarities."""

    temperature_learned: bool = False
    """Learn the temperature, from `temperature` on and down to 0.01, as CLIP does (Radford et al. 2021)."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature, "objective.temperature", self.temperature_learned)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "SupConLoss":
        """The module; none of the numbers matters to it."""
        return SupConLoss(self.temperature, temperature_learned=self.temperature_learned)


def sup_con(
    views: Annotated[Tensor, "float V B D"],
    labels: Annotated[Tensor, "int B"] | Listed,
    temperature: float | Annotated[Tensor, "float ..."] = 0.1,
) -> Annotated[Tensor, "float"]:
    """SupCon of `views` (V, B, D) with `labels` (B,) int64: a scalar, float32 (float64 for float64 views).

    The rows are normalised here. An anchor without a positive (possible only when V = 1) is left out of the mean; where
    no anchor has one, the loss is an exact zero that carries a graph. A row that is not finite makes the loss NaN.
    `temperature` may be a tensor of one number, and gets its gradient.

    Raises:
        TypeError: `views` is not floating point or `labels` is not int64.
        ValueError: `views` is not (V, B, D) with V, B, D >= 1, `labels` is not (B,), or `temperature` is not above 0.

    >>> z = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])  # one view of three images; the third has no positive
    >>> sup_con(z, torch.tensor([0, 0, 1]), temperature=1.0)  # log(e + 1) - 1
    tensor(0.3133)
    """
    return _part(views, labels, temperature, ALONE)


def _part(views: Tensor, labels: Tensor | Listed, temperature: float | Tensor, share: Share) -> Tensor:
    if not views.is_floating_point():
        raise TypeError(f"views has dtype {views.dtype}; SupCon expects floating point embeddings (V, B, D)")
    if views.dim() != 3 or 0 in views.shape:
        raise ValueError(
            f"views has shape {tuple(views.shape)}; SupCon expects (V, B, D): views, images, dimensions, "
            f"each at least 1. For one embedding an image, give z[None]{hint(views, labels)}"
        )
    rows: Tensor = as_labels(labels, device=views.device)
    if rows.dtype != torch.int64:
        raise TypeError(f"labels has dtype {rows.dtype}; SupCon expects int64{hint(views, rows)}")
    if rows.shape != views.shape[1:2]:
        raise ValueError(
            f"labels has shape {tuple(rows.shape)} and views {tuple(views.shape)}; "
            f"SupCon expects one label an image, ({views.shape[1]},)"
        )
    z = views.flatten(0, 1)  # (N, D)
    z = z if z.dtype == torch.float64 else z.float()
    check_temperature(temperature)
    temperature = usable_temperature(temperature, z)
    rows = rows.repeat(views.shape[0])  # (N,)
    if len(z) * share.ranks == 1:
        return (z * 0.0).sum() + 0 * temperature  # the logsumexp over no other row would be -inf
    with torch.autocast(z.device.type, enabled=False):
        others, classes = unit_rows(share.all(z)), share.all(rows)  # (N, D), (N,)
        with float32_products():
            logits = (share.own(others) @ others.T) / temperature  # (A, N), the rows of this process
        itself = share.itself(len(others), z.device)
        positive = (rows[:, None] == classes[None, :]) & ~itself
        count = positive.sum(dim=1)  # |P(i)|
        mean_positive = (positive.to(z.dtype) * logits).sum(dim=1) / count.clamp(min=1)
        logits = logits.masked_fill(itself, float("-inf"))
        per_anchor = (logits.logsumexp(dim=1) - mean_positive) * (count > 0)
        total, anchors = share.sum(per_anchor.sum(), (count > 0).sum())
        return total / anchors.clamp(min=1)


class SupConLoss(TemperatureLoss):
    """SupCon as a module, `sup_con` with its temperature (the paper's ImageNet setting is 0.1).

    With `temperature_learned` the temperature is a parameter, see `simclr.losses.temperature.LearnedTemperature`.
    """

    kind: ClassVar[Kind] = "views and labels"
    shares: ClassVar[bool] = True

    def __init__(self, temperature: float | Tensor = 0.1, *, temperature_learned: bool = False) -> None:
        super().__init__(temperature, temperature_learned)

    def forward(
        self, views: Annotated[Tensor, "float V B D"], labels: Annotated[Tensor, "int64 B"]
    ) -> Annotated[Tensor, "float"]:
        """`views` (V, B, D) and `labels` (B,) int64 to the scalar loss."""
        return sup_con(views, labels, self.tau())

    def on_batch(self, batch: EmbeddedBatch) -> Tensor:
        """The loss of the views and the images' labels."""
        return self(batch.z, batch.labels)

    def on_share(self, batch: EmbeddedBatch, share: Share) -> Tensor:
        """The loss of all processes' views, of which this one's are the anchors of its part."""
        return _part(batch.z, batch.labels, self.tau(share), share)
