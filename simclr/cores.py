"""As many threads as a process has cores. ``accelerate launch`` and ``torchrun`` leave one, unless they are told otherwise."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import torch

from simclr.granted import granted_cores

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["Crowd", "share_of_cores", "threads_for", "use_cores"]

_SECONDS = 4.0
"""Until the first answer: in less, a start or a compilation would count."""

_TAKEN_AWAY = 50
"""Times a second that the system takes a core away from a process: a few where nothing else runs, hundreds where much does."""

WORTH_A_THREAD = 1 << 24
"""Multiplications at a time, some milliseconds of them, for which a thread more is woken up."""


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """No more of torch's threads in the block than there is work for, at so many multiplications at a time.

    Threads that share out little wait for one another, spinning: where another program has the cores, each such wait lasts
    until the system takes the core away from it. What was set before is set again behind the block.
    """
    before = torch.get_num_threads()
    fewer = max(1, min(before, multiplications // WORTH_A_THREAD))
    if fewer == before:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_cores() -> None:
    """Every process of this machine gets its share of the cores, whatever the launcher made of OMP_NUM_THREADS.

    accelerate launch and torchrun set it to 1; srun and mpirun leave it, and each process would take all cores. What the user
    asked for stays: OMP_NUM_THREADS in the launcher's own environment, ``--num_cpu_threads_per_process``.
    """
    launched = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"))
    asked = os.environ.get("OMP_NUM_THREADS")
    if not launched or asked not in (None, "1") or (asked and _asked_for(Path(f"/proc/{os.getppid()}"))):
        return
    torch.set_num_threads(share_of_cores())
    if asked is None:
        os.environ["OMP_NUM_THREADS"] = str(share_of_cores())  # or accelerate takes another share


def share_of_cores() -> int:
    """Cores for this process: those that a scheduler or a container grants, divided among those launched on this machine."""
    cores, processes = _cores(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "SLURM_STEP_ID" in os.environ:
        own = os.environ.get("SLURM_CPUS_PER_TASK", "")
        of_job = os.environ.get("SLURM_CPUS_ON_NODE", "")
        share = int(own) if own.isdigit() else int(of_job) // processes if of_job.isdigit() else cores
        return max(1, min(cores, share))
    return max(1, cores if _is_bound() else cores // processes)


class Crowd:
    """Whether other work keeps the threads of this process from their cores.

    At every operation threads wait for the last of them: where one has to share its core, all do. Two threads on two busy
    cores take a small network's steps at an eighth of the speed of one. In less than ``seconds`` it cannot tell.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._before, self._seconds = self._counts(), seconds

    def words(self) -> str | None:
        """A sentence where it does, once; None where it does not, or too little time has gone by to tell."""
        now, threads = self._counts(), torch.get_num_threads()
        wall, used, taken = (new - old for new, old in zip(now, self._before, strict=True))
        if threads == 1 or wall < self._seconds:
            return None
        self._before = now
        if used > 0.6 * threads * wall or taken < _TAKEN_AWAY * wall:
            return None
        return (
            f"other work keeps the cores busy: {threads} threads got {used / wall:.1f} of them, and wait for each other in every "
            "step; while that lasts, one thread may be several times as fast (Ctrl-C, OMP_NUM_THREADS=1 and the same command)"
        )

    def _counts(self) -> tuple[float, float, float]:
        """Seconds, processor seconds of all threads, and cores taken away, so far."""
        taken = 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return time.perf_counter(), time.process_time(), taken


def _asked_for(launcher: Path) -> bool:
    """Whether whoever started ``launcher``, a folder of /proc, chose the number of threads. Elsewhere nobody can tell."""
    try:
        environment = (launcher / "environ").read_bytes().split(b"\0")
        words = (launcher / "cmdline").read_bytes()
    except OSError:
        return False
    return b"num_cpu_threads_per_process" in words or any(v.startswith(b"OMP_NUM_THREADS=") for v in environment)


def _cores() -> int:
    """Physical cores that this process may use: two threads of one core get in each other's way."""
    usable = _usable(0)
    granted = granted_cores()
    if granted is not None:
        usable = min(usable, max(1, int(granted)))
    return min(usable, psutil.cpu_count(logical=False) or usable)


def _is_bound() -> bool:
    """Whether the launcher gave this process processors of its own, as mpirun does: fewer than itself has."""
    try:
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1 and _usable(0) < _usable(os.getppid())
    except OSError:  # it is gone
        return False


def _usable(process: int) -> int:
    return len(os.sched_getaffinity(process)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
