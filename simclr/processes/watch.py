"""A process of a run that dies, hangs or ends with an error is noticed by the others, which end too and say so.

A collective would wait for it: under NCCL for minutes; on other machines, or under srun, nobody else may tell. So each process
has a thread that looks at its machine's other ones every second, and every five at the beat of the next one in a ring: the
work of it grows with the number of processes, and not with its square.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

__all__ = ["Mate", "Watch"]

_LOOK = 1.0
"""Seconds between two looks at this machine's processes, and at whether anybody has told of a fall."""

_BEAT = 5
"""Looks between two beats."""

_LOST = 7
"""Beats without one of the next process, which then is lost. Not seconds: where all are suspended, as by Ctrl-Z, none is."""

_GRACE = 8.0
"""Seconds in which a process that hears of a fall may end by itself, by an error of the collective that it is in."""


@dataclass(frozen=True)
class Mate:
    """One process of the run."""

    rank: int
    host: str
    pid: int
    space: str
    """Where that number is a process: those of two containers are not comparable, though both may bear one host's name."""

    @classmethod
    def this(cls, rank: int) -> "Mate":
        space = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            space = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return cls(rank, socket.gethostname(), os.getpid(), space)

    def __str__(self) -> str:
        return f"process {self.rank} (on {self.host})"

    def is_gone(self) -> bool:
        """Whether it has ended; a zombie has, whose parent has not asked yet."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return True
        return state in "ZX"


class Watch:
    """One process's part in watching all of them; it begins when it is made.

    Args:
        rank: this process.
        mates: all of them, in order.
        connect: gives a connection of its own to the store where they met.
        first_serves: whether that store goes with the first process, and not with a launcher.
    """

    def __init__(self, rank: int, mates: list[Mate], connect: Callable[[], dist.Store], first_serves: bool) -> None:
        self.rank, self.mates, self._first_serves = rank, mates, first_serves
        own = mates[rank]
        self._here = [m for m in mates if m.space and m.rank != rank and (m.host, m.space) == (own.host, own.space)]
        self._store, self._lock = connect(), threading.Lock()
        self._found, self._stopped = threading.Event(), threading.Event()
        self._fallen: str | None = None
        self._next, self._heard, self._silent = (rank + 1) % len(mates), -1, 0
        self._looks, self._cut = 0, False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        threading.Thread(target=self._guard, name="watch's guard", daemon=True).start()

    def leave(self) -> None:
        """This process has done its part, and is not missed. The first waits for the others, for the store goes with it."""
        with suppress(RuntimeError):
            with self._lock:
                self._store.set(f"ended {self.rank}", "")
                ended = self._store.add("ended", 1)
            while self.rank == 0 and ended < len(self.mates) and not self._found.wait(0.05):
                with self._lock:
                    ended = self._store.add("ended", 0)
        self.stop()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(timeout=2 * _LOOK)

    def report(self, words: str) -> bool:
        """Tell the others that this process ends with ``words``; whether it is to say them itself, since no other does."""
        self.stop()
        deadline = time.monotonic() + _GRACE
        if self._is_store_gone():
            return True
        with suppress(RuntimeError), self._lock:
            self._store.set(f"ended {self.rank}", words)
            self._store.compare_set("fallen", "", f"{self.mates[self.rank]}: {words}")
            if self.rank == 0:
                self._linger()
                return True
            while time.monotonic() < deadline:
                if self._store.check(["ended 0"]):  # what all meet alike, the first says for all
                    says = self._store.get("ended 0").decode() != words
                    self._store.add("know", 1)
                    return says
                if self._store.check(["said"]):
                    self._store.add("know", 1)
                    return False
                time.sleep(0.05)
        return True

    def fallen(self, seconds: float) -> str | None:
        """Which process fell, in words; "" where another one says so; None where none is known to within ``seconds``."""
        if not self._found.is_set():
            with suppress(RuntimeError), self._lock:
                self._look()
        if not self._found.wait(seconds):
            return None
        self.stop()
        return self._fallen if self._says() else ""

    def _run(self) -> None:
        while self._fallen is None and not self._stopped.wait(_LOOK):
            try:
                with self._lock:
                    self._look()
                    if self._looks % _BEAT == 0:
                        self._beat()
            except RuntimeError:
                self._fall(f"{self.mates[0]} cannot be reached any more: it died, or is cut off")
            self._looks += 1
        if self._fallen is not None:
            self._end()

    def _guard(self) -> None:
        """Where the store's machine is cut off a look never ends: nothing closes the connection, and torch waits."""
        looks, silent = self._looks, 0
        while silent < _LOST * _BEAT:
            if self._stopped.wait(_LOOK) or self._fallen is not None:
                return
            silent = silent + 1 if self._looks == looks else 0
            looks = self._looks
        self._cut = True
        self._fallen = f"{self.mates[0]} cannot be reached any more: it died, or is cut off"
        self._found.set()
        self._end()

    def _end(self) -> None:
        if self._stopped.wait(_GRACE):
            return
        if self._says():
            print(
                f"error: {self._fallen}; run the same command again: training goes on from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
        os._exit(1)

    def _look(self) -> None:
        if self._is_store_gone():  # asked, torch would print a page
            return self._fall(_killed(self.mates[0]))
        if self._store.check(["fallen"]):
            self._fall(self._store.get("fallen").decode())
        for mate in self._here:
            if mate.is_gone() and not self._store.check([f"ended {mate.rank}"]):
                self._fall(_killed(mate))

    def _beat(self) -> None:
        self._store.add(f"beat {self.rank}", 1)
        while self._next != self.rank and self._store.check([f"ended {self._next}"]):
            self._next, self._silent = (self._next + 1) % len(self.mates), 0
        before, self._heard = self._heard, self._store.add(f"beat {self._next}", 0)
        self._silent = self._silent + 1 if self._heard == before else 0
        if self._silent >= _LOST and self._next != self.rank:
            mate = self.mates[self._next]
            self._fall(
                f"{mate} has been silent for {_LOST * _BEAT * _LOOK:.0f} seconds: it died, was stopped, or is cut off"
            )

    def _fall(self, words: str) -> None:
        if self._fallen is None:
            self._fallen = words
            self._found.set()
            if self._is_store_gone():
                return
            with suppress(RuntimeError):
                first = self._store.compare_set("fallen", "", words)
                self._fallen = first.decode()
                self._store.add("know", int(self.rank > 0))

    def _linger(self) -> None:
        """With the first process the store may go, from which the others have to learn what happened."""
        deadline = time.monotonic() + _GRACE / 2
        while self._store.add("know", 0) < len(self.mates) - 1 and time.monotonic() < deadline:
            time.sleep(0.05)

    def _is_store_gone(self) -> bool:
        return self._cut or (self._first_serves and self.mates[0] in self._here and self.mates[0].is_gone())

    def _says(self) -> bool:
        """Whether it is this process that says who fell: one does for all of them."""
        if not self._is_store_gone():
            with suppress(RuntimeError), self._lock:
                says = bool(self._store.add("said", 1) == 1)
                if self.rank == 0:
                    self._linger()
                return says
        return all(mate.rank > self.rank or mate.rank == 0 or mate.is_gone() for mate in self._here)


def _killed(mate: Mate) -> str:
    return f"{mate}, number {mate.pid} there, was killed: by the system, mostly, where memory ran out"
