"""How the suite runs: a worker a core, one thread in each; what is named on the command line alone, in one process."""

import os
from pathlib import Path

import pytest

# Before anything imports torch or numpy: for this process, for its workers, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

MOST_WORKERS = 8
"""Each takes up to a gigabyte."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means: no worker for a file or two, which would have ended before two workers had imported torch."""
    named = [Path(word.split("::")[0]) for word in config.args]
    if len(named) <= 2 and all(path.suffix == ".py" for path in named):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)
