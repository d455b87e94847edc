"""What a person sees while something takes long: bars with the time left on a terminal and in a notebook, else a line at times.

Whoever talks to a person opens a ``screen``: a command, ``simclr.pretrain``, a score. Whatever takes long says so with
``progress`` or ``each``, however deep it is called, and shows nothing where no screen is open. Of several processes the first
has a screen. rich is imported where there is one: whoever only loads an encoder has no use for it.
"""

import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from simclr.names import printable

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live

__all__ = ["Work", "clock", "each", "in_lines", "progress", "screen", "shows_bars", "terminal"]

T = TypeVar("T")

_YOUNG = 0.5
"""Seconds that something may take before it is shown on a terminal or in a notebook."""

_LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""

_BAR = 16


class Work:
    """Something that takes long. Called with what is done, and in all where that was not known, it is shown."""

    def __init__(
        self, shown: "_Screen | None", what: str, total: int | None, unit: str, done: int, lines: bool
    ) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.figures = ""
        """Shown in place of how many are done."""
        self.began = time.monotonic()
        self._shown, self._lines = shown, lines
        self._first, self._line = done, self.began
        self._left: float | None = None

    def __call__(self, done: int, total: int | None = None, *, figures: str = "", left: float | None = None) -> None:
        """So many are done; ``left`` is in seconds, where the caller knows better than what the past ones took."""
        self.done, self.figures, self._left = done, figures, left
        self.total = self.total if total is None else total
        if self._shown is not None:
            self._shown.changed(self)

    def now(self, what: str) -> None:
        """It is busy with ``what`` from here on."""
        self.what = what
        if self._shown is not None:
            self._shown.changed(self, at_once=True)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    @property
    def is_counted(self) -> bool:
        """Whether anybody knows how much there is to be done."""
        return bool(self.total)

    def left(self) -> float | None:
        """Seconds, from what the past ones took; None where nothing can be said."""
        if self._left is not None or not self.total or self.done <= self._first:
            return self._left
        return self.seconds * max(0, self.total - self.done) / (self.done - self._first)

    def words(self) -> tuple[str, str]:
        """How far it is, and how long it takes."""
        counted = f"{self.done:,}/{self.total:,} {self.unit}" if self.total else ""
        counted = counted or (f"{self.done:,} {self.unit}" if self.done else "")
        left = self.left()
        return self.figures or counted, clock(self.seconds) if left is None else f"{clock(left)} left"

    def line(self) -> str | None:
        """A line for a log, where the last one is some time ago."""
        now = time.monotonic()
        if not self._lines or now - self._line < _LINE_SECONDS:
            return None
        self._line = now
        return f"{self.what}: {', '.join(word for word in self.words() if word)}"

    def last_line(self) -> str | None:
        """What a log says at the end of something that it has had a line of."""
        if self._line == self.began or not self._lines:
            return None
        return f"{self.what}: {self.done:,} {self.unit} in {clock(self.seconds)}"


