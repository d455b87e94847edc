"""Every way of asking a run to stop, by real signals to real commands: a checkpoint, nobody left, a line and no traceback.

The fast part has one; ``pytest --long tests/faults/test_stop.py`` tries all of them and prints the table.
"""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import LAUNCHERS, Command
from PIL import Image

from simclr.run.checkpoint import newest_checkpoint

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")

FLAGS = [
    "--data.size", "16", "--augment.size", "16", "--train.batch-size", "16", "--train.epochs", "4000", "--name", "run",
    "--train.checkpoint-every", "100000", "--train.log-every", "1", "--train.precision", "fp32", "--train.knn-every", "0",
    "--encoder.channels", "4", "8", "8", "16", "--encoder.layers", "1", "1", "1", "1", "--schedule.warmup-epochs", "0",
]  # fmt: skip
RESIDENT = ["--data.limit", "64"]
WORKERS = ["folder", "--data.path", "pictures", "--data.device-resident", "no", "--data.workers", "2"]
WAYS = {
    "TERM to the process": (signal.SIGTERM, "process"),
    "TERM to the launcher": (signal.SIGTERM, "launcher"),
    "TERM to the group": (signal.SIGTERM, "group"),
    "INT to the group": (signal.SIGINT, "group"),
    "HUP to the group": (signal.SIGHUP, "group"),
    "USR1 to the process": (signal.SIGUSR1, "process"),
    "TERM to all": (signal.SIGTERM, "all"),
    "KILL to the launcher": (signal.SIGKILL, "launcher"),
}
FAST = {("TERM to the launcher", "torchrun", 2, "workers")}
CASES = [
    pytest.param(way, launcher, count, kind, marks=[] if (way, launcher, count, kind) in FAST else [pytest.mark.long])
    for launcher, count in LAUNCHERS
    for kind in ("resident", "workers")
    for way in WAYS
    if launcher != "python" or "launcher" not in way
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(80):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path


@pytest.mark.parametrize(("way", "launcher", "count", "kind"), CASES)
def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_and_nobody(
    way: str, launcher: str, count: int, kind: str, pictures: Path, tally: Callable[[str], None]
) -> None:
    number, to = WAYS[way]
    command = Command(pictures, launcher, count, [*(WORKERS if kind == "workers" else RESIDENT), *FLAGS])
    try:
        command.until("runs/run/metrics.jsonl")
        began = time.monotonic()
        command.send(number, to)
        gone = command.is_gone_in(40)
        took, left = time.monotonic() - began, command.processes()
        checkpoint, said = newest_checkpoint(pictures / "runs" / "run" / "checkpoints")
    finally:
        command.end()
    whole = checkpoint is not None and checkpoint.progress["step"] > 0
    tally(
        f"{way:22} {launcher:10} {count} {kind:8} checkpoint {'yes' if whole else 'no'}  {took:4.1f} s  "
        f"exit {command.process.returncode}  left {len(left)}"
    )
    assert whole and not said, command.said()
    assert gone and not left
    assert "stopped at step" in command.said() or to == "launcher" or number == signal.SIGHUP, command.said()
    assert not list((pictures / "runs" / "run" / "checkpoints").glob(".partial*"))
    if launcher == "python":
        assert command.process.returncode == 128 + number and "Traceback" not in command.said(), command.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("after", [0.15, 0.5, pytest.param(1.5, marks=pytest.mark.long)])
def test_asked_while_it_imports_a_command_ends_without_a_traceback(
    number: signal.Signals, after: float, pictures: Path
) -> None:
    command = Command(pictures, "python", 1, [*RESIDENT, *FLAGS])
    try:
        time.sleep(after)
        command.send(number, "group")
        assert command.is_gone_in(30)
    finally:
        command.end()
    assert command.process.returncode == 128 + number, command.said()
    assert "Traceback" not in command.said() and not (pictures / "runs").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name)
def test_asked_while_it_scores_a_command_ends_and_scores_when_it_is_called_again(
    number: signal.Signals, pictures: Path
) -> None:
    words = [*FLAGS, "--train.epochs", "2"]
    command = Command(pictures, "python", 1, words)
    try:
        command.until_it_says(("linear probe",))
        command.send(number, "group")
        assert command.is_gone_in(30)
    finally:
        command.end()
    assert command.process.returncode == 128 + number and "Traceback" not in command.said(), command.said()
    assert not (pictures / "runs" / "run" / "result.json").exists()
    again = Command(pictures, "python", 1, words)
    assert again.process.wait(120) == 0, again.said()
    again.end()
    assert (pictures / "runs" / "run" / "result.json").exists()


@pytest.mark.long
def test_a_second_ctrl_c_of_a_person_ends_at_once_and_one_of_a_launcher_does_not(pictures: Path) -> None:
    command = Command(pictures, "python", 1, [*RESIDENT, *FLAGS])
    try:
        command.until("runs/run/metrics.jsonl")
        for _ in range(5):
            command.send(signal.SIGINT, "group")
            time.sleep(0.05)
        assert command.is_gone_in(30)
    finally:
        command.end()
    assert command.process.returncode == 130 and "stopped at step" in command.said(), command.said()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
@pytest.mark.parametrize("after", [0.5, 2.0, 4.0])
def test_nobody_trains_on_behind_a_launcher_that_was_killed_at_the_start(
    launcher: str, after: float, pictures: Path
) -> None:
    command = Command(pictures, launcher, 1, [*RESIDENT, *FLAGS])
    try:
        time.sleep(after)
        command.send(signal.SIGKILL, "launcher")
        assert command.is_gone_in(30), command.said()
    finally:
        command.end()


@pytest.mark.long
def test_the_second_run_of_a_command_is_refused_and_told_who_holds_the_folder(pictures: Path) -> None:
    first = Command(pictures, "python", 1, [*RESIDENT, *FLAGS])
    try:
        first.until("runs/run/metrics.jsonl")
        second = Command(pictures, "python", 1, [*RESIDENT, *FLAGS])
        assert second.process.wait(60) == 2, second.said()
        assert f"runs/run is being written by process {first.process.pid}" in second.said()
        assert first.process.poll() is None
        second.end()
        first.send(signal.SIGKILL, "process")
        assert first.is_gone_in(30)
        third = Command(pictures, "python", 1, [*RESIDENT, *FLAGS])  # the lock went with its holder
        third.until_it_says(("starting runs", "continuing runs"))
        assert third.process.poll() is None, third.said()
        third.end()
    finally:
        first.end()


@pytest.mark.long
def test_torchrun_without_a_gpu_trains_on_cpus(pictures: Path) -> None:
    command = Command(
        pictures, "torchrun", 2, [*RESIDENT, *FLAGS], ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION")
    )
    try:
        command.until("runs/run/metrics.jsonl")
        assert "2 x cpu" in command.said() and command.said().count("starting runs/run") == 1, command.said()
    finally:
        command.end()
