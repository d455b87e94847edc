"""What a person sees: bars on a terminal and in a notebook, lines in a log, and nothing of a process that is not the first."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from simclr import progress as shown
from simclr.progress import each, progress, screen, terminal


class Clock:
    """Seconds that pass where the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shown, "time", clock)
    return clock


def lines_of(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left(clock: Clock) -> None:
    written = io.StringIO()
    with screen(Console(file=written)):
        for _ in each(range(100), "decoding"):
            clock.now += 1
    assert written.getvalue().splitlines() == [
        *[
            f"decoding: {done}/100 images, {(100 - done) // 60}:{(100 - done) % 60:02d} left"
            for done in range(10, 101, 10)
        ],
        "decoding: 100 images in 1:40",
    ]


def test_what_is_quick_leaves_nothing_in_a_log(clock: Clock) -> None:
    written = io.StringIO()
    with screen(Console(file=written)):
        for _ in each(range(3), "decoding"):
            clock.now += 1
    assert written.getvalue() == ""


def test_a_terminal_gets_a_bar_for_each_thing_and_lines_above_them(clock: Clock) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    with screen(console), progress("encoder: features", lines=False) as outer, progress("decoding", 1000) as inner:
        clock.now += 20
        inner(250)
        terminal().print("a line")
        outer.now("encoder: probe")
    said = [line.rstrip() for line in lines_of(written.getvalue())]
    assert "a line" in said
    bar = next(line for line in said if "decoding" in line)
    assert bar.endswith("250/1,000 images 1:00 left") and len(bar) <= 80
    assert any(line.startswith("encoder: probe") for line in said)
    assert written.getvalue().count("\x1b[?25l") == written.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_an_error_takes_the_bars_down_before_it_is_said() -> None:
    written = io.StringIO()
    with pytest.raises(ZeroDivisionError), screen(Console(file=written, force_terminal=True)):
        for _ in each(range(3), "decoding"):
            1 / 0  # noqa: B018  # what holds the frame, and so the bar, while it is handled
    assert written.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in written.getvalue()
    assert not shown.shows_bars()


def test_a_long_name_leaves_room_for_the_figures(clock: Clock) -> None:
    written = io.StringIO()
    with screen(Console(file=written, force_terminal=True, width=60)), progress("n" * 200, 10) as tell:
        clock.now += 1
        tell(5, figures="loss 1.234", left=61)
        tell.now("n" * 200)
    bar = next(line for line in lines_of(written.getvalue()) if "loss 1.234" in line).rstrip()
    assert bar.endswith("loss 1.234 1:01 left") and len(bar) <= 60


def test_other_processes_show_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setenv("RANK", "1")
    written = io.StringIO()
    with screen(Console(file=written)):
        for _ in each(range(100), "decoding"):
            clock.now += 1
    assert written.getvalue() == ""


def test_a_notebook_draws_over_one_output(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    drawn: list[str] = []

    class Cell:
        def update(self, content: dict[str, str], raw: bool) -> None:
            drawn.append(content["text/plain"])

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Any:
        drawn.append(content["text/plain"])
        return Cell()

    monkeypatch.setattr(pytest.importorskip("IPython.display"), "display", display)
    with screen(Console(force_jupyter=True)):
        for _ in each(range(4), "decoding"):
            clock.now += 1
    assert drawn == [
        "decoding  [####............]  1/4 images  0:03 left",
        "decoding  [########........]  2/4 images  0:02 left",
        "decoding  [############....]  3/4 images  0:01 left",
        "decoding  [################]  4/4 images  0:00 left",
        "decoding: 0:04",
    ]
