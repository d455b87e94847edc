"""What ``result.json`` holds of a score on images with a number each, by the names of its keys."""

from dataclasses import dataclass, field
from typing import Literal

from linear_eval.results import EncoderFacts, Gain, Hardware, Interval, Part
from linear_eval.written import LEFT_OUT, Written

__all__ = ["NumberProbeRow", "NumbersResult", "PredictedData"]


@dataclass(frozen=True, kw_only=True)
class NumberProbeRow(Written):
    """The errors of one encoder's regression probe."""

    mean_absolute_error: float
    interval: Interval
    root_mean_squared_error: float

    r_squared: float | None = None
    """None where all test images have one number."""

    r_squared_interval: Interval | None = None

    alpha: float | None = field(default=None, metadata=LEFT_OUT)
    """The strength that was chosen; None for the mean."""

    features: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PredictedData(Written):
    """What a regression probe was scored on."""

    train: Part
    test: Part


@dataclass(frozen=True, kw_only=True)
class NumbersResult(Written):
    """``result.json`` of an evaluation on images with a number each."""

    kind: Literal["numbers"] = "numbers"
    rows: dict[str, NumberProbeRow]
    comparison: dict[str, Gain] = field(default_factory=dict)
    """By how much the encoder's absolute error is lower than another row's, paired over test images."""

    verdict: str = ""
    protocol: dict[str, str] = field(default_factory=dict)
    data: PredictedData
    encoder: EncoderFacts | None = None

    beside: dict[str, EncoderFacts] | None = field(default=None, metadata=LEFT_OUT)
    """The further encoders, by the name of their row."""

    versions: dict[str, str] = field(default_factory=dict)
    hardware: Hardware | None = None
    seconds: float | None = None
