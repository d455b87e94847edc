"""NT-Xent, the contrastive loss of SimCLR: the textbook form to read, and the form to train with.

Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1
(arXiv 2002.05709). N = V * B rows, row v * B + b is view v of image b, s_ik = cos(z_i, z_k) / temperature:

    loss = 1/N sum_i 1/(V - 1) sum_{p in P(i)} [ logsumexp_{k != i} s_ik - s_ip ]

P(i) are the V - 1 other views of the same image. With V = 2 this is the paper's loss. With V > 2 every ordered pair of
views of one image is one positive pair and all pairs weigh the same; the denominator of a pair holds every row but the
anchor, the image's other views included, so that one logsumexp serves all pairs of an anchor (SupCon's L_out with the
image as the class, Khosla et al. 2020).

``decoupled`` takes the image's own views out of the denominator (DCL: Yeh et al. 2022, "Decoupled Contrastive Learning",
L_DC, arXiv 2110.06848): the gradient of a pair that already agrees no longer fades.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.losses.arguments import Kind
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.loss import LossConfig
from simclr.losses.ntxent.shared import own_negative_logsumexp
from simclr.losses.ntxent.tiled import negative_logsumexp
from simclr.losses.share import ALONE, Share
from simclr.losses.temperature import (
    COLDEST,
    LearnedTemperature,
    TemperatureLoss,
    check_temperature,
    usable_temperature,
)
from simclr.numerics import float32_products, unit_rows

__all__ = ["NTXentConfig", "NTXentLoss", "TextbookMatrices", "nt_xent", "nt_xent_reference", "textbook_matrices"]


@dataclass(frozen=True, kw_only=True)
class NTXentConfig(LossConfig):
    """SimCLR's loss on views of unlabelled images (Chen et al. 2020, eq. 1)."""

    name: ClassVar[str] = "nt-xent"
    steady: ClassVar[bool] = True

    temperature: float = 0.5
    """Temperature tau that divides the cosine similarities."""

    temperature_learned: bool = False
    """Learn the temperature, from `temperature` on and down to 0.01, as CLIP does (Radford et al. 2021)."""

    decoupled: bool = False
    """Leave an image's own views out of the denominator (DCL, Yeh et al. 2022)."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature, "objective.temperature", self.temperature_learned)

    def chance(self, rows: int) -> float:
        """ln(N - 1): all other rows are equally near (`decoupled` it is ln(N - V), nearly the same)."""
        return math.log(max(2, rows) - 1)

    def build(self, num_classes: int, dim: int, num_samples: int) -> "NTXentLoss":
        """The module; none of the numbers matters to it."""
        return NTXentLoss(self.temperature, self.decoupled, temperature_learned=self.temperature_learned)


def checked_views(views: Tensor, temperature: float | Tensor) -> tuple[Tensor, float | Tensor]:
    """`views` in float32 (float64 stays float64) and the temperature for them, or an error that says what was expected.

    Raises TypeError for a tensor that is not floating point, ValueError for a wrong shape, for fewer than two views and
    for a temperature that is not a number above zero.
    """
    check_temperature(temperature)
    if not views.is_floating_point():
        raise TypeError(f"views has dtype {views.dtype}; NT-Xent expects floating point embeddings (V, B, D)")
    if views.dim() != 3:
        raise ValueError(
            f"views has shape {tuple(views.shape)}; NT-Xent expects (V, B, D): views, images, dimensions. "
            "Stack the embeddings of the views: torch.stack([z1, z2])"
        )
    if views.shape[0] < 2:
        raise ValueError(f"views has shape {tuple(views.shape)}; NT-Xent expects V >= 2 views of each image, got V = 1")
    if views.shape[1] == 0 or views.shape[2] == 0:
        raise ValueError(f"views has shape {tuple(views.shape)}; NT-Xent expects at least one image and one dimension")
    views = views if views.dtype == torch.float64 else views.float()
    return views, usable_temperature(temperature, views)


class TextbookMatrices(NamedTuple):
    """What the textbook form builds on its way to the loss, in order. N = V * B rows."""

    labels: Tensor
    """(N, N) bool: rows i and k show the same image."""
    labels_off_diagonal: Tensor
    """(N, N - 1) bool: the same without the pairs of a row with itself."""
    positives: Tensor
    """(N, V - 1): similarities to the other views of the same image."""
    negatives: Tensor
    """(N, N - V): similarities to the views of the other images."""
    logits: Tensor
    """(N, N - 1): [positives | negatives] / temperature."""
    targets: Tensor
    """(N,) int64 zeros: the first column of `logits` is a positive."""


def textbook_matrices(
    views: Annotated[Tensor, "float V B D"], temperature: float | Annotated[Tensor, "float ..."] = 0.5
) -> TextbookMatrices:
    """The masks and logits of the textbook form for `views` (V, B, D).

    >>> m = textbook_matrices(torch.randn(2, 4, 16))
    >>> [tuple(t.shape) for t in m]
    [(8, 8), (8, 7), (8, 1), (8, 6), (8, 7), (8,)]
    """
    views, temperature = checked_views(views, temperature)
    num_views, batch, _ = views.shape
    rows = num_views * batch
    with torch.autocast(views.device.type, enabled=False):
        z = unit_rows(views.flatten(0, 1))  # (N, D)
        with float32_products():
            similarity = z @ z.T  # (N, N)
    image = torch.arange(batch, device=views.device).repeat(num_views)  # (N,)
    labels = image[:, None] == image[None, :]
    off_diagonal = ~torch.eye(rows, dtype=torch.bool, device=views.device)
    labels_off_diagonal = labels[off_diagonal].view(rows, rows - 1)
    similarity = similarity[off_diagonal].view(rows, rows - 1)
    positives = similarity[labels_off_diagonal].view(rows, num_views - 1)
    negatives = similarity[~labels_off_diagonal].view(rows, rows - num_views)
    logits = torch.cat([positives, negatives], dim=1) / temperature
    targets = torch.zeros(rows, dtype=torch.int64, device=views.device)
    return TextbookMatrices(labels, labels_off_diagonal, positives, negatives, logits, targets)


def nt_xent_reference(
    views: Annotated[Tensor, "float V B D"], temperature: float | Annotated[Tensor, "float ..."] = 0.5
) -> Annotated[Tensor, "float"]:
    """NT-Xent of `views` (V, B, D) as a classification of the positive among all other rows: for reading and testing.

    Cross-entropy over [positives | negatives] with target 0; with more than two views, the mean over the V - 1 columns
    that hold a positive. Its masks are N x N booleans and it syncs with the device: train with `NTXentLoss`.

    >>> nt_xent_reference(torch.eye(2).repeat(2, 1, 1), temperature=1.0)  # log(e + 2) - 1
    tensor(0.5514)
    """
    m = textbook_matrices(views, temperature)
    columns = range(m.positives.shape[1])
    return torch.stack([F.cross_entropy(m.logits, m.targets + column) for column in columns]).mean()


def nt_xent(
    views: Annotated[Tensor, "float V B D"],
    temperature: float | Annotated[Tensor, "float ..."] = 0.5,
    decoupled: bool = False,
    *,
    coldest: float | None = None,
) -> Annotated[Tensor, "float"]:
    """NT-Xent of `views` (V, B, D), V >= 2: a scalar, float32 (float64 for float64 views) whatever the autocast type.

    The rows are normalised here. A zero row has similarity 0 to all others and a zero gradient; a row that is not
    finite makes the loss NaN. One image alone has no negatives: with V = 2, or `decoupled`, the loss is exactly 0 and
    its gradient too. A `decoupled` loss can be negative.
    On several processes, gather the views with gradient first: the negatives are the rows that this call sees.
    Memory grows with V * B, not with its square.

    `temperature` may be a tensor of one number, and gets its gradient. On a GPU nobody waits to look at it: memory stays
    linear there with `coldest`, a lower bound of it, and is that of an N x N matrix without.

    Raises:
        TypeError: `views` is not floating point.
        ValueError: `views` is not (V, B, D) with V >= 2 and B, D >= 1, or `temperature` is not above 0.
    """
    return nt_xent_part(views, temperature, decoupled, ALONE, coldest=coldest)


def nt_xent_part(
    views: Tensor, temperature: float | Tensor, decoupled: bool, share: Share, *, coldest: float | None = None
) -> Tensor:
    """`nt_xent` of the views of all processes, of which this one has `views` (V, b, D): it compares its rows with all of them.

    The gradient in `views` is that of the sum over processes, so `simclr.losses.share` has it.
    """
    views, temperature = checked_views(views, temperature)
    num_views, batch, _ = views.shape
    with torch.autocast(views.device.type, enabled=False):
        z = unit_rows(views.flatten(0, 1))  # (N, D)
        if batch * share.ranks == 1 and (decoupled or num_views == 2):
            return (z * 0).sum() + 0 * temperature
        if share.ranks == 1:
            negatives = negative_logsumexp(z, num_views, temperature, coldest).view(num_views, batch)
        else:
            z = share.rounded(z)
            negatives = own_negative_logsumexp(z, share, temperature, coldest).view(num_views, batch)
        z = z.view(views.shape)
        if num_views == 2:
            # loss = log(1 + exp(negatives - positive)): exact also where it is far below the rounding of either term.
            positive = (z[0] * z[1]).sum(dim=-1) / temperature  # (B,)
            terms = negatives - positive if decoupled else -F.logsigmoid(positive - negatives)
            return share.mean(terms.mean())
        with float32_products():
            positives = torch.einsum("vbd,wbd->vwb", z, z) / temperature
        own = torch.eye(num_views, dtype=torch.bool, device=z.device)[:, :, None]
        denominator = negatives  # (V, B)
        if not decoupled:
            others = positives.masked_fill(own, float("-inf")).logsumexp(dim=1)
            denominator = others if batch * share.ranks == 1 else torch.logaddexp(negatives, others)
        pairs = num_views * (num_views - 1) * batch
        return share.mean(denominator.mean() - positives.masked_fill(own, 0.0).sum() / pairs)


class NTXentLoss(TemperatureLoss):
    """NT-Xent as a module, `nt_xent` with its settings fixed (the paper's temperature for CIFAR-10 is 0.5).

    With `temperature_learned` the temperature is a parameter, see `simclr.losses.temperature.LearnedTemperature`.

    >>> z = torch.eye(2).repeat(2, 1, 1)  # two views (V, B, D) that agree on two orthogonal images
    >>> NTXentLoss(temperature=1.0)(z)
    tensor(0.5514)
    """

    kind: ClassVar[Kind] = "views"
    shares: ClassVar[bool] = True

    def __init__(
        self, temperature: float | Tensor = 0.5, decoupled: bool = False, *, temperature_learned: bool = False
    ) -> None:
        super().__init__(temperature, temperature_learned)
        self.decoupled = decoupled

    def forward(self, views: Annotated[Tensor, "float V B D"]) -> Annotated[Tensor, "float"]:
        """`views` (V, B, D) with V >= 2 to the scalar loss."""
        return nt_xent(views, self.tau(), self.decoupled, coldest=self._coldest)

    def on_share(self, batch: EmbeddedBatch, share: Share) -> Tensor:
        """The loss of the views of all processes, from this one's rows against all."""
        return nt_xent_part(batch.z, self.tau(share), self.decoupled, share, coldest=self._coldest)

    @property
    def _coldest(self) -> float | None:
        return COLDEST / 2 if isinstance(self.temperature, LearnedTemperature) else None  # it is rounded

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [super().extra_repr(), f"decoupled={self.decoupled}"]))
