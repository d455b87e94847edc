"""What a call costs: seconds, and how far it raises the peak of memory."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["peak_bytes", "seconds"]


def seconds(function: Callable[[], object], device: str) -> float:
    """Seconds on the clock until the device has done all of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """How far ``function`` raises the peak of memory above what is held when it starts.

    On a CPU memory that was freed and kept would count as held: measure in a fresh process that gives it back.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # Linux: the peak of resident memory starts again from what is held now
    before = _resident_peak()
    function()
    return _resident_peak() - before


def _resident_peak() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
