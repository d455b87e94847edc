"""The process itself: the signals it is asked to stop with, its parent's death, and the memory it keeps."""

import ctypes
import os
import platform
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopFlag", "die_with_parent", "keep_freed_memory"]


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


# glibc's malloc.h. The thresholds are C ints.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


_LARGEST_BLOCK = 2**30


def keep_freed_memory() -> bool:
    """Let this process, and those it forks, keep up to its peak of memory; whether the allocator took the advice.

    For a process that does one job, such as the commands in ``scripts/``: what it once used stays with it until it
    ends. Blocks above 1 GiB are still given back. Where the allocator is not glibc's (macOS, Windows, musl, jemalloc
    by ``LD_PRELOAD``), nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
