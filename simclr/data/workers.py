"""Batches that worker processes read, for training and for scoring; what goes wrong there is one line here.

A DataLoader hands a worker's error over as a text with the worker's traceback in it, and raises a worker's death wherever
the main thread happens to be, in the middle of an optimizer's step too. Here an error is a value until it is raised again,
and a death is raised where the next batch is asked for.
"""

import atexit
import multiprocessing
import shutil
import signal
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from multiprocessing.process import BaseProcess
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from simclr.errors import DataError, PipelineError
from simclr.stopping import ignore_requests

__all__ = ["PATIENCE", "WorkerGone", "read_by_workers"]

PATIENCE = 1800
"""Seconds without a batch after which reading hangs, and is not slow: a network folder that is gone answers nothing for ever."""


class WorkerGone(DataError):
    """A worker died: killed by the system, mostly, which was short of memory."""


Key = TypeVar("Key")
Read = TypeVar("Read")


def read_by_workers(
    read: Callable[[Key], Read],
    keys: Iterable[Key],
    *,
    workers: int,
    pin_memory: bool = False,
    context: str | None = None,
    prefetch: int | None = None,
    generator: torch.Generator | None = None,
) -> Generator[Read]:
    """``read(key)`` of every key, in order, called in ``workers`` processes, or in this one without any.

    Args:
        read: what a worker does; pickled where ``context`` starts workers afresh.
        keys: one for each batch.
        workers: processes.
        pin_memory: put tensors where a GPU fetches them faster.
        context: how workers are started; the platform's way by default.
        prefetch: batches that each worker reads ahead; torch's default by default.
        generator: what torch draws a number from for the workers; the process's own by default, which is then another.

    Raises:
        PipelineError: what ``read`` raised, as it raised it.
        WorkerGone: a worker died.
        DataError: none has read a batch within ``PATIENCE``.
        OSError: the system starts no worker.
    """
    loader: DataLoader[Any] = DataLoader(
        _Told(read),
        batch_sampler=keys,  # type: ignore[arg-type]  # only iterated over
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_ignore_requests,
        timeout=PATIENCE if workers else 0,
        generator=generator,
    )
    others = set(multiprocessing.active_children())
    try:
        source = iter(loader)
    except BaseException as error:  # after some of them were started, too
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
            worker.join()
        for frame, _ in walk_tb(error.__traceback__):
            half_made: Any = frame.f_locals.get("self")
            if hasattr(half_made, "_shutdown_workers"):
                half_made._shutdown = True  # torch would miss what it lacks, and print that when it is collected
        raise
    started = set(multiprocessing.active_children()) - others
    _workers.update(started)
    with _Deaths(started) as deaths:
        try:
            while (item := deaths.next_of(source)) is not None:
                if isinstance(item, PipelineError):
                    raise item
                yield item
        finally:
            # Nobody wants what they have read ahead, and torch would wait seconds for each that is still writing it.
            if (shut_down := getattr(source, "_shutdown_workers", None)) is not None:
                for worker in started:
                    worker.kill()
                shut_down()


class _Told(Dataset[Any], Generic[Key, Read]):
    """``read`` as a DataLoader calls it; its error is the value, since one that is raised arrives as another."""

    def __init__(self, read: Callable[[Key], Read]) -> None:
        self.read = read

    def __getitems__(self, key: Key) -> Read | PipelineError:
        try:
            item = self.read(key)
            if get_worker_info() is not None:
                _hand_over(item)
        except PipelineError as error:
            return error
        return item


def _hand_over(item: object) -> None:
    """Put the tensors of ``item`` into shared memory. A queue would do it later, in a thread whose failure nobody hears of.

    Raises:
        DataError: there is no room.
    """
    if isinstance(item, Tensor):
        try:
            item.share_memory_()
        except RuntimeError as error:
            if "shared memory" not in str(error) and "No space left" not in str(error):
                raise
            raise DataError(_no_room()) from None
    elif isinstance(item, tuple | list | dict) or is_dataclass(item):
        parts = (
            item.values() if isinstance(item, dict) else item if isinstance(item, tuple | list) else vars(item).values()
        )
        for part in parts:
            _hand_over(part)


def _no_room() -> str:
    size = ""
    with suppress(OSError):
        size = f" ({shutil.disk_usage('/dev/shm').total / 2**20:.0f} MB)"
    return (
        f"/dev/shm{size} has no room for the images that workers hand over: docker run --shm-size 8g or --ipc host, in "
        "Kubernetes an emptyDir of medium Memory mounted there; or read without workers (--data.workers 0, --eval.workers 0)"
    )


_workers: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@atexit.register
def _end_those_left() -> None:
    # Python asks with SIGTERM, which they ignore, and waits: for ever, where one hangs in a file.
    if hasattr(signal, "SIGCHLD"):
        with suppress(ValueError):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes a worker that ends for a failure
    for worker in list(_workers):
        with suppress(ValueError, AttributeError):  # closed, or another process's
            worker.kill()


def _ignore_requests(worker: int) -> None:
    # A request to stop goes to a whole group: the process that trains answers it, and needs its batches meanwhile.
    ignore_requests()


def _as_it_is(item: Read) -> Read:
    return item


class _Deaths:
    """While it is in force, torch's handler of SIGCHLD raises a worker's death in ``next_of`` alone."""

    def __init__(self, workers: set[BaseProcess]) -> None:
        self._workers = workers
        self._number: signal.Signals | None = getattr(signal, "SIGCHLD", None)
        self._torchs: Any = None
        self._asked = False

    def __enter__(self) -> "_Deaths":
        if self._number is not None and callable(torchs := signal.getsignal(self._number)):
            try:
                signal.signal(self._number, self._on)
                self._torchs = torchs
            except ValueError:  # not the main thread, to which no signal comes: torch looks every few seconds
                pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._asked = False
        if self._torchs is not None and self._number is not None:
            with suppress(ValueError):  # a generator that another thread collects
                signal.signal(self._number, self._torchs)

    def next_of(self, source: Iterator[Any]) -> Any:
        """The next item of a DataLoader, or None.

        Raises:
            WorkerGone: a worker died.
            DataError: it hangs.
        """
        self._asked = True
        try:
            if self._torchs is not None:
                self._torchs(self._number, None)  # who died while nobody asked?
            for worker in self._workers:
                if worker.exitcode:  # and was waited for since, as by ``active_children``, so that torch sees nothing
                    raise RuntimeError(f"DataLoader worker (pid {worker.pid}) exited unexpectedly")
            return next(source, None)
        except RuntimeError as error:
            if str(error).startswith("DataLoader timed out"):
                raise DataError(
                    f"no image could be read for {PATIENCE / 60:.0f} minutes: the disk or network folder hangs. The same "
                    f"command goes on when it is back; more --data.workers help where reading is only slow"
                ) from None
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            if "Bus error" in str(error):
                raise WorkerGone(_no_room()) from None
            raise WorkerGone(
                f"{str(error).splitlines()[0].rstrip('. ')}: a process that reads images is gone. Where memory ran out, fewer "
                "of them need less: --data.workers, or --eval.workers when scoring; then run the same command again"
            ) from None
        finally:
            self._asked = False

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._torchs(number, frame)
