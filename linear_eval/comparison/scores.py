"""The scores in a run's files, of whatever protocol, in one form that can be laid side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linear_eval.comparison.runs import RunRecord
from linear_eval.reports.notes import COMMONEST
from linear_eval.results import (
    ClosedResult,
    FinetunedClasses,
    FinetunedNumbers,
    FinetunedResult,
    OpenSetResult,
)
from linear_eval.results_numbers import NumbersResult
from linear_eval.results_one_shot import OneShotScores

__all__ = ["Score", "ScoredSet", "scored_sets"]


@dataclass(frozen=True)
class Score:
    """A figure and how sure it is; shares are in percent."""

    value: float

    interval: tuple[float, float] | None = None
    """Lower and upper end of its 95 % interval."""

    deviation: float | None = None
    """Standard deviation over draws of labels."""

    digits: int = 1
    """Digits behind the point."""

    def __str__(self) -> str:
        """
        >>> str(Score(98.61, (97.2, 99.7))), str(Score(94.8, deviation=0.93)), str(Score(0.12345, digits=3))
        ('98.6 [97.2, 99.7]', '94.8 ± 0.9', '0.123')
        """
        words = f"{self.value:.{self.digits}f}"
        if self.interval is not None:
            return f"{words} [{self.interval[0]:.{self.digits}f}, {self.interval[1]:.{self.digits}f}]"
        return words if self.deviation is None else f"{words} ± {self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class ScoredSet:
    """The scores of a run on one set of test images."""

    title: str
    """Which images by which protocol; scores under the same title can be compared."""

    rows: dict[str, dict[str, Score]]
    """What was scored (the encoder, the encoder untrained, raw pixels, ...) -> measure -> score."""


def scored_sets(run: RunRecord) -> list[ScoredSet]:
    """Every evaluation that ``run`` has on the disk, closed set first."""
    return [_SETS[type(result)](result) for result in (*run.results, *run.open_sets)]


def _share(value: float, interval: tuple[float, float] | None = None, deviation: float | None = None) -> Score:
    ends = None if interval is None else (100 * interval[0], 100 * interval[1])
    return Score(100 * value, ends, None if deviation is None else 100 * deviation)


def _closed(result: ClosedResult) -> ScoredSet:
    rows = {}
    for name, row in result.rows.items():
        rows[name] = {
            "linear": _share(row.linear.accuracy, row.linear.interval),
            **_balanced(row.linear.balanced_accuracy, row.linear.balanced_interval),
            f"kNN ({result.config.knn_k})": _share(row.knn.accuracy, row.knn.interval),
            **{setting: _share(few.mean, deviation=few.std) for setting, few in (row.few_labels or {}).items()},
        }
    if result.commonest is not None:
        rows[COMMONEST] = {
            "linear": _share(result.commonest.accuracy, result.commonest.interval),
            **_balanced(result.commonest.balanced_accuracy, None),
        }
    test = result.data.test
    confusion = next(iter(result.rows.values())).linear.confusion if result.rows else ()
    of_classes = f" of {sum(1 for row in confusion if sum(row)):,} classes" if confusion else ""
    scored = test.images - test.without_label_left_out
    return ScoredSet(f"{test.name}, {scored:,} test images{of_classes}: accuracy in %", rows)


def _balanced(value: float | None, interval: tuple[float, float] | None) -> dict[str, Score]:
    return {} if value is None else {"balanced": _share(value, interval)}


def _finetuned(result: FinetunedResult) -> str:
    data = result.data
    return f"{data.name}, {data.train} labelled training images and {data.test} test images, fine-tuned"


def _numbers(result: FinetunedNumbers) -> ScoredSet:
    rows = {
        name: {"mean absolute error": Score(row.mean_absolute_error, row.interval, digits=3)}
        for name, row in result.rows.items()
    }
    return ScoredSet(_finetuned(result), rows)


def _probed(result: NumbersResult) -> ScoredSet:
    rows = {}
    for name, row in result.rows.items():
        rows[name] = {"mean absolute error": Score(row.mean_absolute_error, row.interval, digits=3)}
        if row.r_squared is not None:
            rows[name]["R²"] = Score(row.r_squared, row.r_squared_interval, digits=3)
    test = result.data.test
    return ScoredSet(f"{test.name}, {test.images - test.without_label_left_out:,} test images with a number", rows)


def _classes(result: FinetunedClasses) -> ScoredSet:
    rows = {}
    for name, row in result.rows.items():
        calibrated = row.calibration_error_calibrated
        rows[name] = {
            "accuracy": _share(row.accuracy, row.interval),
            "mean over classes": _share(row.balanced_accuracy),
            "calibration error": _share(row.calibration_error),
            **({} if calibrated is None else {"calibrated": _share(calibrated)}),
        }
    if result.commonest is not None:
        rows[COMMONEST] = {
            "accuracy": _share(result.commonest.accuracy, result.commonest.interval),
            "mean over classes": _share(result.commonest.balanced_accuracy),
        }
    return ScoredSet(f"{_finetuned(result)}: in %", rows)


def _open_set(result: OpenSetResult) -> ScoredSet:
    rows = {}
    for name, row in result.rows.items():
        found, identified = row.retrieval, row.identification
        shares: dict[str, tuple[float | None, tuple[float, float] | None]] = {
            "Recall@1": (found.recall_at_k.get("1"), found.intervals.get("recall_at_1")),
            "MAP@R": (found.map_at_r, found.intervals.get("map_at_r")),
            "pairs: AUC": (row.verification.auc, None),
            "pairs: EER (lower is better)": (row.verification.eer, None),
            "rank-1 (1:N)": (identified.rank_k.get("1"), identified.interval),
        }
        rows[name] = {measure: _share(value, ends) for measure, (value, ends) in shares.items() if value is not None}
    test = result.data.test
    title = f"{result.data.name}, {test.images} images of {len(test.classes)} classes, open set: in %"
    return ScoredSet(title, rows)


def _one_shot(result: OneShotScores) -> ScoredSet:
    rows = {
        name: {
            measure: _share(shots.accuracy, shots.interval)
            for measure, shots in row.items()
            if shots.accuracy is not None
        }
        for name, row in result.rows.items()
    }
    title = []
    if result.data is not None:
        test = result.data.test
        title.append(f"{result.data.name}, {test.images} images of {len(test.classes)} classes")
    if result.runs is not None:
        title.append(f"{result.runs.name}, {result.runs.trials} given trials")
    return ScoredSet(f"{'; '.join(title)}, one-shot: in %", rows)


_SETS: dict[type, Callable[[Any], ScoredSet]] = {
    ClosedResult: _closed,
    FinetunedClasses: _classes,
    FinetunedNumbers: _numbers,
    NumbersResult: _probed,
    OpenSetResult: _open_set,
    OneShotScores: _one_shot,
}
