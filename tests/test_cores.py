"""How many threads a launched command trains with, asked of a process that was really launched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simclr.cores import _cores

SCRIPT = """
import sys, torch
from simclr.commands import run_command
sys.exit(run_command(lambda words: print("threads", torch.get_num_threads()) or 0))
"""


def threads(tmp_path: Path, launcher: list[str], **variables: str) -> int:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | variables
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, *launcher, str(script)], capture_output=True, text=True, env=environment, check=True
    )
    return int(done.stdout.split("threads ")[1].split()[0])


ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "1"]


def test_accelerate_leaves_all_cores(tmp_path: Path) -> None:
    assert threads(tmp_path, ACCELERATE) == _cores()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="what a launcher was told is read from /proc")
@pytest.mark.parametrize("way", ["variable", "flag"])
def test_what_the_user_asked_for_stays(way: str, tmp_path: Path) -> None:
    if way == "flag":
        assert threads(tmp_path, [*ACCELERATE, "--num_cpu_threads_per_process", "1"]) == 1
    else:
        assert threads(tmp_path, ACCELERATE, OMP_NUM_THREADS="1") == 1


def test_without_a_launcher_nothing_is_changed(tmp_path: Path) -> None:
    assert threads(tmp_path, [], OMP_NUM_THREADS="1") == 1
