"""How processes speak from CPU to CPU. What may take long is looked at again and again: none is deaf to a request to stop."""

import pickle
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Elsewhere", "Pulse", "meet", "tell", "told"]


class Elsewhere(Exception):
    """Another process met a fault: what this one makes of its share is not wanted any more."""


def tell(group: dist.ProcessGroup, item: object) -> None:
    """Send ``item`` from the first process to all others."""
    content = torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8)
    _wait(dist.broadcast(torch.tensor([len(content)]), 0, group=group, async_op=True))
    _wait(dist.broadcast(content, 0, group=group, async_op=True))


def told(group: dist.ProcessGroup) -> Any:
    """What the first process sends next."""
    size = torch.zeros(1, dtype=torch.int64)
    _wait(dist.broadcast(size, 0, group=group, async_op=True))
    content = torch.empty(int(size), dtype=torch.uint8)
    _wait(dist.broadcast(content, 0, group=group, async_op=True))
    return pickle.loads(content.numpy().tobytes())


def meet(group: dist.ProcessGroup, fault: bool) -> int:
    """Go on when all are here; in how many of them there was a fault."""
    faults = torch.tensor([int(fault)])
    _wait(dist.all_reduce(faults, group=group, async_op=True))
    return int(faults)


class Pulse:
    """Called with the images that this process has done, it hears now and then how far all are, and waits for none of them.

    Args:
        group: the processes.
        rounds: how often; the same in all.
        count: images of this process.
        shown: called with the images that all have done.

    Raises:
        Elsewhere: when it is called, one of the others met a fault.
    """

    def __init__(
        self, group: dist.ProcessGroup, rounds: int, count: int, shown: Callable[[int], None] | None = None
    ) -> None:
        self._group, self._rounds, self._count, self._shown = group, rounds, count, shown
        self._issued = 0
        self._faults = 0
        self._under_way: deque[tuple[Any, Tensor]] = deque()

    def __call__(self, done: int) -> None:
        while self._issued < self._rounds - 1 and done * self._rounds >= (self._issued + 1) * self._count:
            self._issue(done, False)
        self._look()
        if self._faults:
            raise Elsewhere

    def finish(self, done: int, fault: bool) -> None:
        """The rounds that are left, until all processes have come to their end."""
        while self._issued < self._rounds:
            self._issue(done, fault)
        while self._under_way:
            time.sleep(0.002)
            self._look()

    def _issue(self, done: int, fault: bool) -> None:
        sums = torch.tensor([done, int(fault)])
        self._under_way.append((dist.all_reduce(sums, group=self._group, async_op=True), sums))
        self._issued += 1

    def _look(self) -> None:
        while self._under_way and self._under_way[0][0].is_completed():
            work, sums = self._under_way.popleft()
            work.wait()
            done, faults = sums.tolist()
            self._faults += faults
            if self._shown is not None and not faults:
                self._shown(done)


def _wait(work: Any) -> None:
    pause = 0.0005
    while not work.is_completed():
        time.sleep(pause)
        pause = min(1.5 * pause, 0.02)
    work.wait()
