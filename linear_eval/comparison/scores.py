"""The scores in ``result.json`` and ``open-set.json``, of whatever protocol, in one form that can be laid side by side."""

from dataclasses import dataclass
from typing import Any

from linear_eval.comparison.runs import RunRecord
from simclr.errors import CheckpointError

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
        said = f"{self.value:.{self.digits}f}"
        if self.interval is not None:
            return f"{said} [{self.interval[0]:.{self.digits}f}, {self.interval[1]:.{self.digits}f}]"
        return said if self.deviation is None else f"{said} ± {self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class ScoredSet:
    """The scores of a run on one set of test images."""

    title: str
    """Which images by which protocol; scores under the same title can be compared."""

    rows: dict[str, dict[str, Score]]
    """What was scored (the encoder, the encoder untrained, raw pixels, ...) -> measure -> score."""


def scored_sets(run: RunRecord) -> list[ScoredSet]:
    """Every evaluation that ``run`` has on the disk, closed set first.

    Raises:
        CheckpointError: a file that has not the figures it should.
    """
    try:
        closed = [_finetuned(result) if "kind" in result else _closed(result) for result in run.results]
        return closed + [_open_set(result) for result in run.open_sets]
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"a result in {run.folder} is not as this version writes it ({type(error).__name__}: {error}); "
            f"score the run again with scripts/evaluate.py"
        ) from error


def _share(value: float, interval: Any = None, deviation: float | None = None) -> Score:
    ends = None if interval is None else (100 * interval[0], 100 * interval[1])
    return Score(100 * value, ends, None if deviation is None else 100 * deviation)


def _closed(result: dict[str, Any]) -> ScoredSet:
    test, neighbours = result["data"]["test"], result["config"]["knn_k"]
    rows = {}
    for name, row in result["rows"].items():
        rows[name] = {
            "linear": _share(row["linear"]["accuracy"], row["linear"]["interval"]),
            f"kNN ({neighbours})": _share(row["knn"]["accuracy"], row["knn"]["interval"]),
            **{f: _share(few["mean"], deviation=few["std"]) for f, few in row.get("few_labels", {}).items()},
        }
    return ScoredSet(f"{test['name']}, {test['images']} test images: accuracy in %", rows)


def _finetuned(result: dict[str, Any]) -> ScoredSet:
    data = result["data"]
    title = f"{data['name']}, {data['train']} labelled training images and {data['test']} test images, fine-tuned"
    if result["kind"] == "regression":
        rows = {
            name: {"mean absolute error": Score(row["mean_absolute_error"], tuple(row["interval"]), digits=3)}
            for name, row in result["rows"].items()
        }
        return ScoredSet(title, rows)
    rows = {
        name: {
            "accuracy": _share(row["accuracy"], row["interval"]),
            "mean over classes": _share(row["balanced_accuracy"]),
            "calibration error": _share(row["calibration_error"]),
            **(
                {"calibrated": _share(row["calibration_error_calibrated"])}
                if "calibration_error_calibrated" in row
                else {}
            ),
        }
        for name, row in result["rows"].items()
    }
    return ScoredSet(f"{title}: in %", rows)


def _open_set(result: dict[str, Any]) -> ScoredSet:
    test = result["data"]["test"]
    rows = {}
    for name, row in result["rows"].items():
        found: dict[str, tuple[float | None, Any]] = {
            "Recall@1": (row["retrieval"]["recall_at_k"].get("1"), _retrieval_interval(row, "recall_at_1")),
            "MAP@R": (row["retrieval"]["map_at_r"], _retrieval_interval(row, "map_at_r")),
            "pairs: AUC": (row["verification"]["auc"], None),
            "pairs: EER (lower is better)": (row["verification"]["eer"], None),
            "rank-1 (1:N)": (row["identification"]["rank_k"].get("1"), row["identification"]["interval"]),
        }
        rows[name] = {measure: _share(value, ends) for measure, (value, ends) in found.items() if value is not None}
    title = f"{result['data']['name']}, {test['images']} images of {len(test['classes'])} classes, open set: in %"
    return ScoredSet(title, rows)


def _retrieval_interval(row: dict[str, Any], name: str) -> Any:
    """Reports written before retrieval had intervals have none."""
    return row["retrieval"].get("intervals", {}).get(name)
