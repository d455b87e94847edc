"""A run on shards by two processes with two workers each, killed in the middle of a shard: it ends as an undisturbed one does."""

import io
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command
from PIL import Image
from safetensors.torch import load_file

WORDS = [
    "folder", "--data.source", "shards", "--data.size", "20", "--data.workers", "2", "--data.device-resident", "no",
    "--augment.size", "16", "--encoder.name", "resnet18", "--encoder.layers", "1", "1", "1", "1",
    "--encoder.channels", "4", "8", "8", "16", "--encoder.stem", "small", "--train.batch-size", "16", "--train.epochs", "3",
    "--schedule.warmup-epochs", "1", "--train.checkpoint-every", "4", "--train.no-evaluate", "--train.knn-every", "0",
    "--train.precision", "fp32", "--name", "run",
]  # fmt: skip


def shards(folder: Path) -> Path:
    """Four shards of 50 images each without a list, so that no epoch's step ends where a shard does."""
    folder.mkdir()
    for number in range(4):
        with tarfile.open(folder / f"train-{number}.tar", "w") as tar:
            for i in range(50):
                out = io.BytesIO()
                pixels = np.random.default_rng(100 * number + i).integers(0, 256, (24, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(out, "PNG")
                member = tarfile.TarInfo(f"{number}-{i:03d}.png")
                member.size = len(out.getvalue())
                tar.addfile(member, io.BytesIO(out.getvalue()))
    return folder


def finished(folder: Path, path: Path) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    command = Command(folder, "torchrun", 2, [*WORDS, "--data.path", str(path), "--out", str(folder / "runs")])
    assert command.process.wait(timeout=240) == 0, command.said()
    return load_file(folder / "runs/run/encoder/encoder.safetensors")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to find the training processes")
@pytest.mark.long
def test_killed_in_the_middle_of_a_shard(tmp_path: Path) -> None:
    path = shards(tmp_path / "shards")
    wanted = finished(tmp_path / "undisturbed", path)
    folder = tmp_path / "killed"
    folder.mkdir()
    command = Command(folder, "torchrun", 2, [*WORDS, "--data.path", str(path), "--out", str(folder / "runs")])
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/run/checkpoints/step-*/manifest.json")):
        assert command.process.poll() is None and time.monotonic() < deadline, command.said()
        time.sleep(0.01)
    for number in command.processes():
        os.kill(number, signal.SIGKILL)
    command.process.wait()
    steps = sorted(folder.glob("runs/run/checkpoints/step-*"))
    assert int(steps[-1].name.removeprefix("step-")) % 10  # 160 images, 10 steps of 16: not at an epoch's end
    found = finished(folder, path)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
