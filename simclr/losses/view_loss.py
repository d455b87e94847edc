"""What the losses on views (V, B, D) share: what the loop must know of their configs, and a temperature."""

import math
from dataclasses import dataclass
from typing import ClassVar

from simclr.errors import require

__all__ = ["ViewLossConfig", "check_temperature"]


def check_temperature(temperature: float, field: str = "temperature") -> None:
    """Raise `ConfigError`, which is a ValueError, unless ``temperature`` can divide similarities."""
    require(0 < temperature < math.inf, field, temperature, "a number above 0, such as 0.5")


@dataclass(frozen=True, kw_only=True)
class ViewLossConfig:
    """Base of the configs; the loop reads the first six of any objective."""

    name: ClassVar[str]
    views: ClassVar[int] = 2
    needs_labels: ClassVar[bool] = False
    soft_labels: ClassVar[bool] = False
    reads_numbers: ClassVar[bool] = False
    lr_multiplier: ClassVar[float] = 1.0

    temperature: float = 0.5
    """Temperature tau that divides the cosine similarities."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature, "objective.temperature")
