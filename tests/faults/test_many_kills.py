"""SIGKILL at any moment, most of all in the midst of a checkpoint: the same command continues, and ends with the same bits.

``pytest --long tests/faults/test_many_kills.py`` kills more than sixty times and prints the counts.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Command
from PIL import Image

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process with threads")

FLAGS = [
    "--data.size", "16", "--augment.size", "16", "--train.batch-size", "32", "--train.epochs", "12", "--name", "run",
    "--train.checkpoint-every", "3", "--train.log-every", "4", "--train.precision", "fp32", "--train.knn-every", "4",
    "--train.no-evaluate", "--encoder.channels", "4", "8", "8", "16", "--encoder.layers", "1", "1", "1", "1",
]  # fmt: skip
WORKERS = ["folder", "--data.path", "../pictures", "--data.device-resident", "no", "--data.workers", "2"]


def kill(folder: Path, kills: int, words: list[str]) -> dict[str, int]:
    rng = np.random.default_rng(0)
    for number in range(160):
        place = folder / "pictures" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place / f"{number:03d}.png")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kills.py"), str(folder), str(kills), "0", *words],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_a_run_killed_in_the_midst_of_its_checkpoints_ends_with_the_same_bits(
    tmp_path: Path, tally: Callable[[str], None]
) -> None:
    counts = kill(tmp_path, 4, ["--data.limit", "256", *FLAGS])
    tally(str(counts))
    assert counts["kills"] >= 4 and counts["in a write"] > 0 and counts["same bits"] == counts["runs"]


@pytest.mark.long
@pytest.mark.parametrize("words", [["--data.limit", "256"], WORKERS], ids=["resident", "workers"])
def test_runs_killed_again_and_again_end_with_the_same_bits(
    words: list[str], tmp_path: Path, tally: Callable[[str], None]
) -> None:
    counts = kill(tmp_path, 30, [*words, *FLAGS])
    tally(str(counts))
    assert counts["kills"] >= 30 and counts["in a write"] >= 13 and counts["same bits"] == counts["runs"]


@pytest.mark.long
def test_two_processes_killed_again_and_again_end_with_the_same_bits(
    tmp_path: Path, tally: Callable[[str], None]
) -> None:
    words = ["--data.limit", "256", *FLAGS, "--train.epochs", "80"]
    draw, kills = random.Random(0), 0
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Command(tmp_path / "undisturbed", "torchrun", 2, words)
    try:
        assert undisturbed.process.wait(240) == 0, undisturbed.said()
    finally:
        undisturbed.end()
    while True:
        command = Command(tmp_path, "torchrun", 2, words)
        try:
            if kills < 10:
                command.until_it_says(("starting runs", "continuing runs"))
                time.sleep(draw.uniform(0, 1))
            else:
                command.process.wait(240)
            if command.process.poll() is not None:
                assert command.process.returncode == 0, command.said()
                break
            victims = [*command.training(), command.process.pid]
            os.kill(draw.choice(victims), signal.SIGKILL)  # one rank, the other, or the launcher
            kills += 1
            assert command.is_gone_in(60)
        finally:
            command.end()
    tally(str({"kills": kills}))
    files = [folder / "runs/run/encoder/encoder.safetensors" for folder in (tmp_path, tmp_path / "undisturbed")]
    assert files[0].read_bytes() == files[1].read_bytes() and kills >= 10
