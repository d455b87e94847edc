"""Softmax over the cosines to one direction a class: what ArcFace and CosFace share, at many classes too.

L2-normalised embeddings and class directions, logits s cos(theta_j), cross-entropy; the losses differ in the margin that
they take from the own class's cosine. Three things belong to either:

- Sub-centres (Deng et al. 2020, "Sub-center ArcFace"): K directions a class, of which the nearest counts.
- Partial class weights (An et al. 2021, "Partial FC", arXiv 2010.05222; 2022, arXiv 2203.15565): a step compares with the
  classes of its batch and with others drawn at random, up to a share of all. At 100,000 classes the matrix of logits and
  the normalised directions are what takes memory and time; a tenth of the classes takes a tenth of both.
- Divided directions (Deng et al. 2019, section 2 of the supplement, and "Partial FC"): each of several processes holds those of
  its classes alone, compares the rows of all processes with them, and log-sum-exps are put together.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.losses.label_loss import LabelLossConfig, SharedLabelLoss, check_classes, check_dim, check_sizes, require
from simclr.losses.share import ALONE, Share
from simclr.numerics import full_precision, l2_normalize
from simclr.sharding import first_row, is_sharded, local_with_gradient, whole

__all__ = ["LARGEST_COSINE", "DirectionsConfig", "DirectionsLoss"]

LARGEST_COSINE = 1 - 1e-7
"""Between this cosine and 1 the slope of the angle grows without bound, and float32 has one more number."""


@dataclass(frozen=True, kw_only=True)
class DirectionsConfig(LabelLossConfig):
    """Base of the configs of losses of cosines to class directions."""

    scale: float = 64.0
    """Factor s of the cosines."""
    subcenters: int = 1
    """Directions a class; more than one lets noisy images settle apart."""
    sample_share: float = 1.0
    """Share of the classes that a step compares with: those of its batch, and others drawn at random. Less than 1 is for
    very many classes, whose logits would not fit."""


class DirectionsLoss(SharedLabelLoss):
    """Cross-entropy of scaled cosines, the own class's with a margin: the mean over the batch.

    Parameters: ``weight`` (num_classes * subcenters, dim), the directions of class c in rows c * subcenters and
    following. `statistics`: accuracy (nearest direction, without margin), angle (mean to the own class, degrees).

    With a ``sample_share`` below 1, in training mode, a call compares with max(share * num_classes, N) classes: all of the
    batch's, the rest drawn from ``generator``, so that the same seed draws the same on every process. Accuracy is then among
    these. Directions that are not drawn get a gradient of exactly 0. In eval mode, and for `scores`, every class counts.

    Where ``weight`` is cut into rows of the processes (`simclr.sharding`), `on_ranks` has the value and gradients that it has
    where each has all of it, and `cosines` and `scores` are collectives: all processes call them, and get those of all classes.

    Raises `ValueError` on a CPU for labels outside 0..num_classes-1 (a GPU asserts).
    """

    def __init__(self, num_classes: int, dim: int, scale: float, subcenters: int, sample_share: float) -> None:
        super().__init__()
        check_sizes(num_classes, dim)
        require(0 < scale < math.inf, "scale", scale, "positive")
        require(subcenters >= 1, "subcenters", subcenters, "at least 1")
        require(0 < sample_share <= 1, "sample_share", sample_share, "in (0, 1]; 1 is every class")
        self.num_classes, self.scale, self.subcenters, self.sample_share = num_classes, scale, subcenters, sample_share
        self.weight = nn.Parameter(torch.randn(num_classes * subcenters, dim) / math.sqrt(dim))

    @abstractmethod
    def with_margin(self, own: Tensor) -> Tensor:
        """The cosines (N, 1) to the own class as the loss takes them."""

    def cosines(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"]:
        """Cosine of ``z`` (N, D) to the nearest direction of every class: (N, C), float32 or float64."""
        return self._cosines(z, whole(self.weight) if is_sharded(self.weight) else self.weight)

    def _cosines(self, z: Tensor, weight: Tensor) -> Tensor:
        check_dim(z, weight.shape[1])
        with torch.autocast(z.device.type, enabled=False):
            z = full_precision(z)
            weight = weight.to(z.dtype)
            # Divided by the lengths afterwards: normalised directions, in float64 on the way, would be copies of all of them.
            lengths = torch.linalg.vector_norm(weight, dim=1)
            cosines = l2_normalize(z) @ weight.t() / lengths.masked_fill(lengths == 0, 1)
            if self.subcenters > 1:
                cosines = cosines.unflatten(1, (len(weight) // self.subcenters, self.subcenters)).max(2).values
            return cosines

    def divisible(self) -> dict[str, int]:
        """The directions, those of a class together."""
        return {"weight": self.subcenters}

    def scores(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"]:
        """Class logits (N, C) of embeddings ``z`` (N, D): scaled cosines, without a margin."""
        return self.scale * self.cosines(z)

    def compute_part(
        self, z: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of the scaled cosines, the own class's with its margin."""
        check_classes(labels, self.num_classes)
        if is_sharded(self.weight):
            return self._compute_own_classes(z, labels, generator, share)
        weight, labels = self._drawn(labels, generator, share)
        cosines = self._cosines(z, weight)
        own = cosines.gather(1, labels.unsqueeze(1))
        logits = self.scale * cosines.scatter(1, labels.unsqueeze(1), self.with_margin(own))
        size = max(len(z) * share.ranks, 1)
        angles = own.detach().clamp(-LARGEST_COSINE, LARGEST_COSINE).acos()
        total, right, angle = share.sum(
            F.cross_entropy(logits, labels, reduction="sum"), (cosines.argmax(1) == labels).sum(), angles.sum()
        )
        return total / size, {"accuracy": right / size, "angle": torch.rad2deg(angle / size)}

    def _compute_own_classes(
        self, z: Tensor, labels: Tensor, generator: torch.Generator | None, share: Share
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same where the directions are cut: this process's part is all rows against its classes."""
        if share is ALONE:
            raise RuntimeError(
                "the class directions are divided among processes: each calls on_ranks, with its part of the batch"
            )
        z, labels = share.all(z), share.all(labels)
        weight, places, held = self._own_drawn(labels, generator)
        cosines = self._cosines(z, weight)  # (N, c)
        classes, places = cosines.shape[1], places.unsqueeze(1)
        if classes:
            own = cosines.gather(1, places)
            widened = torch.where(held.unsqueeze(1), self.with_margin(own), own)
            logits, nearest = self.scale * cosines.scatter(1, places, widened), cosines.detach().amax(1)
        else:  # fewer classes than processes, or none of its own was drawn
            own, logits, nearest = z.new_zeros(len(z), 1), cosines, z.new_full((len(z),), -torch.inf)
            widened = own
        parts = logits.logsumexp(1)  # (N,), -inf of no class
        largest, nearest = share.largest(torch.stack([parts, nearest])).unbind()
        angles = own.detach().squeeze(1).clamp(-LARGEST_COSINE, LARGEST_COSINE).acos()
        total, target, right, angle = share.sum(
            (parts - largest).exp(),
            torch.where(held, self.scale * widened.squeeze(1), 0),
            (held & (own.detach().squeeze(1) == nearest)).sum(),
            torch.where(held, angles, 0).sum(),
        )
        size = max(len(z), 1)
        loss = (total.log() + (largest - target)).sum() / size
        return loss, {"accuracy": right / size, "angle": torch.rad2deg(angle / size)}

    def _drawn(self, labels: Tensor, generator: torch.Generator | None, share: Share = ALONE) -> tuple[Tensor, Tensor]:
        """Directions of the classes that this call compares with, and the place of each label's among them."""
        classes = self._lot(labels, generator, share)
        if classes is None:
            return share.alike(self.weight), labels
        return share.alike(self._rows(self.weight, classes)), torch.searchsorted(classes, labels)

    def _own_drawn(self, labels: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """As `_drawn`, but of the classes that this process holds; and which of ``labels``, of all rows, are among them."""
        weight: Tensor = local_with_gradient(self.weight)
        first, count = first_row(self.weight) // self.subcenters, len(weight) // self.subcenters
        held, places = (labels >= first) & (labels < first + count), labels - first
        classes = self._lot(labels, generator, ALONE)  # the same in every process
        if classes is not None:
            # How many are its own depends on the draw: here, and nowhere else, a GPU is waited for.
            classes = classes[(classes >= first) & (classes < first + count)] - first
            places, count = torch.searchsorted(classes, places), len(classes)
            weight = self._rows(weight, classes)
        return weight, places.clamp(0, max(count - 1, 0)), held

    def _lot(self, labels: Tensor, generator: torch.Generator | None, share: Share) -> Tensor | None:
        """The classes (c,) that this call compares with, in order, drawn alike in all processes; None where they are all."""
        size = max(math.ceil(self.sample_share * self.num_classes), len(labels) * share.ranks)
        if size >= self.num_classes or not self.training:
            return None
        # The largest of random numbers, of which the batch's own classes have larger ones: nothing waits for a device.
        lot = torch.rand(self.num_classes, generator=generator, device=labels.device).index_fill(
            0, share.all(labels), 2.0
        )
        return lot.topk(size).indices.sort().values

    def _rows(self, weight: Tensor, classes: Tensor) -> Tensor:
        """The rows of ``classes``, each one's together."""
        together = weight.unflatten(0, (len(weight) // self.subcenters, self.subcenters)).flatten(1)
        return F.embedding(classes, together).unflatten(1, (self.subcenters, -1)).flatten(0, 1)

    def extra_repr(self) -> str:
        share = "" if self.sample_share == 1 else f", sample_share={self.sample_share}"
        return f"num_classes={self.num_classes}, scale={self.scale}, subcenters={self.subcenters}{share}"
