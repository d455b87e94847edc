"""Where a run keeps features, and where those of other runs of the same images are looked for."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from linear_eval.features.kept import FOLDER, Kept
from linear_eval.scored_run import ScoredRun

__all__ = ["kept_beside"]

_MOST_RUNS = 1000
"""Folders beside a run's that are looked into."""


def kept_beside(run: ScoredRun, say: Callable[[str], object]) -> Kept:
    """What ``run`` keeps: in its folder, that of a checkpoint in it or of weights of others; an encoder's folder keeps none.

    Args:
        run: the run.
        say: called with a line on features that were not taken again, or could not be kept.
    """
    if run.given is None and run.config is None:
        return Kept(None, say=say)

    def others() -> Iterator[Path]:
        yield run.run_dir / FOLDER
        try:
            with os.scandir(run.run_dir.resolve().parent) as found:
                names = sorted(entry.name for _, entry in zip(range(_MOST_RUNS), found, strict=False))
        except OSError:
            return
        yield from (run.run_dir.parent / name / FOLDER for name in names)

    return Kept(run.home / FOLDER, others, say)
