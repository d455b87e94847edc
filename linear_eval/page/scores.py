"""Scores as tables that can be seen at a glance: a figure, its interval in words, and the same as a bar."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from linear_eval.answers import StoredAnswers, read_answers
from linear_eval.comparison.runs import RunRecord
from linear_eval.comparison.scores import Score, ScoredSet, scored_sets
from linear_eval.comparison.tables import by_title
from linear_eval.metrics import paired_difference
from linear_eval.reports.notes import COMMONEST
from linear_eval.results import ClosedResult, Gain

__all__ = ["Cell", "Pair", "ScoreRow", "ScoreTable", "pairs_of_rows", "pairs_of_runs", "score_tables"]

MOST_RUNS = 5
"""Of more runs each is compared with the best alone."""


@dataclass(frozen=True)
class Cell:
    """A score and where it stands between 0 and the end of its column, in percent."""

    words: str

    spread: str = ""
    """Its interval or deviation, in words."""

    at: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one encoder."""

    run: str
    name: str
    cells: tuple[Cell, ...]
    first: bool
    """Whether it is what was trained, and not what stands beside it."""


@dataclass(frozen=True)
class ScoreTable:
    """The scores of all runs on one set of images."""

    title: str
    measures: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class Pair:
    """A difference on the same test images."""

    what: str
    words: str
    sure: str


def score_tables(runs: Sequence[RunRecord]) -> list[ScoreTable]:
    """A table a set of images; the rows that several runs share stand once where their figures are the same."""
    tables = []
    for title, entries in by_title(runs).items():
        measures = tuple(dict.fromkeys(m for _, one in entries for row in one.rows.values() for m in row))
        ends = {measure: _end(measure, entries) for measure in measures}
        rows: list[ScoreRow] = []
        for first_only in (True, False):
            for run, one in entries:
                for number, (name, scores) in enumerate(one.rows.items()):
                    if first_only != (number == 0):
                        continue
                    cells = tuple(_cell(scores.get(m), ends[m], name == COMMONEST) for m in measures)
                    same = [
                        i for i, row in enumerate(rows) if not row.first and row.name == name and row.cells == cells
                    ]
                    if same:
                        rows[same[0]] = replace(rows[same[0]], run=f"{rows[same[0]].run}, {run.name}")
                    else:
                        rows.append(ScoreRow(run.name, name, cells, number == 0))
        whole = ", ".join(run.name for run, _ in entries)
        shared = (replace(row, run="all") if row.run == whole and len(entries) > 1 else row for row in rows)
        tables.append(ScoreTable(title, measures, tuple(shared)))
    return tables


def _end(measure: str, entries: Sequence[tuple[RunRecord, ScoredSet]]) -> float:
    scores = [row[measure] for _, one in entries for row in one.rows.values() if measure in row]
    highest = max((max(score.value, *(score.interval or (0.0,))) for score in scores), default=1.0)
    return 100.0 if all(score.digits == 1 for score in scores) and highest <= 100 else highest or 1.0


def _cell(score: Score | None, end: float, commonest: bool) -> Cell:
    if score is None:
        return Cell("–" if commonest else "not measured")
    words, _, spread = str(score).partition(" ")

    def share(value: float) -> float:
        return min(100.0, max(0.0, 100 * value / end))

    ends = score.interval
    if ends is None and score.deviation is not None:
        ends = (score.value - score.deviation, score.value + score.deviation)
    low, high = (None, None) if ends is None else (share(ends[0]), share(ends[1]))
    return Cell(words, spread, share(score.value), low, high)


def pairs_of_rows(run: RunRecord) -> list[Pair]:
    """The encoder of a run minus each other row, by its linear probe, on the same test images."""
    found = []
    for result in run.results:
        if isinstance(result, ClosedResult):
            for pair, gains in result.comparison.items():
                if (gain := gains.get("linear")) is not None and gain.interval is not None:
                    found.append(_pair(f"{pair.replace(' - ', ' − ')}: linear", gain))
    return found


def pairs_of_runs(runs: Sequence[RunRecord]) -> list[Pair]:
    """Every run's classifier minus another's on the test images that both were scored on, image by image."""
    found = []
    for same in _scored_alike(runs):
        found += _pairs_of(same)
    return found


def _scored_alike(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """The runs in groups of one test set: images without files have numbers alone, which name others in another division."""
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for run in runs:
        if sets := scored_sets(run):
            division = (run.config.get("data.split_seed"), run.config.get("data.test_fraction"))
            groups.setdefault((sets[0].title, *division), []).append(run)
    return list(groups.values())


def _pairs_of(runs: Sequence[RunRecord]) -> list[Pair]:
    answers = {run.name: stored for run in runs if (stored := read_answers(run.folder)) is not None}
    names = list(answers)
    if len(names) > MOST_RUNS:
        best = max(names, key=lambda name: sum(map(_right, _rows(answers[name]).values())) / len(answers[name].images))
        couples = [(best, name) for name in names if name != best]
    else:
        couples = list(combinations(names, 2))
    found = []
    for a, b in couples:
        mine, theirs = _rows(answers[a]), _rows(answers[b])
        shared = [key for key in mine if key in theirs]
        if not shared:
            continue
        gain = Gain(**paired_difference([_right(mine[key]) for key in shared], [_right(theirs[key]) for key in shared]))
        found.append(_pair(f"{a} − {b}, {len(shared):,} test images of both", gain))
    return found


def _rows(stored: StoredAnswers) -> dict[tuple[str, str], tuple[str, str]]:
    """(image, class) -> class and answer of the first classifier."""
    return {
        (image, truth): (truth, said)
        for image, truth, said in zip(stored.images, stored.truth, stored.first, strict=True)
    }


def _right(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _pair(what: str, gain: Gain) -> Pair:
    assert gain.interval is not None
    low, high = (100 * end for end in gain.interval)
    sure = "no difference that these images could show" if low <= 0 <= high else "a difference beyond chance"
    only = (
        ""
        if gain.a_only is None
        else f"; {gain.a_only:,} images only the first had right, {gain.b_only:,} only the second"
    )
    return Pair(what, f"{100 * gain.difference:+.1f} points, 95 % [{low:+.1f}, {high:+.1f}]", sure + only)
