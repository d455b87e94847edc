"""What ``benchmarks/cifar10/run.py`` is made of: a slot of time, runs that continue in the next one, images and files."""

import hashlib
import json
import math
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from simclr.config import TrainConfig
from simclr.config.yaml import from_dict, save_config, to_dict
from simclr.errors import ConfigError, DataError, PipelineError
from simclr.files import write_json
from simclr.model.contrastive import build_model
from simclr.run.checkpoint import newest_checkpoint
from simclr.run.flops import model_flops
from simclr.run.log import read_metrics

__all__ = ["JOIN", "OutOfTime", "Slot", "cut", "override", "step_flops", "step_seconds", "train", "unpack"]

ROOT = Path(__file__).resolve().parents[2]

JOIN = "cat encoder.safetensors.part-* > encoder.safetensors && sha256sum -c SHA256SUMS"
"""Run in the folder that ``cut`` filled: puts the encoder together and proves it whole; then ``load_encoder`` takes it."""


class OutOfTime(Exception):
    """The slot is over. What was done is on the disk, and the same command goes on from there."""


class Slot:
    """A span of time in which child processes work; at its end they are asked to stop (SIGTERM).

    Args:
        minutes: from now.
        log: the file to which everything said is added.
    """

    def __init__(self, minutes: float, log: Path) -> None:
        self._ends = time.monotonic() + 60 * minutes
        self._log = log

    def check(self) -> float:
        """Seconds left; raises OutOfTime when there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left

    def say(self, text: str) -> None:
        print(text, flush=True)
        with self._log.open("a") as file:
            file.write(text + "\n")

    def run(self, *words: str | Path) -> list[str]:
        """Run ``python words...`` to its end and return its lines.

        Raises:
            OutOfTime: the slot ended first; the child has stopped by itself, after a checkpoint.
            PipelineError: the child failed.
        """
        command = [sys.executable, *map(str, words)]
        left = self.check()
        lines = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            timer = threading.Timer(left, process.terminate)
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(line.rstrip("\n"))
                    self.say(lines[-1])
                code = process.wait()
            finally:
                timer.cancel()
                if process.poll() is None:  # this process was told to end: so is the child, which writes its checkpoint
                    process.terminate()
        # Our commands; lightly_simclr.py; one that was not ready to listen.
        if code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM):
            raise OutOfTime
        if code:
            raise PipelineError(f"{shlex.join(command[1:])} ended with exit code {code}; its last lines say why")
        return lines


def train(config: TrainConfig, slot: Slot) -> dict[str, float]:
    """Run or continue ``config`` in a process of its own, until it is finished.

    Returns:
        ``epochs``, ``steps``, ``calls`` (processes it took), ``minutes`` (the whole life of those processes),
        ``step_seconds`` (see ``step_seconds``), ``minutes_of_steps`` (all steps at that pace: without the processes'
        starts, decoding and compilation), ``images_per_second`` (at that pace).

    Raises:
        OutOfTime: the slot ended first.
        PipelineError: training failed.
    """
    notes = config.out / f"{config.name}.calls.json"
    calls = json.loads(notes.read_text()) if notes.exists() else []
    if not (config.run_dir / "encoder" / "encoder.json").exists():
        slot.check()
        config.out.mkdir(parents=True, exist_ok=True)
        settings = config.out / f"{config.name}.yaml"
        save_config(config, settings)
        checkpoint = newest_checkpoint(config.run_dir / "checkpoints")[0]
        began = time.monotonic()
        try:
            slot.run(ROOT / "scripts" / "pretrain.py", settings)
        finally:
            start = checkpoint.progress["step"] if checkpoint else 0
            calls.append({"start": start, "seconds": time.monotonic() - began})
            write_json(notes, calls)
    lines = [line for line in read_metrics(config.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    steps = lines[-1]["step"]
    pace = step_seconds(lines, [call["start"] for call in calls], config.train.batch_size)
    return {
        "epochs": config.train.epochs,
        "steps": steps,
        "calls": len(calls),
        "minutes": sum(call["seconds"] for call in calls) / 60,
        "step_seconds": pace,
        "minutes_of_steps": steps * pace / 60,
        "images_per_second": config.train.batch_size / pace,
    }


def step_seconds(lines: list[dict[str, Any]], starts: list[int], batch: int) -> float:
    """Mean seconds of a step over the logged stretches, without the first of each call, in which compilation falls.

    Args:
        lines: the ``step`` lines of a ``metrics.jsonl``.
        starts: the step at which each call began.
        batch: images a step.

    >>> lines = [{"step": 10, "images_per_second": 1.0}, {"step": 20, "images_per_second": 50.0}]
    >>> step_seconds(lines, [0], batch=100)
    2.0
    """
    before, stretches = 0, []
    for line in lines:
        first = any(before <= start < line["step"] for start in starts)
        stretches.append((first, line["step"] - before, batch / line["images_per_second"]))
        before = line["step"]
    # A run too short for a second stretch has only its first to go by.
    steady = [stretch for stretch in stretches if not stretch[0]] or stretches
    return sum(count * seconds for _, count, seconds in steady) / sum(count for _, count, _ in steady)


def step_flops(config: TrainConfig) -> int:
    """Operations of the encoder and head in a step, forward and backward."""
    size = config.augment.size
    shape = (config.augment.views, config.train.batch_size, 3, size, size)
    return model_flops(build_model(config), torch.empty(shape, device="meta")) or 0


def override(config: TrainConfig, text: str) -> TrainConfig:
    """``config`` changed as words say: ``optim.learning_rate=2.0 objective=triplet objective.margin=0.1``.

    A value is read as YAML; ``objective=NAME`` takes that objective at its defaults.

    Raises:
        ConfigError: a word without ``=``, an unknown field (with a suggestion), a wrong value.

    >>> override(TrainConfig(), "augment.crop_scale=[0.2,1] optim.learning_rate=1e-3").optim.learning_rate
    0.001
    """
    content = to_dict(config)
    for word in shlex.split(text):
        path, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"{word!r} changes nothing: expected FIELD=VALUE, such as optim.learning_rate=2.0")
        *groups, field = path.split(".")
        place = content
        for group in groups:
            if isinstance(place.get(group), str):  # objective=triplet, and now a field of it
                place[group] = {"name": place[group]}
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{word!r}: {group} has no fields")
        place[field] = yaml.safe_load(value)
    return from_dict(TrainConfig, content, where=f"{text!r}")


def unpack(data: Path, work: Path) -> Path:
    """The folder with ``train/CLASS/*`` and ``test/CLASS/*``: ``data`` itself, or what it holds packed, below ``work``.

    Args:
        data: such a folder, or a tar file of one, however compressed; in both the two may lie one folder deeper.
        work: an archive is unpacked into ``work/images``, once.

    Raises:
        DataError: nothing there, no tar file, or no such folders in it.
    """
    folder = data
    if not data.exists():
        raise DataError(
            f"{data} does not exist; give a folder with train/CLASS/* and test/CLASS/*, or a tar file of one"
        )
    if data.is_file():
        folder = work / "images"
        if not folder.exists():
            partial = work / "images.partial"
            try:
                with tarfile.open(data) as archive:
                    archive.extractall(partial, filter="data")
            except (tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f"{data} cannot be unpacked into {partial}: {error}") from error
            partial.rename(folder)
    for root in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (root / "train").is_dir() and (root / "test").is_dir():
            return root
    raise DataError(f"{data} holds no folders train and test; expected train/CLASS/* and test/CLASS/*")


def cut(file: Path, folder: Path, most: int = 15 * 2**20) -> list[Path]:
    """Write ``file`` into ``folder`` in parts of at most ``most`` bytes, with its SHA-256; ``JOIN`` is the way back."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{file.name}.part-*"):
        old.unlink()
    content = file.read_bytes()
    parts = []
    for number in range(math.ceil(len(content) / most)):
        part = folder / f"{file.name}.part-{number:02d}"
        part.write_bytes(content[number * most : (number + 1) * most])
        parts.append(part)
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    return parts
