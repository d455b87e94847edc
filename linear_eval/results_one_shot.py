"""What ``one-shot.json`` holds, as far as a comparison shows it, by the names of its keys."""

from dataclasses import dataclass

from linear_eval.results import Interval, OpenSetData
from linear_eval.written import Written

__all__ = ["GivenRuns", "OneShotScores", "Shots"]


@dataclass(frozen=True, kw_only=True)
class Shots(Written):
    """A share of queries that were named rightly."""

    accuracy: float | None
    """None where there were too few classes or images."""

    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class GivenRuns(Written):
    """Trials that were drawn already."""

    name: str
    trials: int


@dataclass(frozen=True, kw_only=True)
class OneShotScores(Written):
    """``one-shot.json``; ``evaluate_one_shot`` says what else there is."""

    rows: dict[str, dict[str, Shots]]
    data: OpenSetData | None
    runs: GivenRuns | None

    @property
    def name(self) -> str:
        """What the images are called, or the trials where there are none beside them."""
        return self.data.name if self.data is not None else "" if self.runs is None else self.runs.name
