"""What the configs of losses on views (V, B, D) share: what the loop must know of them, and a temperature."""

from dataclasses import dataclass
from typing import ClassVar

from simclr.errors import ConfigError

__all__ = ["ViewLossConfig"]


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
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature is {self.temperature}; it must be positive")
