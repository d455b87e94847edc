"""What ``result.json`` and ``open-set.json`` hold, by the names of their keys: written by a score, read by a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from linear_eval.classify.result import ProbeScore
from linear_eval.config import EvalConfig
from linear_eval.written import LEFT_OUT, Written

__all__ = [
    "Accuracy",
    "ClassRow",
    "ClosedData",
    "ClosedResult",
    "ClosedRow",
    "Commonest",
    "EncoderFacts",
    "FewLabels",
    "FinetunedClasses",
    "FinetunedData",
    "FinetunedNumbers",
    "FinetunedResult",
    "Gain",
    "Hardware",
    "Interval",
    "NumberRow",
    "OpenSetResult",
    "Part",
]

Interval = tuple[float, float]
"""Lower and upper end, 95 %."""


@dataclass(frozen=True, kw_only=True)
class Accuracy(Written):
    """A share of the test images that were recognised."""

    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Commonest(Written):
    """What naming the training set's commonest class for every test image would give."""

    label: int
    """Which class; of several the lowest."""

    accuracy: float
    interval: Interval
    balanced_accuracy: float
    """1 over the number of classes with test images, or 0 where this class has none."""


@dataclass(frozen=True, kw_only=True)
class FewLabels(Written):
    """Accuracy over draws of labelled images."""

    mean: float
    std: float
    accuracies: tuple[float, ...] = ()
    images: int = 0


@dataclass(frozen=True, kw_only=True)
class Gain(Written):
    """One row minus another: on the same test images (interval), or on the same draws of labels (std, draws won)."""

    difference: float
    interval: Interval | None = field(default=None, metadata=LEFT_OUT)
    a_only: int | None = field(default=None, metadata=LEFT_OUT)
    b_only: int | None = field(default=None, metadata=LEFT_OUT)
    std: float | None = field(default=None, metadata=LEFT_OUT)
    draws_won: int | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class ClosedRow(Written):
    """The scores of one encoder on classes that were trained on."""

    features: int = 0
    linear: ProbeScore
    knn: Accuracy

    few_labels: dict[str, FewLabels] | None = field(default=None, metadata=LEFT_OUT)
    """By setting, such as "5 a class" and "10 %"."""

    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Part(Written):
    """A set of images."""

    name: str
    images: int
    without_label_left_out: int = 0

    near_copies: int | None = field(default=None, metadata=LEFT_OUT)
    """Of the labelled test images, those that have a near-copy in training; None where nobody looked."""


@dataclass(frozen=True, kw_only=True)
class ClosedData(Written):
    """What was scored on."""

    train: Part | None = None
    test: Part
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncoderFacts(Written):
    """What was scored."""

    sha256: str = ""
    features: int = 0
    parameters: int | None = field(default=None, metadata=LEFT_OUT)

    size: int | None = field(default=None, metadata=LEFT_OUT)
    """Pixels a side that its network was fed."""


@dataclass(frozen=True, kw_only=True)
class Hardware(Written):
    """Where it ran."""

    device: str
    processor: str = ""
    threads: int


@dataclass(frozen=True, kw_only=True)
class ClosedResult(Written):
    """``result.json`` of an evaluation."""

    rows: dict[str, ClosedRow]
    commonest: Commonest | None = field(default=None, metadata=LEFT_OUT)
    comparison: dict[str, dict[str, Gain]] = field(default_factory=dict)

    verdict: str | None = field(default=None, metadata=LEFT_OUT)
    """Whether pretraining helped, in words."""

    protocol: dict[str, str] = field(default_factory=dict)
    config: EvalConfig
    data: ClosedData
    encoder: EncoderFacts | None = None

    beside: dict[str, EncoderFacts] | None = field(default=None, metadata=LEFT_OUT)
    """The further encoders, by the name of their row."""

    versions: dict[str, str] = field(default_factory=dict)
    hardware: Hardware | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassRow(Written):
    """A classifier's scores after fine-tuning."""

    accuracy: float
    interval: Interval
    classes: tuple[int, ...] = ()
    per_class: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    unseen_classes: tuple[int, ...] = ()
    balanced_accuracy: float
    cross_entropy: float | None = None
    calibration_error: float
    temperature: float | None = field(default=None, metadata=LEFT_OUT)
    cross_entropy_calibrated: float | None = field(default=None, metadata=LEFT_OUT)
    calibration_error_calibrated: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class NumberRow(Written):
    """The errors of predicted numbers after fine-tuning."""

    mean_absolute_error: float
    interval: Interval

    r_squared: float | None = None
    """None where all test images have one number."""

    error_of_the_mean: float = 0.0
    """What the mean of the test images would give."""


@dataclass(frozen=True, kw_only=True)
class FinetunedData(Written):
    """How many images there were, and of which classes."""

    train: int
    validation: int | None = field(default=None, metadata=LEFT_OUT)
    test: int
    name: str
    classes: tuple[str, ...] = ()

    trained_on: int | None = None
    """Test images that pretraining saw, None where that cannot be told."""


@dataclass(frozen=True, kw_only=True)
class FinetunedResult(Written):
    """``result.json`` of a fine-tuned network, of either kind."""

    kind: str
    rows: Mapping[str, ClassRow | NumberRow]
    comparison: dict[str, Gain] = field(default_factory=dict)
    protocol: dict[str, str] = field(default_factory=dict)
    data: FinetunedData
    started_from: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: Hardware | None = None


@dataclass(frozen=True, kw_only=True)
class FinetunedClasses(FinetunedResult):
    """That of a classifier."""

    kind: Literal["classification"] = "classification"
    rows: dict[str, ClassRow]
    commonest: Commonest | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class FinetunedNumbers(FinetunedResult):
    """That of a regression."""

    kind: Literal["regression"] = "regression"
    rows: dict[str, NumberRow]


@dataclass(frozen=True, kw_only=True)
class RetrievalScores(Written):
    """Of the retrieval figures, what a comparison shows."""

    recall_at_k: dict[str, float]
    map_at_r: float

    intervals: dict[str, Interval | None] = field(default_factory=dict)
    """Reports written before retrieval had intervals have none."""


@dataclass(frozen=True, kw_only=True)
class PairScores(Written):
    """Of the verification figures, what a comparison shows."""

    auc: float
    eer: float


@dataclass(frozen=True, kw_only=True)
class RankScores(Written):
    """Of the identification figures, what a comparison shows."""

    rank_k: dict[str, float]
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class OpenSetRow(Written):
    """The scores of one encoder on new classes, as far as a comparison shows them."""

    retrieval: RetrievalScores
    verification: PairScores
    identification: RankScores


@dataclass(frozen=True, kw_only=True)
class OpenSetPart(Written):
    """The images of the test classes."""

    images: int
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OpenSetData(Written):
    """What was scored on."""

    name: str
    test: OpenSetPart


@dataclass(frozen=True, kw_only=True)
class OpenSetResult(Written):
    """``open-set.json``, as far as a comparison shows it; ``evaluate_open_set`` says what else there is."""

    rows: dict[str, OpenSetRow]
    data: OpenSetData
