"""The list of objectives: views and labels -> loss and named statistics.

A new loss on labels is one file in ``simclr/losses/`` and one line in ``OBJECTIVES``; ``docs/add_an_objective.md`` shows
it. One on views also needs its branches in ``Objective.forward`` and ``build_objective``, and a place in the union.
"""

from typing import TYPE_CHECKING, Annotated, Union

import torch
import tyro
from torch import Tensor, nn

from simclr.losses import (
    ArcFaceConfig,
    CenterConfig,
    ContrastiveConfig,
    CrossEntropyConfig,
    DistributionFocalConfig,
    DistributionFocalLoss,
    LabelLoss,
    LabelLossConfig,
    MarginConfig,
    MoCoConfig,
    MoCoLoss,
    NPairConfig,
    NTXentConfig,
    NTXentLoss,
    QuadrupletConfig,
    QualityFocalConfig,
    SiameseConfig,
    SupConConfig,
    SupConLoss,
    TripletConfig,
)

__all__ = [
    "OBJECTIVES",
    "NTXentConfig",
    "Objective",
    "ObjectiveConfig",
    "SupConConfig",
    "build_objective",
    "fit_objective",
]


OBJECTIVES: tuple[type, ...] = (
    NTXentConfig,
    MoCoConfig,
    SupConConfig,
    ContrastiveConfig,
    TripletConfig,
    NPairConfig,
    QuadrupletConfig,
    MarginConfig,
    SiameseConfig,
    CenterConfig,
    ArcFaceConfig,
    CrossEntropyConfig,
    QualityFocalConfig,
    DistributionFocalConfig,
)
"""Every objective by its config, whose ``name`` is what the command line calls it: ``objective:NAME``."""

if TYPE_CHECKING:
    ObjectiveConfig = NTXentConfig | MoCoConfig | SupConConfig | LabelLossConfig
else:
    # A union made from the list: tyro offers each member as a subcommand, YAML picks one by its key `name`.
    ObjectiveConfig = Union[tuple(Annotated[config, tyro.conf.subcommand(name=config.name)] for config in OBJECTIVES)]  # noqa: UP007


class Objective(nn.Module):
    """What the loop calls: ``(z (V, B, D), labels (B,), indices (B,), seed, keys) -> scalar``.

    Labels are int64 (B,); numbers (B,) or soft labels (B, C) for the losses that read them. All views of an image share
    its label and its number. Only momentum contrast reads ``keys`` (V, B, D). ``statistics`` holds 0-dim tensors of the
    latest call.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Named figures of the latest call, on the device."""
        return getattr(self.loss, "statistics", {})

    @property
    def wants_keys(self) -> bool:
        """Whether the loss compares with the embeddings that the average of the weights gives."""
        return isinstance(self.loss, MoCoLoss)

    def forward(self, z: Tensor, labels: Tensor, indices: Tensor, seed: int, keys: Tensor | None = None) -> Tensor:
        if isinstance(self.loss, MoCoLoss):
            assert keys is not None
            return self.loss(z, keys)
        if isinstance(self.loss, NTXentLoss):
            return self.loss(z)
        if isinstance(self.loss, SupConLoss):
            return self.loss(z, labels)
        views = len(z)
        # Every rank draws the same negatives: the generator is theirs in common, not the process's own.
        generator = torch.Generator(device=z.device).manual_seed(seed)
        labels = labels.repeat(views, *[1] * (labels.ndim - 1))
        return self.loss(z.flatten(0, 1), labels, indices.repeat(views), generator=generator)

    def scores(self, z: Tensor) -> Tensor | None:
        """Class logits (N, C) of embeddings ``z`` (N, D), or None where the loss has no classifier of its own."""
        return self.loss.scores(z) if isinstance(self.loss, LabelLoss) else None

    def figures(self) -> dict[str, float]:
        """``statistics`` as numbers. Waits for the device."""
        return {name: value.item() for name, value in self.statistics.items()}

    @property
    def sigmoids(self) -> bool:
        """Whether every class logit is a sigmoid of its own; else they are a softmax together."""
        return isinstance(self.loss, LabelLoss) and self.loss.sigmoids

    def numbers(self, z: Tensor) -> Tensor | None:
        """Predicted numbers (N,) of embeddings ``z`` (N, D), or None where the loss predicts none."""
        return self.loss.predict(z) if isinstance(self.loss, DistributionFocalLoss) else None

    def warning(self, loss: float, figures: dict[str, float]) -> dict[str, str]:
        """Plain words for a collapse that an epoch's mean ``loss`` and ``figures`` show, by its kind."""
        said = self.loss.warning(loss, figures) if isinstance(self.loss, LabelLoss) else None
        return {"objective": said} if said else {}


def fit_objective(config: ObjectiveConfig, targets: Tensor | None, classes: int) -> ObjectiveConfig:
    """``config`` with what it leaves to the training images' labels, of ``classes``, or numbers (N,) filled in."""
    return config.fitted(targets, classes) if isinstance(config, LabelLossConfig) and targets is not None else config


def build_objective(config: ObjectiveConfig, *, classes: int, dim: int, samples: int, seed: int) -> Objective:
    """The module of an objective's config; its own weights are a pure function of the arguments.

    Args:
        config: which objective, and its settings.
        classes: number of labels, 0 without labels.
        dim: width D of the embeddings.
        samples: number of training images.
        seed: seed of the objective's own weights.
    """
    if isinstance(config, NTXentConfig):
        return Objective(NTXentLoss(config.temperature, config.decoupled))
    if isinstance(config, MoCoConfig):
        return Objective(MoCoLoss(config.temperature))
    if isinstance(config, SupConConfig):
        return Objective(SupConLoss(config.temperature))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Objective(config.build(classes, dim, samples))
