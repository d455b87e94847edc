"""Real full disks of thirty sizes, and of too few inodes, around training, scoring, export and preview: no traceback, and
with room the same command ends with the same bits. ``pytest --long tests/faults/test_tmpfs.py`` prints the counts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FLAGS = [
    "--data.size", "16", "--augment.size", "16", "--data.limit", "200", "--train.batch-size", "32", "--train.epochs", "4",
    "--name", "run", "--train.checkpoint-every", "5", "--train.log-every", "2", "--train.precision", "fp32",
    "--train.knn-every", "2", "--train.no-evaluate", "--encoder.channels", "4", "8", "8", "16",
    "--encoder.layers", "1", "1", "1", "1", "--schedule.warmup-epochs", "0",
]  # fmt: skip


def can_mount(folder: Path) -> bool:
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0 and subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize(("kind", "disks"), [("bytes", 30), ("inodes", 23)])
def test_commands_on_full_disks_say_a_line_and_go_on_with_room(
    kind: str, disks: int, tmp_path: Path, tally: Callable[[str], None]
) -> None:
    if not can_mount(tmp_path):
        pytest.skip("mounting a tmpfs is not allowed here")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "full_disks.py"), str(tmp_path), kind, *FLAGS],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    tally(str(counts))
    assert counts["disks"] == counts["same bits"] == disks, done.stderr[-6000:]
    assert counts["tracebacks"] == 0 and counts["refused somewhere"] > 5, done.stderr[-6000:]
