"""A polite end: SIGTERM and Ctrl-C raise a flag that the loop polls, so that it can write a checkpoint first."""

import ctypes
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopFlag", "die_with_parent"]


class StopFlag:
    """While active, the first SIGTERM or SIGINT only sets ``raised``; a second one acts as it always did."""

    def __init__(self) -> None:
        self.raised: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._on)
            except ValueError:  # not the main thread, e.g. in a notebook's worker: the caller's handlers stay
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        self.raised = signal.Signals(number)
        signal.signal(number, self._before[self.raised])


def die_with_parent() -> None:
    """On Linux, get SIGTERM when the parent process ends: ``accelerate launch`` leaves its child running otherwise."""
    if not sys.platform.startswith("linux") or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
