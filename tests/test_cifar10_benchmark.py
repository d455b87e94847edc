"""The parts of benchmarks/cifar10 that no score shows: unpacking, cutting, overrides, a slot of time that ends."""

import hashlib
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import simclr
from ideas import OBJECTIVES
from ladder import RUNGS, climbed, minutes_until
from lightly_simclr import require_lightly
from simclr.config import EncoderConfig, TrainConfig
from simclr.config.presets import PRESETS
from simclr.errors import ConfigError, DataError, MissingExtraError, PipelineError
from simclr.losses import TripletConfig
from simclr.run.checkpoint import newest_checkpoint
from simclr.run.log import read_metrics
from slot import JOIN, OutOfTime, Slot, cut, override, step_seconds, train, unpack


def packed(folder: Path) -> Path:
    """A tar.xz of top/{train,test}/{cat,dog}/0.jpg."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            place = folder / "top" / part / name
            place.mkdir(parents=True)
            Image.new("RGB", (8, 8), (len(name), len(part), 7)).save(place / "0.jpg")
    archive = folder / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(folder / "top", "top")
    return archive


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive = packed(tmp_path)
    found = unpack(archive, tmp_path / "work")
    original = sorted(p.relative_to(tmp_path / "top") for p in (tmp_path / "top").rglob("*.jpg"))
    assert sorted(p.relative_to(found) for p in found.rglob("*.jpg")) == original
    assert len(original) == 4
    for name in original:
        assert (found / name).read_bytes() == (tmp_path / "top" / name).read_bytes()
    kept = found / "kept"
    kept.touch()
    assert unpack(archive, tmp_path / "work") == found
    assert kept.exists()  # unpacked again, it would not be
    assert unpack(tmp_path / "top", tmp_path / "work") == tmp_path / "top"


def test_what_holds_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        unpack(tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folders train and test"):
        unpack(tmp_path / "empty", tmp_path)
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "text.tar", tmp_path)
    half = packed(tmp_path).read_bytes()
    (tmp_path / "half.tar.xz").write_bytes(half[: len(half) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "half.tar.xz", tmp_path / "work")
    assert not (tmp_path / "work" / "images").exists()


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 2500])
def test_the_documented_line_joins_what_was_cut(size: int, tmp_path: Path) -> None:
    content = torch.randint(0, 256, (size,), dtype=torch.uint8).numpy().tobytes()
    (tmp_path / "encoder.safetensors").write_bytes(content)
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "encoder.safetensors.part-09").write_bytes(b"of a longer encoder, cut before")
    parts = cut(tmp_path / "encoder.safetensors", folder, most=1000)
    assert len(parts) == -(-size // 1000)
    assert all(0 < part.stat().st_size <= 1000 for part in parts)
    assert hashlib.sha256(content).hexdigest() in (folder / "SHA256SUMS").read_text()
    subprocess.run(JOIN, shell=True, check=True, cwd=folder, capture_output=True)
    assert (folder / "encoder.safetensors").read_bytes() == content
    damaged = bytearray(parts[-1].read_bytes())
    damaged[-1] ^= 1
    parts[-1].write_bytes(damaged)
    assert subprocess.run(JOIN, shell=True, cwd=folder, capture_output=True).returncode != 0


def test_the_line_in_the_help_is_the_line_that_joins() -> None:
    assert JOIN in (Path(__file__).parent.parent / "benchmarks" / "cifar10" / "run.py").read_text()


def test_words_change_a_config() -> None:
    base = simclr.preset("cifar10")
    assert override(base, "") == base
    changed = override(
        base, "optim.learning_rate=2 objective.temperature=1e-1 augment.crop_scale=[0.2,1] train.ema=0.99"
    )
    assert changed.optim.learning_rate == 2.0
    assert changed.objective.temperature == 0.1
    assert changed.augment.crop_scale == (0.2, 1.0)
    assert changed.train.ema == 0.99
    assert replace(changed, optim=base.optim, objective=base.objective, augment=base.augment, train=base.train) == base
    triplet = override(base, "objective=triplet objective.margin=0.3 head.hidden_dim=null")
    assert triplet.objective == TripletConfig(margin=0.3)
    assert override(base, "objective=triplet").objective == TripletConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim.learning_rate", "expected FIELD=VALUE"),
        ("optim.learning_rat=1", "did you mean learning_rate"),
        ("optim.learning_rate=fast", "expected float"),
        ("optim.learning_rate=-1", "must be positive"),
        ("seed.of=1", "seed has no fields"),
        ("objective=tripled", "did you mean"),
    ],
)
def test_words_that_change_nothing_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        override(simclr.preset("cifar10"), text)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_supervised_objectives_are_configs(name: str) -> None:
    assert override(simclr.preset("cifar10-fast"), OBJECTIVES[name]).objective.needs_labels


def test_a_pace_leaves_out_what_each_call_began_with() -> None:
    # 64 images a step. Two calls: of 30 steps, stopped at 35 after the line of step 30, and of the rest.
    seconds = {10: 9.0, 20: 0.5, 30: 0.7, 40: 20.0, 50: 0.6}
    lines = [{"step": step, "images_per_second": 64 / each} for step, each in seconds.items()]
    assert step_seconds(lines, [0, 35], 64) == pytest.approx((0.5 + 0.7 + 0.6) / 3)
    assert step_seconds(lines, [0], 64) == pytest.approx((10 * 0.5 + 10 * 0.7 + 10 * 20.0 + 10 * 0.6) / 40)
    assert step_seconds(lines[:1], [0], 64) == pytest.approx(9.0)


def small(tmp_path: Path) -> TrainConfig:
    base = simclr.preset("digits")
    return replace(
        base,
        name="run",
        out=tmp_path / "work",
        data=replace(base.data, size=8, limit=64),
        augment=replace(base.augment, size=8),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 4, 8)),
        train=replace(base.train, epochs=20, batch_size=16, precision="fp32", log_every=1, knn_every=0, evaluate=False),
    )


@pytest.mark.slow
def test_a_run_stops_with_its_slot_and_goes_on_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path)
    log = tmp_path / "log.txt"

    class EndOfSlot(threading.Thread):
        """Comes once the run has logged two steps, however slow the machine is, and not by the clock."""

        def __init__(self, seconds: float, end: Callable[[], None]) -> None:
            super().__init__(daemon=True)
            self.end, self.off = end, threading.Event()

        def run(self) -> None:
            while not self.off.wait(0.01):
                if len(read_metrics(config.run_dir / "metrics.jsonl")) >= 2:
                    self.end()
                    return

        def cancel(self) -> None:
            self.off.set()

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Timer", EndOfSlot)
        with pytest.raises(OutOfTime):
            train(config, Slot(10, log))
    assert "the same command continues there" in log.read_text()
    checkpoint = newest_checkpoint(config.run_dir / "checkpoints")[0]
    assert checkpoint is not None
    stopped = checkpoint.progress["step"]
    assert 2 <= stopped < 80
    with pytest.raises(OutOfTime):  # a slot without time starts nothing
        train(config, Slot(0, log))

    timing = train(config, Slot(10, log))
    assert f"at step {stopped} of 80" in log.read_text()
    assert timing["steps"] == 80  # 20 epochs of 64 images, 16 at a time
    assert timing["calls"] == 2
    assert 0 < timing["minutes_of_steps"] < timing["minutes"]
    assert simclr.load_encoder(config.run_dir)(torch.zeros(1, 3, 8, 8)).shape == (1, 8)
    assert train(config, Slot(10, log)) == timing  # finished: nothing is started


def test_a_child_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"raise ValueError.* exit code 1"):
        Slot(1, tmp_path / "log.txt").run("-c", "raise ValueError('here')")
    assert "ValueError: here" in (tmp_path / "log.txt").read_text()


def test_without_lightly_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly", None)  # what an import finds where it is not installed
    with pytest.raises(MissingExtraError, match=r"simclr-pipeline\[bench\]"):
        require_lightly()


def test_the_ladder_has_published_figures_and_reads_minutes_in_the_log(tmp_path: Path) -> None:
    assert {rung.preset for rung in RUNGS.values()} <= set(PRESETS)
    run = tmp_path / "seed-0"
    run.mkdir()
    found = ((10, 0.7), (20, 0.905), (30, 0.9))
    lines = [{"kind": "epoch", "step": step, "epoch": step // 10, "online_knn": knn} for step, knn in found]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing = {"minutes": 3.0, "minutes_of_steps": 2.0, "step_seconds": 4.0, "steps": 30}
    assert minutes_until(run, timing, "online_knn", 0.9) == pytest.approx(1.0 + 20 * 4.0 / 60)
    assert minutes_until(run, timing, "online_knn", 0.95) is None
    rows = {name: {"linear": {"accuracy": 0.5}, "knn": {"accuracy": 0.25}} for name in ("encoder", "untrained")}
    seeds = {"0": {"timing": timing, "scores": {"rows": rows}}, "1": {"timing": timing}}
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "metrics.jsonl").touch()
    row = climbed("clock", {"seeds": seeds, "step_flops": 5e12}, tmp_path)
    assert (row["linear"], row["kNN (20)"], row["PFLOP"]) == ("50.0", "25.0", "0.15 ± 0.00")
    assert row["minutes to online kNN 90"] == "2.3"
