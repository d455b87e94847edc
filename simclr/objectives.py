"""The list of objectives: views and labels -> loss and named statistics.

A new loss is one file in ``simclr/losses/`` and one line in ``OBJECTIVES``; ``docs/add_an_objective.md`` shows it.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from simclr.errors import ConfigError
from simclr.losses.nt_xent import NTXentLoss

__all__ = ["NTXentConfig", "Objective", "ObjectiveConfig", "build_objective"]


@dataclass(frozen=True, kw_only=True)
class NTXentConfig:
    """SimCLR's loss (Chen et al. 2020, eq. 1)."""

    name: ClassVar[str] = "nt-xent"
    views: ClassVar[int] = 2
    needs_labels: ClassVar[bool] = False

    temperature: float = 0.5
    """Temperature tau that divides the cosine similarities."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"objective.temperature is {self.temperature}; it must be positive")


ObjectiveConfig = NTXentConfig


class Objective(nn.Module):
    """What the loop calls: ``(z (V, B, D), labels (B,), indices (B,)) -> scalar``; `statistics` is filled as it runs."""

    statistics: dict[str, Tensor]

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.statistics = {}

    def forward(self, z: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        return self.loss(z)


def build_objective(config: ObjectiveConfig) -> Objective:
    """The module of an objective's config."""
    return Objective(NTXentLoss(config.temperature))
