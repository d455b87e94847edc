"""The list of objectives: an embedded batch -> loss and named statistics.

A new loss, on views or on labels, is one file in ``simclr/losses/`` and one line in ``OBJECTIVES``;
``docs/add_an_objective.md`` shows both. Nothing here or further up knows one loss from another.
"""

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import torch
from torch import Tensor, nn

from augment.marks import OneOf
from simclr.errors import ConfigError
from simclr.losses import (
    ArcFaceConfig,
    CenterConfig,
    CircleConfig,
    ContrastiveConfig,
    CosFaceConfig,
    CrossEntropyConfig,
    DistributionFocalConfig,
    EmbeddedBatch,
    GivenLoss,
    GivenLossConfig,
    LeJEPAConfig,
    Loss,
    LossConfig,
    MarginConfig,
    MoCoConfig,
    MultiSimilarityConfig,
    NPairConfig,
    NTXentConfig,
    ProxyAnchorConfig,
    QuadrupletConfig,
    QualityFocalConfig,
    SiameseConfig,
    SupConConfig,
    TripletConfig,
)

__all__ = [
    "OBJECTIVES",
    "GivenLoss",
    "MoCoConfig",
    "NTXentConfig",
    "Objective",
    "ObjectiveConfig",
    "SupConConfig",
    "TripletConfig",
    "build_objective",
    "fit_objective",
    "register_objective",
]


OBJECTIVES: list[type[LossConfig]] = [
    NTXentConfig,
    MoCoConfig,
    LeJEPAConfig,
    SupConConfig,
    ContrastiveConfig,
    TripletConfig,
    NPairConfig,
    QuadrupletConfig,
    MarginConfig,
    MultiSimilarityConfig,
    CircleConfig,
    SiameseConfig,
    CenterConfig,
    ArcFaceConfig,
    CosFaceConfig,
    ProxyAnchorConfig,
    CrossEntropyConfig,
    QualityFocalConfig,
    DistributionFocalConfig,
]
"""Every objective by its config, whose ``name`` is what the command line calls it: ``objective:NAME``."""

Config = TypeVar("Config", bound=type[LossConfig])


def register_objective(config: Config) -> Config:
    """Add an objective of your own to `OBJECTIVES`, as a decorator of its config: ``objective:NAME`` and YAML then know it.

    Raises:
        ConfigError: it is no dataclass of the kind `LossConfig` with a ``name``, or another objective has that name.
    """
    name = getattr(config, "name", None)
    if not (isinstance(config, type) and issubclass(config, LossConfig) and is_dataclass(config) and name):
        raise ConfigError(
            f"register_objective is given {config!r}; expected a frozen dataclass, a subclass of LossConfig or "
            "LabelLossConfig, with a name: ClassVar[str]"
        )
    for number, one in enumerate(OBJECTIVES):
        if one.name == name and (one.__module__, one.__qualname__) == (config.__module__, config.__qualname__):
            OBJECTIVES[number] = config  # a cell of a notebook run again
            return config
    if name in [one.name for one in OBJECTIVES]:
        raise ConfigError(f"there is an objective called {name} already; give yours another name")
    OBJECTIVES.append(config)
    return config


if TYPE_CHECKING:
    ObjectiveConfig = LossConfig
else:
    # A union made from the list when it is asked for: the command line and YAML pick a member by its `name`.
    ObjectiveConfig = Annotated[LossConfig, OneOf(lambda: OBJECTIVES, unoffered=(GivenLossConfig,))]


class Objective(nn.Module):
    """What the loop calls: ``(EmbeddedBatch) -> scalar``. ``statistics`` holds 0-dim tensors of the latest call.

    On several processes each gives its own part of the batch, and gets the loss of all of it, see `Loss.on_ranks`.
    """

    narrow: bool = False
    """Whether embeddings travel between processes as bfloat16."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Named figures of the latest call, on the device."""
        return self.loss.statistics

    def forward(self, batch: EmbeddedBatch) -> Tensor:
        return self.loss.on_ranks(batch, self.narrow)

    def scores(self, z: Tensor) -> Tensor | None:
        """Class logits (N, C) of embeddings ``z`` (N, D), or None where the loss has no classifier of its own."""
        return self.loss.scores(z)

    def figures(self) -> dict[str, float]:
        """``statistics`` as numbers. Waits for the device."""
        return {name: value.item() for name, value in self.statistics.items()}

    @property
    def sigmoids(self) -> bool:
        """Whether every class logit is a sigmoid of its own; else they are a softmax together."""
        return self.loss.sigmoids

    def numbers(self, z: Tensor) -> Tensor | None:
        """Predicted numbers (N,) of embeddings ``z`` (N, D), or None where the loss predicts none."""
        return self.loss.predict(z)

    def warning(self, loss: float, figures: dict[str, float]) -> dict[str, str]:
        """Plain words for a collapse that an epoch's mean ``loss`` and ``figures`` show, by its kind."""
        said = self.loss.warning(loss, figures)
        return {"objective": said} if said else {}


def fit_objective(config: ObjectiveConfig, targets: Tensor | None, classes: int) -> ObjectiveConfig:
    """``config`` with what it leaves to the training images' labels, of ``classes``, or numbers (N,) filled in."""
    return config if targets is None else config.fitted(targets, classes)


def build_objective(config: ObjectiveConfig, *, classes: int, dim: int, samples: int, seed: int) -> Objective:
    """The module of an objective's config; its own weights are a pure function of the arguments.

    Args:
        config: which objective, and its settings.
        classes: number of labels, 0 without labels.
        dim: width D of the embeddings.
        samples: number of training images.
        seed: seed of the objective's own weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Objective(config.build(classes, dim, samples))
