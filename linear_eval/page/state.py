"""Where a run stands, by what it left in its folder: running, stopped, finished, scored."""

import time
from dataclasses import dataclass
from pathlib import Path

from linear_eval.comparison.runs import RUN_FILES, RunRecord
from simclr.progress import clock
from simclr.run.lock import holder

__all__ = ["RunState", "run_folders", "state_of"]

_FRESH = 90.0
"""Seconds since the last line of a log within which a run is taken to go on where the system does not list locks."""


@dataclass(frozen=True)
class RunState:
    """A word for a table, and a line for a page."""

    word: str
    line: str


def state_of(run: RunRecord) -> RunState:
    """Where ``run`` stands."""
    last = run.metrics[-1] if run.metrics else {}
    of = run.config.get("train.epochs")
    at = f"epoch {last['epoch']} of {of}, step {last['step']:,}" if last.get("epoch") else "no step logged yet"
    if run.finished:
        scored = bool(run.results or run.open_sets)
        return RunState("scored" if scored else "trained", f"Finished{', scored' if scored else ', not scored'}: {at}.")
    if _runs_now(run.folder):
        left = [line["seconds_left"] for line in run.metrics if isinstance(line.get("seconds_left"), int | float)]
        more = f", about {clock(left[-1])} left" if left else ""
        return RunState("running", f"Running: {at}{more}.")
    if last.get("kind") == "failed":
        return RunState("failed", f"Ended at step {last['step']:,}: {last.get('what', 'not finite')}.")
    if not run.metrics and (run.results or run.open_sets):
        return RunState("scored", "A score of weights that were trained elsewhere.")
    return RunState("stopped", f"Stopped: {at}. The same command goes on.")


def _runs_now(folder: Path) -> bool:
    found = holder(folder)
    if found is not None:
        return found > 0
    log = folder / "metrics.jsonl"
    return log.exists() and time.time() - log.stat().st_mtime < _FRESH


def run_folders(folder: Path) -> list[Path]:
    """The runs right below ``folder``, by name; none where it is a run itself."""
    if any((folder / mark).exists() for mark in RUN_FILES):
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and any((path / mark).exists() for mark in RUN_FILES)
    )
