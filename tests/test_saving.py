"""What is saved while a run goes on: behind the loop's back, the best for good, and whatever becomes of the folder."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import TrainConfig
from simclr.config.yaml import save_config
from simclr.errors import ConfigError
from simclr.run import checkpoint
from simclr.run.checkpoint import newest_checkpoint
from simclr.run.log import read_metrics


def steps(config: TrainConfig) -> list[int]:
    return sorted(int(path.name[5:]) for path in (config.run_dir / "checkpoints").iterdir())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "encoder.safetensors")


def test_a_checkpoint_holds_the_state_of_its_step_though_it_is_written_later(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is held back until the loop has gone on; a run from what it wrote is the undisturbed one."""
    undisturbed = simclr.pretrain(replace(tiny_run, name="undisturbed"))
    gone_on, written = threading.Event(), checkpoint.write_tensors

    def late(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if "step-00000003" in str(path):
            assert threading.current_thread() is not threading.main_thread()
            assert gone_on.wait(60)
        written(path, tensors)

    rate = simclr.train.set_learning_rate

    def noticed(*args: Any, **others: Any) -> float:
        if args[2] == 4:
            gone_on.set()
        return rate(*args, **others)

    monkeypatch.setattr(checkpoint, "write_tensors", late)
    monkeypatch.setattr("simclr.train.set_learning_rate", noticed)
    # Validation at the epoch's end waits for the writer, which waits for a later step: here it comes later.
    config = replace(tiny_run, train=replace(tiny_run.train, checkpoint_every=3, keep_checkpoints=9, knn_every=0))
    simclr.pretrain(config)
    assert gone_on.is_set()
    for step in steps(config):
        if step > 3:
            shutil.rmtree(config.run_dir / "checkpoints" / f"step-{step:08d}")
    shutil.rmtree(config.run_dir / "encoder")
    found = weights(simclr.pretrain(config).run_dir)
    wanted = weights(undisturbed.run_dir)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_checkpoint_of_the_best_online_score_stays(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.7, 0.5, 0.7, 0.6])
    monkeypatch.setattr("simclr.run.validation.ValidationScore.__call__", lambda *_: {"online_knn": next(scores)})
    train = replace(tiny_run.train, epochs=5, knn_every=1, checkpoint_every=4, keep_checkpoints=1, keep_every=8)
    config = replace(tiny_run, train=train)
    assert simclr.pretrain(config).finished
    assert steps(config) == [8, 10, 16, 24, 25]  # the best after the second epoch, each eighth, the last
    best = checkpoint.Checkpoint(config.run_dir / "checkpoints" / "step-00000010", {})
    assert '"score": 0.7' in (best.path / "progress.json").read_text()


def test_a_folder_that_goes_away_is_said_and_made_anew(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rate = simclr.train.set_learning_rate

    def and_removes(*args: Any, **others: Any) -> float:
        if args[2] == 5:
            shutil.rmtree(tiny_run.run_dir)
        return rate(*args, **others)

    monkeypatch.setattr("simclr.train.set_learning_rate", and_removes)
    assert simclr.pretrain(tiny_run).finished
    assert capfd.readouterr().err.count(f"warning: {tiny_run.run_dir} was gone; it is made anew") == 1
    assert newest_checkpoint(tiny_run.run_dir / "checkpoints")[0] is not None
    assert read_metrics(tiny_run.run_dir / "metrics.jsonl")
    monkeypatch.undo()
    assert simclr.pretrain(tiny_run).steps == 10  # the same command finds a run of its own


def test_what_a_writer_meets_besides_a_disk_is_said_too(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint.write_state
    calls = iter([True])

    def broken(path: Path, content: dict[str, Any]) -> None:
        if next(calls, False):
            raise RuntimeError("odd")
        state(path, content)

    monkeypatch.setattr(checkpoint, "write_state", broken)
    assert simclr.pretrain(tiny_run).finished
    assert "warning: the checkpoint could not be written (RuntimeError: odd)" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock")
def test_a_folder_that_another_process_writes_is_refused_until_that_is_gone(tiny_run: TrainConfig) -> None:
    tiny_run.run_dir.mkdir(parents=True)
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", program, str(tiny_run.run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(ConfigError, match=r"is being written by (process \d+|another process), .* --name"):
            simclr.pretrain(tiny_run)
        assert list(tiny_run.run_dir.iterdir()) == []
        holder.kill()
    assert simclr.pretrain(tiny_run).finished
    assert simclr.pretrain(tiny_run).finished  # and let go at the end


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "a\0b", "x" * 300, "\ud800", "ü" * 120])
def test_names_that_no_file_system_takes_are_refused(tiny_run: TrainConfig, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        replace(tiny_run, name=name)


def test_a_stop_on_a_full_disk_waits_for_seconds_only(
    tiny_run: TrainConfig,
    stop_after: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Callable[[int], Any],
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("simclr.run.saving.PATIENCE", 0.2)
    monkeypatch.setattr("simclr.run.saving._BETWEEN", 0.05)
    monkeypatch.setattr("simclr.run.saving.time.sleep", slept.append)
    with small_disk(20_000), stop_after(4), pytest.raises(simclr.CheckpointError, match="run the same command again"):
        simclr.pretrain(tiny_run)
    assert list((tiny_run.run_dir / "checkpoints").iterdir()) == []  # no half ones: a full disk needs the room


# Systems that lack what Linux has, emulated: no run ends of it.


def test_a_folder_that_cannot_be_synced_ends_no_run(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, synced = os.open, os.fsync

    def windows_open(path: Any, *args: Any, **others: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **others)

    def odd_mount(descriptor: int) -> None:
        synced(descriptor)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("simclr.files.os.open", windows_open)
    monkeypatch.setattr("simclr.files.os.fsync", odd_mount)
    assert simclr.pretrain(tiny_run).finished
    monkeypatch.setattr("simclr.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(simclr.CheckpointError, match="Input/output error"):
        simclr.pretrain(replace(tiny_run, name="dying"))


@pytest.mark.long
def test_a_system_without_these_signals_and_locks_trains(tmp_path: Path, tiny_run: TrainConfig) -> None:
    save_config(tiny_run, tmp_path / "run.yaml")
    program = """
import os, signal, sys
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGRTMIN"):
    delattr(signal, name)
from simclr.stopping import listen
listen()
sys.argv = ["pretrain.py", sys.argv[1], "--train.no-evaluate"]
from simclr.run import lock
lock.sys = type("windows", (), {"platform": "win32"})
import runpy
runpy.run_path(os.environ["SCRIPT"], run_name="__main__")
"""
    script = Path(__file__).parents[1] / "scripts" / "pretrain.py"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run.yaml")],
        capture_output=True, text=True, env=os.environ | {"SCRIPT": str(script)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tiny_run.run_dir / "encoder" / "encoder.json").exists()


@pytest.mark.long
def test_workers_that_are_started_afresh_train(
    tiny_run: TrainConfig, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows: what a worker needs is pickled."""
    spawned = partial(simclr.data.loader.read_by_workers, context="spawn")
    data = replace(
        tiny_run.data, source="folder", path=image_folder, limit=None, labels="none", device_resident="no", workers=1
    )
    config = replace(tiny_run, data=data, train=replace(tiny_run.train, batch_size=8, epochs=1, knn_every=0))
    forked = simclr.pretrain(config)
    monkeypatch.setattr("simclr.data.loader.read_by_workers", spawned)
    afresh = simclr.pretrain(replace(config, name="afresh"))
    first, second = weights(forked.run_dir), weights(afresh.run_dir)
    assert all(torch.equal(first[name], second[name]) for name in first)
