"""What a slow run says before its first figures."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from simclr import runlog
from simclr.runlog import RunLog


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
    log.pace(101)
    clock.now += 6
    log.pace(102)
    assert lines == []
    clock.now += 6
    log.pace(103)
    # 2,897 steps of 6 s are 17,382 s.
    assert lines == ["step 103/3000  6.0 s a step  about 4:49:42 left"]
    clock.now += 60
    log.pace(104)
    assert len(lines) == 1


def test_a_run_of_days_hears_what_would_shorten_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=100_000, start_step=0)
    lines = said_by(log, monkeypatch)
    log.pace(1)
    clock.now += 30
    log.pace(2)
    assert len(lines) == 2 and "--augment.size 96" in lines[1]


def test_fast_steps_say_nothing(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True), total_steps=100, start_step=0)
    lines = said_by(log, monkeypatch)
    figures = dict.fromkeys(("loss", "learning_rate", "images_per_second", "data_wait", "seconds_left"), 1.0)
    for step in range(1, 21):
        clock.now += 0.1
        log.pace(step)
    log.step(20, 1, figures)
    del lines[:]
    clock.now += 100
    log.pace(21)
    assert lines == []
