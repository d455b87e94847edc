"""What a slow run says before its first figures; and its log on the disk, through damage, resumption and a full disk."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from simclr.errors import CheckpointError
from simclr.run import log as runlog
from simclr.run.log import RunLog, figures_over, read_metrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runlog, "time", clock)
    return clock


def said_by(log: RunLog, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(log, "say", lines.append)
    return lines


def test_slow_steps_are_announced_once_and_without_the_first(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=3000, start_step=100)
    lines = said_by(log, monkeypatch)
    clock.now += 60  # the first step compiles: its minute says nothing of the others
    log.pace(101, 2899)
    clock.now += 6
    log.pace(102, 2898)
    assert lines == []
    clock.now += 6
    log.pace(103, 4000)  # 2,897 are left, some of larger views: they take as long as 4,000 like this one, 24,000 s
    assert lines == ["step 103/3000  6.0 s a step  about 6:40:00 left"]
    clock.now += 60
    log.pace(104, 2896)
    assert len(lines) == 1


def test_a_run_of_days_hears_what_would_shorten_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=100_000, start_step=0)
    lines = said_by(log, monkeypatch)
    log.pace(1, 99_999)
    clock.now += 30
    log.pace(2, 99_998)
    assert len(lines) == 2 and "--augment.size 96" in lines[1]


def test_fast_steps_say_nothing(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=100, start_step=0)
    lines = said_by(log, monkeypatch)
    figures = dict.fromkeys(("loss", "learning_rate", "images_per_second", "data_wait", "seconds_left"), 1.0)
    for step in range(1, 21):
        clock.now += 0.1
        log.pace(step, 100 - step)
    log.step(20, 1, figures)
    del lines[:]
    clock.now += 100
    log.pace(21, 79)
    assert lines == []


# The log on the disk.

LINES = [
    {"kind": "step", "step": 1, "epoch": 1, "loss": 4.5},
    {"kind": "step", "step": 2, "epoch": 1, "loss": 4.25},
    {"kind": "epoch", "step": 2, "epoch": 1, "online_knn": 0.5},
    {"kind": "step", "step": 3, "epoch": 2, "loss": 4.0},
]


def written(path: Path, *damage: bytes) -> Path:
    """A log of ``LINES`` with ``damage`` as lines of its own behind the second."""
    texts = [json.dumps(line).encode() for line in LINES]
    path.write_bytes(b"".join(text + b"\n" for text in (*texts[:2], *damage, *texts[2:])))
    return path


@pytest.mark.parametrize(
    "damage",
    [
        b"1",
        b"null",
        b"{}",
        b"[]",
        b'"step"',
        b"",
        b'{"kind": "st',
        b"\xff\xfe\x00",
        b'{"kind": "step", "st\xffep": 3}',
        b'{"kind": "step", "loss": 1.0}',
        b'{"kind": "step", "step": "3", "epoch": 1}',
        b'{"kind": "step", "step": 1.5, "epoch": 1}',
        b'{"kind": 3, "step": 3, "epoch": 1}',
        b'{"kind": "epoch", "step": 3, "epoch": 0}',
        b'{"kind": "step", "step": -3, "epoch": 1}',
        b"[" * 100_000,
        b'{"kind": "step", "step": 1%s, "epoch": 1}' % (b"0" * 400),
        b'{"kind": "step", "step": 3, "epoch": 1, "loss": -1%s}' % (b"0" * 400),
    ],
    ids=lambda damage: repr(damage[:40]),
)
def test_a_damaged_line_is_left_out_and_takes_no_other_with_it(damage: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", damage)
    assert read_metrics(path) == LINES
    RunLog(tmp_path, Accelerator(cpu=True), total_steps=9, start_step=2)  # a run that continues after step 2
    assert [json.loads(text) for text in path.read_text().splitlines()] == LINES[:3]


def test_no_byte_that_changes_makes_the_log_unreadable(tmp_path: Path) -> None:
    whole = written(tmp_path / "metrics.jsonl").read_bytes()
    rng = random.Random(0)
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "metrics.jsonl").write_bytes(content)
        found = read_metrics(tmp_path / "metrics.jsonl")
        assert len(found) >= len(LINES) - 6 and all(line["step"] >= 0 and line["epoch"] >= 1 for line in found)
        assert all(value == value + 0.0 or value != value for _, value in figures_over(found, "step", "loss"))


def test_a_log_is_not_rewritten_in_its_place(tmp_path: Path, small_disk: Any) -> None:
    path = written(tmp_path / "metrics.jsonl")
    before = path.read_bytes()
    with (
        small_disk(40),
        pytest.raises(CheckpointError, match=r"metrics\.jsonl could not be written .*same command again"),
    ):
        RunLog(tmp_path, Accelerator(cpu=True), total_steps=9, start_step=2)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with small_disk(40):  # nothing is to be dropped: nothing is written
        RunLog(tmp_path, Accelerator(cpu=True), total_steps=9, start_step=3)
    assert path.read_bytes() == before


def test_a_full_disk_makes_a_gap_in_the_log_and_ends_nothing(
    tmp_path: Path, small_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=9, start_step=0)
    lines = said_by(log, monkeypatch)
    log.epoch(1, 1, {"online_knn": 0.25})
    with small_disk(log.path.stat().st_size + 20):  # room for a part of the next line
        log.epoch(2, 1, {"online_knn": 0.5})
        log.epoch(3, 1, {"online_knn": 0.625})
    log.epoch(4, 1, {"online_knn": 0.75})
    assert [line["step"] for line in read_metrics(log.path)] == [1, 4]
    assert len(lines) == 1 and "metrics.jsonl cannot be written (File too large)" in lines[0]
    assert log.last["online_knn"] == 0.75


@pytest.mark.parametrize(
    "error", [ValueError("a name with $\nin it"), CheckpointError("views.png could not be written")]
)
def test_a_picture_never_ends_a_run(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=9, start_step=0)
    lines = said_by(log, monkeypatch)

    def draw(path: Path) -> None:
        raise error

    log.picture(tmp_path / "views.png", draw)
    assert len(lines) == 1 and lines[0].startswith("warning: ") and "views.png could not be" in lines[0]
    assert "\n" not in lines[0]
