"""One of two processes is killed, or hangs, by real signals: both end within a minute, one line says which, nothing is lost."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import BY_HAND, LAUNCHERS, RESTARTING, Command

from simclr.run.checkpoint import newest_checkpoint

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc"),
    pytest.mark.long,
]

FLAGS = [
    "--data.size", "16", "--augment.size", "16", "--train.batch-size", "16", "--train.epochs", "4000", "--name", "run",
    "--train.checkpoint-every", "10", "--train.log-every", "1", "--train.precision", "fp32", "--train.knn-every", "0",
    "--encoder.channels", "4", "8", "8", "16", "--encoder.layers", "1", "1", "1", "1", "--schedule.warmup-epochs", "0",
    "--data.limit", "64",
]  # fmt: skip
CHECKPOINT = "runs/run/checkpoints/step-*/manifest.json"
SRUN = ["srun", "-n", "2", sys.executable]


def begun(folder: Path, launcher: str, port: int) -> Command:
    by = {"by hand": BY_HAND, "srun": SRUN}.get(launcher) or LAUNCHERS[launcher, 2]
    alone = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU")
    command = Command(
        folder, launcher, 2, FLAGS, alone, by, {"MASTER_PORT": str(port)} if launcher == "by hand" else None
    )
    command.until(CHECKPOINT)
    return command


def rank_of(number: int) -> str:
    words = dict(v.split(b"=", 1) for v in Path(f"/proc/{number}/environ").read_bytes().split(b"\0") if b"=" in v)
    return (words.get(b"SLURM_PROCID") or words[b"RANK"]).decode()


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate", "by hand", "srun"])
@pytest.mark.parametrize(("way", "rank"), [(signal.SIGKILL, "0"), (signal.SIGKILL, "1"), (signal.SIGSTOP, "1")])
def test_one_falls_and_all_end_within_a_minute(
    way: signal.Signals,
    rank: str,
    launcher: str,
    tmp_path: Path,
    free_port: Callable[[], int],
    tally: Callable[[str], None],
) -> None:
    if launcher == "srun" and (shutil.which("srun") is None or os.system("timeout 20 srun -n 2 true") != 0):
        pytest.skip("no Slurm runs here")
    command = begun(tmp_path, launcher, free_port())
    try:
        numbers = {rank_of(number): number for number in command.processes() if "pretrain.py" in _words(number)[1:3]}
        assert numbers.keys() == {"0", "1"}, numbers
        began = time.monotonic()
        os.kill(numbers[rank], way)
        other = Path(f"/proc/{numbers['1' if rank == '0' else '0']}")
        while other.exists() and other.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            assert time.monotonic() < began + 60, command.said()
            time.sleep(0.1)
        took = time.monotonic() - began
        if way == signal.SIGSTOP:  # a launcher kills it after its own patience, nobody does where there is none
            os.kill(numbers[rank], signal.SIGKILL)
        assert command.is_gone_in(45), command.said()
        checkpoint, said = newest_checkpoint(tmp_path / "runs" / "run" / "checkpoints")
    finally:
        command.end()
    tally(f"{way.name} to process {rank} under {launcher}: the other ended after {took:.0f} s")
    assert checkpoint is not None and not said
    lines = [line for line in command.said().splitlines() if line.startswith("error: process")]
    assert len(lines) == 1 and lines[0].startswith(f"error: process {rank} (on "), command.said()
    assert ("was killed" if way == signal.SIGKILL else "has been silent") in lines[0]
    assert lines[0].endswith("run the same command again: training goes on from the newest checkpoint")
    assert "simclr/train.py" not in command.said(), command.said()


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_a_launcher_that_restarts_goes_on_from_the_checkpoint(launcher: str, tmp_path: Path) -> None:
    command = Command(tmp_path, launcher, 2, FLAGS, by=RESTARTING[launcher, 2])
    try:
        command.until(CHECKPOINT)
        os.kill(command.training()[1], signal.SIGKILL)
        command.until_it_says(("continuing runs/run at step",))
        assert "continuing runs/run at step" in command.said() and len(command.training()) == 2, command.said()
    finally:
        command.end()


def _words(number: int) -> list[str]:
    try:
        return [Path(word).name for word in Path(f"/proc/{number}/cmdline").read_text().split("\0")]
    except OSError:
        return []
