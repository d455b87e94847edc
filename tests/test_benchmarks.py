"""Every benchmark runs at its smallest, so that none rots unseen; what it measures is not looked at here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
COMMANDS = [path for path in sorted(BENCHMARKS.rglob("*.py")) if '__name__ == "__main__"' in path.read_text()]
WORDS = {
    "speed.py": ["--only", "optim"],  # which is tried through it; the others it starts are here themselves
    "cifar10/lightly_simclr.py": ["--help"],  # run.py starts it
    "plan.py": ["--help"],  # test_plan.py holds docs/scale.md to what it prints
}
MARKS: dict[str, Any] = {
    "cifar10/lightly_simclr.py": pytest.mark.long,
    "cifar10/run.py": pytest.mark.long,
    "adapting.py": pytest.mark.long,
    "cifar10/ladder.py": pytest.mark.long,
    "loss.py": pytest.mark.long,
    "many_classes.py": pytest.mark.long,
    "many_files.py": pytest.mark.long,
    "mining.py": pytest.mark.long,
    "omniglot.py": pytest.mark.long,
    "sampling.py": pytest.mark.long,
    "scale.py": pytest.mark.long,
    "small_batches.py": pytest.mark.long,
    "step.py": pytest.mark.long,
}
"""Of those that take a quarter of a minute and more, or that one of them starts; the others are slow."""


def named(path: Path) -> str:
    return path.relative_to(BENCHMARKS).as_posix()


def test_there_are_benchmarks() -> None:
    assert {"step.py", "speed.py", "views.py", "cifar10/run.py"} <= {named(path) for path in COMMANDS}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=MARKS.get(named(path), pytest.mark.slow))
        for path in COMMANDS
        if named(path) != "optim.py"
    ],
    ids=named,
)
def test_a_benchmark_runs(path: Path, tmp_path: Path) -> None:
    words = WORDS.get(named(path), [])
    command = [sys.executable, str(path), *([] if "--help" in words else ["--quick"]), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir())  # what is tried out leaves nothing behind
