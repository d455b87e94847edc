"""Bins for a numeric target, and how many of them: the units between a target and `distribution_focal_loss`."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from simclr.errors import ConfigError, DataError
from simclr.losses.label_loss import require

__all__ = ["TargetBins", "choose_bins"]


@dataclass(frozen=True, kw_only=True)
class TargetBins:
    """``count`` bins at equal steps from ``low`` to ``high``, both ends a bin.

    >>> bins = TargetBins(low=0.0, high=100.0, count=11)
    >>> bins.to_bins(torch.tensor([0.0, 25.0, 100.0, 130.0]))
    tensor([ 0.0000,  2.5000, 10.0000, 10.0000])
    >>> bins.to_values(torch.tensor([2.5]))
    tensor([25.])
    """

    low: float
    """Target at the first bin."""
    high: float
    """Target at the last bin."""
    count: int
    """Number of bins, at least 2."""

    def __post_init__(self) -> None:
        require(self.count >= 2, "count", self.count, "at least 2")
        if not self.low < self.high:
            raise ConfigError(f"bins run from low {self.low} to high {self.high}; low must be below high")

    @property
    def step(self) -> float:
        """Width of a bin in the target's units."""
        return (self.high - self.low) / (self.count - 1)

    def to_bins(self, values: Annotated[Tensor, "float ..."]) -> Annotated[Tensor, "float ..."]:
        """Targets (any shape) in units of bins, in [0, count - 1]; beyond the ends they count as the ends."""
        return ((values - self.low) / self.step).clamp(0, self.count - 1)

    def to_values(self, bins: Annotated[Tensor, "float ..."]) -> Annotated[Tensor, "float ..."]:
        """Predictions in units of bins, in the target's units."""
        return self.low + self.step * bins


def choose_bins(
    targets: Annotated[Tensor, "N"], *, coverage: float = 1.0, at_least: int = 8, at_most: int = 64
) -> TargetBins:
    """Bins for ``targets`` (N,) by the Freedman-Diaconis rule on their histogram: width 2 IQR / N^(1/3).

    ``coverage``: share of the targets, in the middle, between the first and last bin; below 1, outliers count as the
    ends. The number of bins is kept in [``at_least``, ``at_most``].

        >>> choose_bins(torch.linspace(0, 10, 1000))
        TargetBins(low=0.0, high=10.0, count=11)

    Raises `DataError` for fewer than two targets, targets that are not finite, or all equal.
    """
    require(0 < coverage <= 1, "coverage", coverage, "in (0, 1]")
    require(2 <= at_least <= at_most, "at_least", at_least, f"at least 2 and at most at_most = {at_most}")
    values = targets.detach().flatten().double().cpu()
    if len(values) < 2 or not bool(torch.isfinite(values).all()):
        raise DataError(
            f"choosing bins needs two or more finite targets, got {len(values)} with NaN or infinity among them"
        )
    ordered = values.sort().values
    outside = (1 - coverage) / 2
    low, first, third, high = (_quantile(ordered, q) for q in (outside, 0.25, 0.75, 1 - outside))
    if not low < high:
        raise DataError(f"the targets are all {low}; there is nothing to regress")
    width = 2 * (third - first) / len(values) ** (1 / 3)
    count = at_most if width <= 0 else min(at_most, round((high - low) / width) + 1)
    return TargetBins(low=low, high=high, count=max(at_least, count))


def _quantile(ordered: Tensor, q: float) -> float:
    """Linear interpolation; torch.quantile refuses more than 16 million values."""
    place = q * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2)
    return float(torch.lerp(ordered[below], ordered[below + 1], place - below))
