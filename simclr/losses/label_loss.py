"""What every loss on labelled embeddings shares: its call, its config, its statistics and its manners.

A new loss is a subclass of `LabelLoss` with one method:

    >>> class SpreadLoss(LabelLoss):
    ...     def compute(self, z, labels, indices, generator):
    ...         return z.square().mean(), {"largest": z.abs().max()}
    >>> loss = SpreadLoss()
    >>> loss(torch.tensor([[1.0, -2.0]]), torch.tensor([0]))
    tensor(2.5000)
    >>> loss.statistics["largest"]
    tensor(2.)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.errors import require
from simclr.losses.arguments import Kind, hint
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.loss import Loss, LossConfig
from simclr.losses.share import ALONE, Share
from simclr.mining.tuples import check_labels
from simclr.numerics import full_precision, wide_dtype, zero_with_graph

__all__ = [
    "LabelLoss",
    "LabelLossConfig",
    "LinearHeadLoss",
    "SharedLabelLoss",
    "check_classes",
    "check_dim",
    "check_numbered",
    "check_shares",
    "check_sizes",
    "check_targets",
    "linear",
    "require",
    "sum_where",
    "wide_sum",
]

_ROUNDING = 1e-2
"""What shares may leave [0, 1] by: those of half types are rounded."""


@dataclass(frozen=True, kw_only=True)
class LabelLossConfig(LossConfig):
    """Base of the configs of losses on labels: one view is enough, and parameters of their own have a learning rate."""

    views: ClassVar[int] = 1
    needs_labels: ClassVar[bool] = True

    lr_multiplier: float = 1.0
    """Learning rate of the objective's own parameters (class weights, betas, thresholds) over the encoder's, over a tenth of
    it under Muon. They get no weight decay. Without effect where the objective has none."""

    def __post_init__(self) -> None:
        require(0 < self.lr_multiplier < math.inf, "lr_multiplier", self.lr_multiplier, "a positive number")


class LabelLoss(Loss, ABC):
    """A loss of embeddings and labels: ``loss(z (N, D), labels (N,) int64, indices=None)`` -> scalar.

    What holds for each of them:

    - z may be float32, float64, bfloat16 or float16; all is computed in float32 (float64 stays), autocast or not.
    - Arrays, lists and other integers are taken for labels, and views (V, B, D) with a label an image for their rows.
    - A batch without anything to compare gives an exact 0 that carries a graph.
    - A row of z that is not finite gives NaN, never a finite loss.
    - Nothing waits for the GPU. ``statistics`` holds 0-dim tensors on the device, of the latest call.
    - On several processes, call it with the gathered z and labels on every rank, and a generator seeded alike.
    """

    kind: ClassVar[Kind] = "labels"

    def forward(
        self,
        z: Annotated[Tensor, "float N D"],
        labels: Annotated[Tensor, "N ..."],
        indices: Annotated[Tensor, "int64 N"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Annotated[Tensor, "float"]:
        """The loss of ``z`` (N, D) with ``labels`` (N,) int64.

        ``indices`` (N,) int64 are the images' numbers in the data set, for losses with a parameter a sample.
        ``generator``, on z's device, makes the draws of losses that draw repeatable.

        Raises `TypeError` for labels that are not int64 and `ValueError` for shapes that do not fit.
        """
        return self._taken(z, labels, partial(self.compute, indices=indices, generator=generator))

    def _taken(
        self, z: Tensor, labels: Tensor, compute: Callable[..., tuple[Tensor, dict[str, Tensor]]], share: Share = ALONE
    ) -> Tensor:
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels are {type(labels).__name__}; expected int64 labels (N,), one for each embedding")
        if z.ndim != 2 or not z.is_floating_point():
            raise ValueError(f"z is {z.dtype} of shape {tuple(z.shape)}, expected floating-point embeddings (N, D)")
        try:
            self.check_labels(labels, len(z))
        except (TypeError, ValueError) as error:
            if said := hint(z, labels):
                raise type(error)(f"{error}{said}") from error
            raise
        with torch.autocast(z.device.type, enabled=False):
            z = full_precision(z)
            loss, statistics = compute(z, labels)
            self.statistics = {name: value.detach() for name, value in statistics.items()}
            return loss + share.sum(zero_with_graph(z))[0]

    def on_batch(self, batch: EmbeddedBatch) -> Tensor:
        """The loss of every view of ``batch`` as an image of its own, with the image's label and number."""
        z, labels, indices, generator = _rows(batch)
        return self(z, labels, indices, generator=generator)

    @abstractmethod
    def compute(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and statistics of checked, full-precision ``z``, outside autocast."""

    def check_labels(self, labels: Tensor, rows: int) -> None:
        """Raise unless ``labels`` suit this loss: int64 (rows,), for all but regression."""
        check_labels(labels, rows)

    def warning(self, loss: float, statistics: Mapping[str, float]) -> str | None:
        """Plain words for a collapse that the figures of a step (or their means over an epoch) show, or None."""
        positive, negative = statistics.get("positive_distance"), statistics.get("negative_distance")
        if positive is None or negative is None or positive != positive or negative != negative:
            return None
        if abs(negative - positive) <= 0.01 * max(negative, positive):
            return (
                f"images of one class are as far apart ({positive:.3g}) as images of different classes "
                f"({negative:.3g}): the embedding says nothing about the labels. Lower the learning rate, or ease the "
                "mining or the margin."
            )
        return None


class SharedLabelLoss(LabelLoss):
    """A loss of embeddings and labels that several processes share: one method for a part of it and for all of it.

    A class whose `compute_part` is right for a part says ``shares = True``, see `Loss`.
    """

    @abstractmethod
    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and statistics of all processes, given this one's rows ``z`` (A, D), ``labels`` and ``indices``.

        ``generator`` is seeded alike in all of them. See `simclr.losses.share`.
        """

    def compute(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and statistics of the whole batch."""
        return self.compute_part(z, labels, indices, generator, ALONE)

    def on_share(self, batch: EmbeddedBatch, share: Share) -> Tensor:
        """The loss of every view of every process's images, of which this one computes its part."""
        z, labels, indices, generator = _rows(batch)
        return self._taken(
            z, labels, partial(self.compute_part, indices=indices, generator=generator, share=share), share
        )


def _rows(batch: EmbeddedBatch) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Every view as an image of its own: embeddings, labels and numbers, and the generator of the step."""
    views = len(batch.z)
    # Every rank draws the same negatives: the generator is theirs in common, not the process's own.
    generator = torch.Generator(device=batch.z.device).manual_seed(batch.seed)
    labels = batch.labels.repeat(views, *[1] * (batch.labels.ndim - 1))
    return batch.z.flatten(0, 1), labels, batch.indices.repeat(views), generator


class LinearHeadLoss(SharedLabelLoss):
    """A loss of the class logits of a linear head on embeddings as they are, of labels or of shares of the classes.

    Parameters: ``head``, an ``nn.Linear(dim, num_classes)``.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        check_sizes(num_classes, dim)
        self.num_classes = num_classes
        self.head = nn.Linear(dim, num_classes)

    def scores(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"]:
        """Class logits (N, C) of embeddings ``z`` (N, D), in z's full precision."""
        return linear(self.head, z)

    def _part_scores(self, z: Tensor, share: Share) -> Tensor:
        return linear(self.head, z, share)

    def check_labels(self, labels: Tensor, rows: int) -> None:
        """Raise unless ``labels`` are int64 (rows,) or a share of every class (rows, C)."""
        check_targets(labels, rows, self.num_classes)


def linear(head: nn.Linear, z: Tensor, share: Share = ALONE) -> Tensor:
    """``head`` of ``z`` (N, D) in the precision of ``z``, whatever that of its weights; of a part of all rows with ``share``."""
    check_dim(z, head.in_features)
    return F.linear(z, share.alike(head.weight).to(z.dtype), share.alike(head.bias).to(z.dtype))


def wide_sum(values: Tensor) -> Tensor:
    """Sum of ``values`` in the widest type: finite wherever their mean is."""
    return values.sum(dtype=wide_dtype(values.device))


def sum_where(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``values`` over ``mask``, in the widest type, without a gradient."""
    return wide_sum(values.detach() * mask)


def check_targets(targets: Tensor, rows: int, num_classes: int) -> None:
    """Raise unless ``targets`` are int64 (rows,) or shares of the classes, floating point (rows, num_classes)."""
    if targets.ndim == 1:
        check_labels(targets, rows)
    elif targets.shape != (rows, num_classes) or not targets.is_floating_point():
        raise ValueError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}, expected int64 ({rows},) or floating point "
            f"({rows}, {num_classes})"
        )
    else:
        check_shares(targets)


def check_shares(targets: Tensor) -> None:
    """Raise `ValueError` unless ``targets`` (N, C) are shares or qualities in [0, 1]; on a GPU say nothing."""
    if targets.device.type != "cpu" or not targets.numel() or torch.compiler.is_compiling():
        return
    try:
        low, high = (bound.item() for bound in targets.detach().aminmax())
    except RuntimeError:  # torch.func.vmap shows no single one
        return
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(
            f"targets run from {low:.4g} to {high:.4g}, expected the share or quality of each class in [0, 1]"
        )


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Raise `ValueError` unless every label is in 0..num_classes-1; on a GPU, where looking would wait, say nothing."""
    check_numbered(labels, num_classes, "labels", "classes")


def check_numbered(numbers: Tensor, count: int, name: str, things: str) -> None:
    """Raise `ValueError` unless ``numbers`` (N,) are of one of ``count`` ``things``; on a GPU say nothing, as `check_classes`."""
    if numbers.device.type == "cpu" and len(numbers) and not torch.compiler.is_compiling():
        try:
            low, high = int(numbers.min()), int(numbers.max())
        except RuntimeError:  # torch.func.vmap shows no single one
            return
        if low < 0 or high >= count:
            mend = "leave out the rows without one" if low < 0 else f"make the loss for at least {high + 1}"
            raise ValueError(
                f"{name} run from {low} to {high}, expected 0 to {count - 1} for {count} {things}; {mend}, or number the "
                f"{things} from 0 on"
            )


def check_sizes(num_classes: int, dim: int) -> None:
    """Raise `ConfigError` unless a loss can have weights for so many classes and dimensions."""
    for name, value in (("num_classes", num_classes), ("dim", dim)):
        require(isinstance(value, int) and value >= 1, name, value, "a whole number, 1 or more")


def check_dim(z: Tensor, dim: int) -> None:
    """Raise `ValueError` unless the embeddings ``z`` (N, D) have the dimensions that the loss was made for."""
    if z.shape[-1] != dim:
        raise ValueError(f"z has {z.shape[-1]} dimensions, expected {dim}: make the loss with dim={z.shape[-1]}")