class _Screen:
    """Of a terminal, of a notebook, or of neither."""

    def __init__(self, on: "Console") -> None:
        self.console = on
        self.works: list[Work] = []
        self._live: Live | None = None
        self._cell: Any = None
        self._drawn = 0.0
        self._lock = threading.RLock()

    @property
    def is_live(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def add(self, work: Work) -> None:
        with self._lock:
            self.works.append(work)
            if self.is_live and self._live is None and not self.console.is_jupyter:
                from rich.live import Live

                # What is printed to a file is no matter of the terminal's.
                self._live = Live(
                    console=self.console,
                    get_renderable=self.bars,
                    refresh_per_second=4,
                    transient=True,
                    redirect_stdout=sys.stdout.isatty(),
                )
                self._live.start()

    def remove(self, work: Work) -> None:
        with self._lock:
            if not self.is_live and not self.console.is_jupyter and (line := work.last_line()):
                self.print(line)
            if work in self.works:  # else the screen is closed, and an error holds on to what ended with it
                self.works.remove(work)
            if not self.works:
                self.close()
            if not self.works and self._cell is not None:
                self._cell.update({"text/plain": f"done in {clock(work.seconds)}"}, raw=True)
                self._cell = None

    def close(self) -> None:
        with self._lock:
            self.works.clear()
            if self._live is not None:
                self._live.stop()
                self._live = None

    def changed(self, work: Work, at_once: bool = False) -> None:
        if self._live is not None:
            if at_once:
                self._live.refresh()
        elif self.console.is_jupyter:
            self._draw_cell()
        elif line := work.line():
            self.print(line)

    def print(self, line: str) -> None:
        from rich.text import Text

        with suppress(OSError):
            self.console.print(Text(printable(line)), soft_wrap=True)

    def bars(self) -> "Group":
        """A line for each of the works."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = []
        with self._lock:
            shown = [work for work in self.works if work.what and (work.seconds > _YOUNG or not work.is_counted)]
        for work in shown:
            how_far, how_long = work.words()
            bar = ProgressBar(total=work.total or None, completed=work.done, width=_BAR, pulse=not work.is_counted)
            room = max(10, self.console.width - _BAR - len(how_far) - len(how_long) - 3 - bool(how_far))
            what = Text(printable(work.what))
            what.truncate(room, overflow="ellipsis")
            row = Table.grid(padding=(0, 1))
            cells: list[RenderableType] = [what, bar, *([Text(how_far)] if how_far else []), Text(how_long, "cyan")]
            for _ in cells:
                row.add_column(no_wrap=True)
            row.add_row(*cells)
            rows.append(row)
        return Group(*rows)

    def _draw_cell(self) -> None:
        # rich's bars need ipywidgets, and leave nothing in a notebook that is saved; text that is drawn over needs neither.
        now = time.monotonic()
        if now - self._drawn < _YOUNG or now - self.works[0].began < _YOUNG:
            return
        self._drawn = now
        lines = []
        for work in list(self.works):
            share = min(1.0, work.done / work.total) if work.total else 0.0
            bar = f"[{'#' * round(_BAR * share):.<{_BAR}}]" if work.total else ""
            lines.append("  ".join(word for word in (printable(work.what), bar, *work.words()) if word))
        content = {"text/plain": "\n".join(lines)}
        if self._cell is None:
            from IPython.display import display

            self._cell = display(content, raw=True, display_id=True)
        else:
            self._cell.update(content, raw=True)


_open: list[_Screen] = []
"""The screen that is open in this process."""


@contextmanager
def screen(on: "Console | None" = None) -> Iterator[None]:
    """Show, inside, what takes long: on stderr, or ``on`` another console. Where a screen is open, that one stays."""
    if _open or os.environ.get("RANK", "0") != "0":
        yield
        return
    from rich.console import Console

    _open.append(_Screen(Console(stderr=True) if on is None else on))
    try:
        yield
    finally:
        _open.pop().close()


def shows_bars() -> bool:
    """Whether bars are shown here, and no lines in their place."""
    return bool(_open) and (_open[0].is_live or _open[0].console.is_jupyter)


def terminal() -> "Console":
    """Where to print lines for people: above the bars where there are any, on stderr."""
    from rich.console import Console

    return _open[0].console if _open else Console(stderr=True)


@contextmanager
def progress(
    what: str, total: int | None = None, unit: str = "images", *, done: int = 0, lines: bool = True
) -> Iterator[Work]:
    """Gives what to call with how much is done.

    Args:
        what: what a person calls it.
        total: how much there is to do; None is not known.
        unit: of what, in the plural.
        done: how much was done before.
        lines: without a terminal, say every ten seconds how far it is.
    """
    shown = _open[0] if _open else None
    work = Work(shown, what, total, unit, done, lines)
    if shown is None:
        yield work
        return
    shown.add(work)
    try:
        yield work
    finally:
        shown.remove(work)


def each(items: Iterable[T], what: str, total: int | None = None, unit: str = "images") -> Iterator[T]:
    """The ``items``, one after the other, with a bar."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with progress(what, total, unit) as tell:
        for number, item in enumerate(items, start=1):
            yield item
            tell(number)


def in_lines(text: str, on: "Console") -> str:
    """``text`` broken between words for a terminal; a log has it in one line, and no path is ever cut."""
    if not on.is_terminal or len(text) <= on.width:
        return text
    return textwrap.fill(text, on.width, break_long_words=False, break_on_hyphens=False)


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any.

    >>> clock(62.4), clock(3 * 3600 + 5)
    ('1:02', '3:00:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _in_a_child() -> None:
    """A process that was forked has no thread that draws, and perhaps a lock that one held: it prints as ever."""
    _open.clear()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, getattr(stream, "rich_proxied_file", stream))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_child)
