"""A few threads that each work through whole chunks, while torch's operations inside them stay serial.

Torch's own threads meet at a barrier after every operation. For operations of some microseconds that gains little, and
where another process holds a core every barrier waits for the scheduler: measured, a batch took a hundred times as long.
Here the threads meet once a batch.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["run_in_threads", "run_serially"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def run_in_threads(function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Call ``function`` on every item, in as many threads as torch would use, and wait for all of them.

    The first exception is raised here. The caller's inference and gradient modes hold in the threads.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for item in items:
            function(item)
        return
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def task(item: Item) -> None:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            function(item)

    for _ in _pool(threads).map(task, items):
        pass


def run_serially(function: Callable[[], Result]) -> Result:
    """The result of ``function()``, called where torch's operations are serial: for work too small to be shared."""
    results: list[Result] = []
    run_in_threads(lambda _: results.append(function()), [None])
    return results[0]


def _pool(threads: int) -> ThreadPoolExecutor:
    """The pool of this process; a child that was forked has none of its parent's threads."""
    with _lock:
        key = (os.getpid(), threads)
        if key not in _pools:
            pool = ThreadPoolExecutor(threads, thread_name_prefix="augment")
            ready = threading.Barrier(threads)
            try:
                list(pool.map(lambda _: _make_serial(ready), range(threads)))
            finally:
                # What a thread sets for itself is also the default of threads to come: put that back.
                torch.set_num_threads(threads)
            _pools[key] = pool
        return _pools[key]


def _make_serial(ready: threading.Barrier) -> None:
    torch.get_num_threads()  # the first call in a thread takes over the default, and must come before
    torch.set_num_threads(1)
    ready.wait()  # so that every thread takes one of these calls, and none two
