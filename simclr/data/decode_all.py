"""All images of a set, decoded once: by threads, or by processes where Python itself takes the time.

Pillow decodes without the interpreter's lock, but a file is opened, and its header read, in Python: about 0.1 ms an image. Of
pictures of a few KB that is nearly all, and threads that want the lock at the same time are slower than one alone.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from simclr.cores import share_of_cores
from simclr.data.workers import WorkerGone, read_by_workers
from simclr.errors import DataError
from simclr.progress import each

__all__ = ["decode_all", "workers_fork"]

FEW = 2048
"""Images that threads have decoded, whatever their size, about when processes would have begun."""

LOCKED = 3e-4
"""Seconds that an image keeps the other threads of a process waiting: so many cores' threads decode no more than 1 / LOCKED
images a second, whatever an image takes. Between 0.25 ms (2 cores) and 0.8 ms (16 cores) were measured for JPEGs."""

_SAMPLE = 9

_PART = 128
_PART_BYTES = 1 << 20
"""What a worker sends at once. It has two parts ahead, and so has every other one."""

Read = Callable[[int], tuple[Tensor, Tensor | None]]


def decode_all(read: Read, count: int, into: Tensor | None, wholes: dict[int, Tensor] | None) -> dict[int, str]:
    """Decode the images 0 to ``count`` - 1, in threads or in processes, whichever is quicker; what comes out is the same.

    A worker process that dies, or cannot be started, is no error: what it leaves is decoded by threads in this process.

    Args:
        read: an image's square, uint8 (C, S, S), and the image with its shape kept, (C, H, W): None where nobody asks for it,
            and the same tensor where the image is a square.
        count: images.
        into: where the squares go, uint8 (N, C, S, S); None keeps none of them.
        wholes: where the images with their shapes go, by number; needs ``into``, of which squares are parts.

    Returns:
        Why an image does not decode, by its number and in that order; rows of ``into`` of such images are undefined.

    Raises:
        PipelineError: what ``read`` raises, but for DataError.
        DataError: reading hangs, see ``read_by_workers``.
    """
    failed: dict[int, str] = {}

    def keep(index: int, square: Tensor, whole: Tensor | None) -> None:
        if into is not None:
            into[index] = square
        if wholes is not None and whole is not None:
            wholes[index] = whole if into is None or whole is not square else into[index]

    def visit(index: int) -> None:
        try:
            square, whole = read(index)
        except DataError as error:
            failed[index] = str(error)
        else:
            keep(index, square, whole)

    threads, done = share_of_cores(), 0
    if count >= FEW and threads > 1:
        processor, waited = _seconds(read, count)
        if processor < LOCKED * threads:
            if workers_fork():
                bytes_each = 1 if into is None else into[0].nbytes
                at_once = max(1, min(_PART, _PART_BYTES // bytes_each))
                with closing(_by_processes(read, count, threads, at_once, into is not None)) as parts:
                    for part in each(parts, "decoding", -(-count // at_once), "parts"):
                        part.put(into, wholes)
                        failed |= part.failed
                        done = part.images.stop
            # As many threads as the lock lets through; those that wait for a slow disk do not hold it.
            threads = min(threads, max(1, round(waited / LOCKED)))
    if threads == 1:  # the main thread's: one more would want the lock, too
        for index in each(range(done, count), "decoding"):
            visit(index)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in each(pool.map(visit, range(done, count)), "decoding", count - done):
                pass
    return dict(sorted(failed.items()))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What a worker made of some images. Arrays go through a pipe; tensors would take /dev/shm, 64 MB in a container."""

    images: range

    squares: np.ndarray | None
    """uint8 (M, C, S, S); None where none is kept, or none decodes."""

    wholes: dict[int, np.ndarray] = field(default_factory=dict)
    """Those that are no squares."""

    failed: dict[int, str] = field(default_factory=dict)

    def put(self, into: Tensor | None, wholes: dict[int, Tensor] | None) -> None:
        if into is None or self.squares is None:
            return
        into[self.images.start : self.images.stop] = torch.from_numpy(self.squares)
        if wholes is not None:
            for index in self.images:
                if index not in self.failed:
                    own = self.wholes.get(index)
                    wholes[index] = into[index] if own is None else torch.from_numpy(own)


class _ReadPart:
    def __init__(self, read: Read, keep: bool) -> None:
        self.read, self.keep = read, keep

    def __call__(self, images: range) -> _Part:
        squares: np.ndarray | None = None
        wholes, failed = dict[int, np.ndarray](), dict[int, str]()
        for index in images:
            try:
                square, whole = self.read(index)
            except DataError as error:
                failed[index] = str(error)
                continue
            if self.keep:
                if squares is None:
                    squares = np.zeros((len(images), *square.shape), dtype=np.uint8)
                squares[index - images.start] = square.numpy()
                if whole is not None and whole is not square:
                    wholes[index] = whole.numpy()
        return _Part(images=images, squares=squares, wholes=wholes, failed=failed)


def _by_processes(read: Read, count: int, processes: int, at_once: int, keep: bool) -> Generator[_Part]:
    """The parts in order, as far as they come."""
    # No system memory for a process or a semaphore, or a worker killed for want of it: threads do with less.
    with suppress(OSError, ImportError, WorkerGone):
        yield from read_by_workers(
            _ReadPart(read, keep),
            [range(start, min(start + at_once, count)) for start in range(0, count, at_once)],
            workers=processes,
            generator=torch.Generator(),  # how images are decoded must not show in what the process draws later
        )


def _seconds(read: Read, count: int) -> tuple[float, float]:
    """Of one core, and by the clock, for the middle one of a few images from all over the set."""
    took = []
    for index in range(0, count, math.ceil(count / _SAMPLE)):
        began = time.thread_time(), time.perf_counter()
        with suppress(DataError):
            read(index)
        took.append((time.thread_time() - began[0], time.perf_counter() - began[1]))
    processor, waited = (statistics.median(each) for each in zip(*took, strict=True))
    return processor, waited


def workers_fork() -> bool:
    """Whether a process is a copy of this one in no time, rather than one that imports torch for seconds, and the main module."""
    # Asked for outright, the way would be settled, and nobody could set another.
    way = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return way == "fork" and not multiprocessing.current_process().daemon  # which may have no children
