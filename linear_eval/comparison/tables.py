"""Runs side by side as tables, from what they wrote: ``python scripts/report.py RUN [RUN ...]``.

Nothing is measured here, and nothing is written into the runs. What a run does not have is "not measured".
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from linear_eval.comparison.page import Picture, Section, as_markdown
from linear_eval.comparison.pictures import draw_runs, draw_scores
from linear_eval.comparison.runs import RunRecord, SeedGroup, differing_keys, read_runs, seed_groups, training_cost
from linear_eval.comparison.scores import ScoredSet, scored_sets
from linear_eval.reports.notes import COMMONEST
from linear_eval.results import ClosedResult
from linear_eval.results_numbers import NumbersResult
from simclr.files import atomically
from simclr.names import numbered

__all__ = ["by_title", "compare_runs", "comparison_sections", "over_seeds", "write_markdown"]

NOT_MEASURED = "not measured"

_VALIDATION = {
    "validation_accuracy": ("validation accuracy, %", 100, ".1f"),
    "validation_error": ("validation error", 1, ".3f"),
    "validation_knn": ("validation kNN, %", 100, ".1f"),
}
"""Figure of the log -> heading, what it is multiplied by, and format."""


def compare_runs(folders: Sequence[Path]) -> str:
    """The comparison as Markdown.

    Raises:
        CheckpointError: a folder without a run, or a damaged file in one.
    """
    runs = read_runs(folders)
    return as_markdown(_title(runs), comparison_sections(runs))


def write_markdown(folders: Sequence[Path], out: Path) -> str:
    """Write the comparison to ``out``, and its pictures beside that; gives what ``compare_runs`` gives.

    Raises:
        CheckpointError: as ``compare_runs``, or a disk that refuses.
    """
    runs = read_runs(folders)
    sections, pictures = comparison_sections(runs), _pictures(runs)
    files = [out.with_name(f"{out.stem}-{picture.name}.png") for picture in pictures]
    for file, picture in zip(files, pictures, strict=True):
        _write(file, picture.png)
    named = [(f"{p.caption} ({p.note})" if p.note else p.caption, f.name) for p, f in zip(pictures, files)]
    # a folder's name may not be UTF-8
    _write(out, as_markdown(_title(runs), sections, named).encode(errors="backslashreplace"))
    return as_markdown(_title(runs), sections)


def _write(path: Path, content: bytes) -> None:
    atomically(path, lambda file: file.write(content))


def comparison_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """The tables: scores, means over seeds, what differs in the configs, and what the runs cost."""
    scored = by_title(runs)
    sections = []
    for title, entries in scored.items():
        sections.append(_scores(title, runs, entries))
        sections += _of_groups(title, entries, runs)
    if not scored:
        sections.append(
            Section("Scores", ("run",), [(run.name,) for run in runs], f"{NOT_MEASURED}: no run has been scored")
        )
    return [*sections, _training(runs), _differences(runs)]


def over_seeds(runs: Sequence[RunRecord]) -> list[Section]:
    """Mean and standard deviation over the runs that differ in their seed alone, a table a set of images and group."""
    return [section for title, entries in by_title(runs).items() for section in _of_groups(title, entries, runs)]


def _of_groups(title: str, entries: Sequence[tuple[RunRecord, ScoredSet]], runs: Sequence[RunRecord]) -> list[Section]:
    found = []
    for group in seed_groups(runs):
        chosen = [one for run, one in entries if run in group.runs]
        if len(group.runs) > 1 and len(chosen) > 1:
            found.append(_over_seeds(title, group, chosen, len(group.runs)))
    return found


def _title(runs: Sequence[RunRecord]) -> str:
    return f"{len(runs)} runs" if len(runs) > 1 else runs[0].name


def by_title(runs: Sequence[RunRecord]) -> dict[str, list[tuple[RunRecord, ScoredSet]]]:
    """The scores of all runs, those that can be compared under one title."""
    found: dict[str, list[tuple[RunRecord, ScoredSet]]] = {}
    for run in runs:
        for one in scored_sets(run):
            found.setdefault(one.title, []).append((run, one))
    return found


def _scores(title: str, runs: Sequence[RunRecord], entries: Sequence[tuple[RunRecord, ScoredSet]]) -> Section:
    measures = list(dict.fromkeys(measure for _, one in entries for row in one.rows.values() for measure in row))
    rows = [
        (
            run.name,
            name,
            *(
                str(scores[measure]) if measure in scores else "-" if name == COMMONEST else NOT_MEASURED
                for measure in measures
            ),
        )
        for run, one in entries
        for name, scores in one.rows.items()
    ]
    missing = [run.name for run in runs if run not in [scored for scored, _ in entries]]
    note = "[95 % interval over test images or classes], ± standard deviation over draws of labels"
    note += f"; {NOT_MEASURED}: {', '.join(missing)}" if missing else ""
    return Section(title, ("run", "row", *measures), rows, note)


def _over_seeds(title: str, group: SeedGroup, chosen: Sequence[ScoredSet], all_runs: int) -> Section:
    """Mean and standard deviation of each measure over the runs of a group."""
    measures = list(dict.fromkeys(measure for one in chosen for row in one.rows.values() for measure in row))
    rows = []
    for name in dict.fromkeys(row for one in chosen for row in one.rows):
        cells = []
        for measure in measures:
            scores = [one.rows[name][measure] for one in chosen if measure in one.rows.get(name, {})]
            values = [score.value for score in scores]
            if len(values) < 2:
                cells.append("-" if name == COMMONEST else NOT_MEASURED)
                continue
            digits = scores[0].digits
            fewer = "" if len(values) == len(chosen) else f" (n = {len(values)})"
            cells.append(f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}{fewer}")
        rows.append((name, *cells))
    seeds = ", ".join(map(str, group.seeds))
    unscored = "" if len(chosen) == all_runs else f"; {all_runs - len(chosen)} of {all_runs} runs not scored"
    return Section(
        f"{group.name}, over seeds: {title}",
        ("row", *measures),
        rows,
        f"mean ± standard deviation (n - 1) over n = {len(chosen)} runs, seeds {seeds}{unscored}",
    )


def _training(runs: Sequence[RunRecord]) -> Section:
    last = [_last_figures(run) for run in runs]
    # Fine-tuning scores validation images in place of online kNN; a column that no run fills is left out.
    validation = [key for key in _VALIDATION if any(key in figures for figures in last)]
    header = ("run", "finished", "steps", "epochs", "loss", "online kNN, %", *(_VALIDATION[key][0] for key in validation),
              "training, s", "images/s", "parameters", "evaluation, s", "evaluated on")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for run, figures in zip(runs, last, strict=True):
        cost = training_cost(run)
        closed = [result for result in run.results if isinstance(result, ClosedResult)]
        parameters = [result.encoder.parameters for result in closed if result.encoder is not None][:1]
        first = run.results[0] if run.results else None
        hardware = None if first is None else first.hardware
        rows.append(
            (
                run.name,
                "yes" if run.finished else "no",
                _or_not_measured(figures.get("step"), "d"),
                _or_not_measured(figures.get("epoch"), "d"),
                _or_not_measured(figures.get("epoch_loss", figures.get("loss")), ".3f"),
                _or_not_measured(None if "online_knn" not in figures else 100 * figures["online_knn"], ".1f"),
                *(_validation(figures.get(key), key) for key in validation),
                _or_not_measured(None if cost is None else cost[0], ".0f"),
                _or_not_measured(None if cost is None else cost[1], ".0f"),
                _or_not_measured(parameters[0] if parameters else None, ",d"),
                _or_not_measured(first.seconds if isinstance(first, ClosedResult | NumbersResult) else None, ".0f"),
                NOT_MEASURED if hardware is None else f"{hardware.device}, {hardware.threads} threads",
            )
        )
    note = "last loss and online kNN (images of the training set); seconds inside the loop, from its log"
    note += "; validation: images kept out of the training set" if validation else ""
    return Section("Training", header, rows, note)


def _last_figures(run: RunRecord) -> dict[str, Any]:
    """The last value of everything that the run logged as a number."""
    last: dict[str, Any] = {}
    for line in run.metrics:
        last |= {name: value for name, value in line.items() if isinstance(value, int | float)}
    return last


def _validation(value: Any, key: str) -> str:
    _, scale, form = _VALIDATION[key]
    return _or_not_measured(None if value is None else scale * value, form)


def _or_not_measured(value: Any, form: str) -> str:
    return NOT_MEASURED if value is None else format(value, form)


def _differences(runs: Sequence[RunRecord]) -> Section:
    known = [run for run in runs if run.config]
    keys = differing_keys(runs)
    unknown = [run.name for run in runs if not run.config]
    rows = [(key, *(_value(run.config, key) for run in known)) for key in keys]
    note = "only what differs; -: the run's config has no such field" if rows else "the configs are equal"
    if unknown:
        note += f"; no config.yaml: {', '.join(unknown)}"
    return Section("Config", ("field", *(run.name for run in known)), rows, note)


def _value(config: dict[str, Any], key: str) -> str:
    return "-" if key not in config else "none" if config[key] is None else str(config[key])


def _pictures(runs: Sequence[RunRecord]) -> list[Picture]:
    pictures = [
        Picture(f"scores-{number}", title, draw_scores(title, entries), _numbers(run.name for run, _ in entries))
        for number, (title, entries) in enumerate(by_title(runs).items(), start=1)
    ]
    groups = seed_groups(runs)
    curves = draw_runs(groups)
    if curves is not None:
        pictures.append(Picture("curves", "curves", curves, _numbers(group.name for group in groups)))
    return pictures


def _numbers(names: Iterable[str]) -> str:
    """Which runs a picture draws as numbers, if any."""
    return numbered(list(names), "run") or ""
