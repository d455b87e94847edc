"""The default command, killed for real and started again: it continues, and ends with the bits of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "--train.epochs", "6", "--train.checkpoint-every", "7", "--train.no-evaluate", "--train.knn-every", "0",
    "--encoder.channels", "4", "8", "8", "16", "--train.precision", "fp32",
]  # fmt: skip


def start(out: Path) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", "--cpu"]
    command = [*launch, str(ROOT / "scripts" / "pretrain.py"), "--out", str(out), *SMALL]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)


def child_of(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to find the training process")
@pytest.mark.long
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_killed_and_started_again(way: signal.Signals, tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    process = start(tmp_path)
    checkpoints = tmp_path / "digits" / "checkpoints"
    wait_for(checkpoints, "step-*/manifest.json", process)
    child = child_of(process)
    # SIGKILL falls on the training process; SIGTERM on the launcher, whose child must notice and save.
    os.kill(child if way == signal.SIGKILL else process.pid, way)
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the training process outlived its launcher"
        time.sleep(0.05)
    process.stderr.close()
    assert not (tmp_path / "digits" / "encoder").exists()

    said = finish(start(tmp_path))
    assert "continuing" in said
    weights = load_file(tmp_path / "digits" / "encoder" / "encoder.safetensors")
    assert weights.keys() == undisturbed.keys()
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert "starting" in finish(start(out))
    return load_file(out / "digits" / "encoder" / "encoder.safetensors")
