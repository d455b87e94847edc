"""What each process does with its share of a set, and what the first one sends it for that."""

import itertools
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from linear_eval.sharing.talk import Elsewhere, Pulse
from simclr.data import ImageSet
from simclr.errors import DataError, PipelineError
from simclr.memory import ran_out

__all__ = [
    "AT_ONCE",
    "Do",
    "End",
    "Hold",
    "Share",
    "Work",
    "as_sent",
    "do_work",
    "parts_of_whole_batches",
    "take_share",
]

AT_ONCE = 1 << 24
"""Values that are sent at a time: 64 MiB of float32."""


@dataclass(frozen=True)
class Share:
    """What one process has of a set."""

    images: ImageSet

    first: int
    """Number of the first of them in the whole."""

    number: int
    """That of the process."""


class Work(Protocol):
    """What each process does with its share; sent to all of them, and so pickled.

    It calls ``beat`` with the images done, and returns something small and the rows (n, ...) it made, or None. The rows of all
    together are one tensor.
    """

    def __call__(self, share: Share, beat: Callable[[int], None], /) -> tuple[Any, Tensor | None]: ...


def parts_of_whole_batches(count: int, batch_size: int, world: int) -> list[tuple[int, int]]:
    """First row and end of each process's share of ``count`` images, in order: whole batches, but for the last of all.

    >>> parts_of_whole_batches(10, 3, 2), parts_of_whole_batches(2, 3, 2)
    ([(0, 6), (6, 10)], [(0, 0), (0, 2)])
    """
    batches = -(-count // batch_size)
    ends = [min(count, batches * rank // world * batch_size) for rank in range(world + 1)]
    return list(itertools.pairwise(ends))


@dataclass(frozen=True)
class End:
    code: int


@dataclass(frozen=True)
class Hold:
    """Take a share of a set, which follows for each process; forget others."""

    number: int
    resident: bool
    starts: tuple[int, ...]
    forget: tuple[int, ...]


@dataclass(frozen=True)
class Do:
    number: int
    work: bytes
    rounds: int
    forget: tuple[int, ...]


def do_work(
    work: Work | bytes, share: Share, pulse: Pulse
) -> tuple[tuple[Any, Tensor | None] | None, BaseException | None]:
    """What became of the work; neither a result nor a fault where another process met one."""
    mine, fault = None, None
    try:
        mine = (pickle.loads(work) if isinstance(work, bytes) else work)(share, pulse)
    except Elsewhere:
        pass
    except Exception as error:
        fault = error
    pulse.finish(0 if mine is None else len(share.images), fault is not None)
    return mine, fault


def take_share(images: ImageSet, resident: bool) -> tuple[tuple[ImageSet, dict[int, str]] | None, BaseException | None]:
    """The images as they are kept, and which of them do not decode, where all are looked at; or what went wrong."""
    broken: dict[int, str] = {}
    if images.pixels is not None or (not resident and images.broken == "refuse"):
        return (images, broken), None
    told_apart = replace(images, broken="skip")
    try:
        kept = told_apart.resident(torch.device("cpu"), broken=broken) if resident else told_apart.intact(broken)
    except DataError as error:
        if not broken:
            return None, error
        kept = images.subset(torch.arange(0))  # none of them decodes, which says nothing of those of others
    except Exception as error:
        return None, error
    return (replace(kept, broken=images.broken), broken), None


def as_sent(fault: BaseException | None) -> BaseException | None:
    """What the first process raises of a fault that this one met. Of a defect the traceback is here."""
    if fault is None:
        return None
    if not isinstance(fault, PipelineError) and not ran_out(fault):
        traceback.print_exception(fault)
    try:
        pickle.loads(pickle.dumps(fault))
    except Exception:
        return RuntimeError(f"process {dist.get_rank()}: {type(fault).__name__}: {fault}")
    return fault
