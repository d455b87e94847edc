"""All runs of a folder in one table: where each stands, and the best first among those that can be compared."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from linear_eval.comparison.page import Section
from linear_eval.comparison.runs import RunRecord, read_runs
from linear_eval.comparison.scores import scored_sets
from linear_eval.page.facts import trained_on_what
from linear_eval.page.options import FILE
from linear_eval.page.state import state_of
from linear_eval.page.template import filled
from simclr.errors import PipelineError

__all__ = ["Listed", "list_runs", "overview_page", "overview_sections"]

_UNSCORED, _DAMAGED = "Not scored", "Not to be read"
_HEADER = ("run", "state", "score", "beside it", "online kNN, %", "network", "training", "last written")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run in the table."""

    title: str
    """What it is scored on; runs under one title can be compared."""

    order: float
    cells: tuple[str, ...]
    folder: Path


def list_runs(folders: Sequence[Path]) -> list[Listed]:
    """The runs in ``folders``, those on one set of images together, the best first; what cannot be read says why."""
    found = []
    for folder in folders:
        try:
            (run,) = read_runs([folder])
            found.append(_listed(run))
        except PipelineError as error:
            cells = (folder.name, "damaged", str(error), *[""] * (len(_HEADER) - 3))
            found.append(Listed(title=_DAMAGED, order=0.0, cells=cells, folder=folder))
    last = [_UNSCORED, _DAMAGED]
    titles = sorted(
        {one.title for one in found}, key=lambda title: (last.index(title) + 1 if title in last else 0, title)
    )
    return sorted(found, key=lambda one: (titles.index(one.title), -one.order, one.cells[0]))


def _listed(run: RunRecord) -> Listed:
    sets = [one for one in scored_sets(run) if any(one.rows.values())]
    score, beside, order, title = "", "", -1.0, _UNSCORED
    if sets:
        title = sets[0].title
        name, *others = (name for name, row in sets[0].rows.items() if row)
        measure, first = next(iter(sets[0].rows[name].items()))
        score, order = f"{measure} {first}", first.value * (-1 if "error" in measure else 1)
        beside = ", ".join(
            f"{other} {sets[0].rows[other][measure].value:.{first.digits}f}"
            for other in others
            if measure in sets[0].rows[other]
        )
    knn = [line["online_knn"] for line in run.metrics if isinstance(line.get("online_knn"), int | float)]
    if order < 0 and knn and not sets:
        order = knn[-1]
    facts = dict(trained_on_what(run))
    return Listed(
        title=title,
        order=order,
        cells=(
            run.name,
            state_of(run).word,
            score or "–",
            beside or "–",
            f"{100 * knn[-1]:.1f}" if knn else "–",
            facts.get("network", "–"),
            facts.get("training", "–"),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(_written(run.folder))),
        ),
        folder=run.folder,
    )


def _written(folder: Path) -> float:
    """When a file of the run was last written; what is being written beside its place may be gone when it is asked about."""
    last = 0.0
    for path in folder.iterdir():
        with suppress(OSError):
            if path.is_file() and path.name != FILE:
                last = max(last, path.stat().st_mtime)
    return last


def overview_sections(listed: Sequence[Listed]) -> list[Section]:
    """A table a set of images, for a terminal: what is long is left to the page."""
    return [
        Section(title, _HEADER[:5], [one.cells[:5] for one in several], _note(title))
        for title, several in _by_title(listed).items()
    ]


def overview_page(title: str, listed: Sequence[Listed], beside: Path, live: bool = False) -> bytes:
    """The same as a page that will stand in the folder ``beside``; each run leads to its own report, where it has one."""
    tables = [
        {
            "title": name,
            "note": _note(name),
            "runs": [{"cells": one.cells, "link": _link(one.folder, beside, live)} for one in several],
        }
        for name, several in _by_title(listed).items()
    ]
    state = f"{len(listed)} runs, {time.strftime('%Y-%m-%d %H:%M')}"
    return filled("overview.html", title=title, state=state, tables=tables, header=_HEADER, live=live)


def _by_title(listed: Sequence[Listed]) -> dict[str, list[Listed]]:
    return {
        title: [one for one in listed if one.title == title] for title in dict.fromkeys(one.title for one in listed)
    }


def _note(title: str) -> str:
    notes = {_UNSCORED: "by online kNN, where it was taken", _DAMAGED: "mend or remove them"}
    return notes.get(title, "best first; [95 % interval]")


def _link(folder: Path, beside: Path, live: bool) -> str | None:
    """Where the report of the run in ``folder`` is, seen from ``beside``; None where there is none."""
    if not live and not (folder / FILE).exists():
        return None
    way = os.path.relpath(folder, beside)
    return quote(f"{way}/" if live else f"{way}/{FILE}", errors="surrogateescape")
