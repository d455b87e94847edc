"""Quality focal loss for soft scores, and distribution focal loss for numbers, with the head that reads them.

Li et al. 2020, "Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection"
(arXiv 2006.04388), eq. 5 and 6:

    QFL(sigma) = |y - sigma|^beta * BCE(sigma, y)               y in [0, 1]: the quality at the label's class, else 0
    DFL(S_l, S_r) = -((y_r - y) log S_l + (y - y_l) log S_r)    y_l <= y <= y_r: the bins on either side

Both take logits and work in float32 (float64 stays) whatever the autocast type.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.losses.label_loss import check_shares, require
from simclr.mining.given import Listed, as_labels, as_tensor
from simclr.mining.tuples import check_labels
from simclr.numerics import full_precision, zero_with_graph

__all__ = [
    "DistributionHead",
    "FocalReduction",
    "distribution_focal_loss",
    "integral",
    "quality_focal_loss",
    "soft_quality_focal_loss",
]

FocalReduction = Literal["mean", "sum", "none"]
"""Mean or sum over the N samples, or one value a sample (N,)."""


def quality_focal_loss(
    logits: Annotated[Tensor, "float N C"],
    labels: Annotated[Tensor, "int N"] | Listed,
    quality: Annotated[Tensor, "N"] | Listed,
    beta: float = 2.0,
    reduction: FocalReduction = "mean",
) -> Annotated[Tensor, "float ..."]:
    """Quality focal loss of ``logits`` (N, C) against ``quality`` (N,) in [0, 1] at the class ``labels`` (N,) int64.

    Each class is a sigmoid of its own; a sample's loss is the sum over classes. A label outside 0..C-1 (-1 or C, as
    detectors write it) is background: the target is 0 for every class and the quality is not looked at. The loss is 0,
    its least, where sigma equals the target everywhere. The slope passes through the factor ``|y - sigma|^beta`` too.

        >>> quality_focal_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), torch.tensor([0.5]))  # 0.5^2 ln 2
        tensor(0.1733)

    Raises `TypeError` for labels that are not int64, `ValueError` for shapes that do not fit, `ConfigError` for
    ``beta`` <= 0 or an unknown ``reduction``; on a CPU also a quality outside [0, 1].
    """
    require(beta > 0, "beta", beta, "positive")
    numbers: Tensor = as_labels(labels, device=logits.device)
    wanted: Tensor = as_tensor(quality, logits.device)
    _check_logits(logits, wanted, "quality")
    check_labels(numbers, len(logits))
    classes = torch.arange(logits.shape[1], device=logits.device)
    at_label = numbers.unsqueeze(1) == classes  # (N, C), all False for background
    target = torch.where(at_label, full_precision(wanted).unsqueeze(1), 0)
    return soft_quality_focal_loss(logits, target, beta, reduction)


def soft_quality_focal_loss(
    logits: Tensor, target: Tensor, beta: float = 2.0, reduction: FocalReduction = "mean"
) -> Tensor:
    """Quality focal loss of ``logits`` (N, C) against a ``target`` (N, C) in [0, 1] for every class: mixed images.

    Raises `ValueError` for shapes that do not fit, `ConfigError` for ``beta`` <= 0 or an unknown ``reduction``.
    """
    require(beta > 0, "beta", beta, "positive")
    if logits.ndim != 2 or logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must both be (N, C)")
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        target = target.to(logits.dtype)
        check_shares(target)
        # Not y - sigma itself: a negative base and a beta that is no integer give NaN.
        miss = (target - logits.sigmoid()).abs()
        hit = miss == 0  # a slope of miss^beta for beta < 1 is infinite there; the loss is at its least
        factor = miss.masked_fill(hit, 1).pow(beta).masked_fill(hit, 0)
        loss = (factor * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum(1)
        return _reduce(loss, reduction) + zero_with_graph(logits)


def distribution_focal_loss(
    logits: Annotated[Tensor, "float N bins"],
    target: Annotated[Tensor, "N"] | Listed,
    reduction: FocalReduction = "mean",
) -> Annotated[Tensor, "float ..."]:
    """Cross-entropy of the two bins beside ``target`` (N,) in [0, n], for ``logits`` (N, n + 1) of bins 0..n.

    The weight of a bin is the nearness of the target to it. Targets outside [0, n] count as its ends; y = n lies
    between the bins n - 1 and n, all of its weight on n.

        >>> distribution_focal_loss(torch.zeros(1, 5), torch.tensor([4.0]))  # ln 5
        tensor(1.6094)

    Raises `ValueError` for shapes that do not fit and for fewer than two bins, `ConfigError` for an unknown
    ``reduction``.
    """
    values: Tensor = as_tensor(target, logits.device)
    _check_logits(logits, values, "target")
    last = logits.shape[1] - 1
    if last < 1:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (N, n + 1) with at least two bins")
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        values = values.to(logits.dtype).clamp(0, last)
        left = values.detach().floor().long().clamp(0, last - 1)
        to_right = values - left
        log_share = logits.log_softmax(1)
        both = log_share.gather(1, torch.stack([left, left + 1], 1))
        loss = -(1 - to_right) * both[:, 0] - to_right * both[:, 1]
        return _reduce(loss, reduction) + zero_with_graph(logits)


def integral(logits: Annotated[Tensor, "float ... bins"]) -> Annotated[Tensor, "float ..."]:
    """Expectation over the bins, sum_i i softmax(logits)_i: (..., n + 1) -> (...) in [0, n], float32 or float64.

    >>> integral(torch.tensor([[0.0, 0.0, 0.0]]))
    tensor([1.])
    """
    with torch.autocast(logits.device.type, enabled=False):
        share = full_precision(logits).softmax(-1)
        return share @ torch.arange(share.shape[-1], dtype=share.dtype, device=share.device)


class DistributionHead(nn.Module):
    """A number read off a distribution: features (N, F) -> logits of ``bins`` bins 0..bins-1 -> expectation (N,).

    ``head(x)`` is the prediction, in units of bins; ``head.logits(x)`` (N, ``bins``) is what `distribution_focal_loss`
    trains. `simclr.losses.TargetBins` turns bins into the target's units.
    """

    def __init__(self, in_features: int, bins: int) -> None:
        super().__init__()
        require(bins >= 2, "bins", bins, "at least 2")
        self.linear = nn.Linear(in_features, bins)

    def logits(self, x: Annotated[Tensor, "float N F"]) -> Annotated[Tensor, "float N bins"]:
        """Logits (N, bins) of ``x`` (N, F)."""
        return self.linear(x)

    def forward(self, x: Annotated[Tensor, "float N F"]) -> Annotated[Tensor, "float N"]:
        """Expectation (N,) in [0, bins - 1] of ``x`` (N, F)."""
        return integral(self.logits(x))


def _check_logits(logits: Tensor, values: Tensor, name: str) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype} of shape {tuple(logits.shape)}, expected floating point (N, C)")
    if values.shape != logits.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected ({len(logits)},): one for each row of logits"
        )


def _reduce(loss: Tensor, reduction: FocalReduction) -> Tensor:
    require(reduction in ("mean", "sum", "none"), "reduction", reduction, "mean, sum or none")
    if reduction == "none":
        return loss
    return loss.sum() / max(len(loss), 1) if reduction == "mean" else loss.sum()
