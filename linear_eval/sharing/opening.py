"""How a command is shared among the processes that a launcher started, and what each keeps of the images."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Literal, ParamSpec

import torch
from torch import distributed as dist

from linear_eval.sharing.helper import Helper
from linear_eval.sharing.leader import Team, team
from simclr.data import ImageSet
from simclr.data.loader import place_and_tell, say_left_out
from simclr.processes import process_group, take_launch, together

__all__ = ["placed", "shared"]

P = ParamSpec("P")

_EVER = timedelta(days=365)
"""For others to wait while the first process fits its classifiers; that a process is gone is noticed without a clock."""


def shared(main: Callable[P, int]) -> Callable[P, int]:
    """``main``, which returns an exit code, called in the first process alone, while the others do their share of it.

    They return its code. Without a launcher, or with one that started one process, it is ``main``. All must call it.
    """

    @functools.wraps(main)
    def call(*args: P.args, **kwargs: P.kwargs) -> int:
        take_launch()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or team() is not None:
            return main(*args, **kwargs)
        with _group() as group:
            if dist.get_rank():
                return Helper(group)()
            return Team(group).lead(functools.partial(main, *args, **kwargs))

    return call


def placed(
    images: ImageSet,
    resident: Literal["auto", "yes", "no"],
    batch_size: int,
    say: Callable[[str], object] = lambda _: None,
) -> tuple[ImageSet, dict[int, str]]:
    """``simclr.data.place`` on the CPU, by all processes, and what was left out: number in ``images`` and why.

    Where there are several each keeps what it decodes of its share, for all that is taken of the set in ``batch_size``; the
    set that is returned is of files still.

    Raises:
        DataError: as ``place``.
    """
    led = team()
    if led is None or images.pixels is not None:
        found, broken = place_and_tell(images, torch.device("cpu"), resident)
    else:
        found, broken = led.place(images, resident, batch_size)
    say_left_out(images, broken, say)
    return found, broken


@contextmanager
def _group() -> Iterator[dist.ProcessGroup]:
    """The processes of the launch, from CPU to CPU; each has a GPU of its own where there are some."""
    with together():
        opened = not dist.is_initialized()
        process_group()
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        group = dist.new_group(backend="gloo", timeout=_EVER)
        assert isinstance(group, dist.ProcessGroup)
        try:
            yield group
        finally:
            if opened:
                with suppress(RuntimeError):  # another process is gone
                    dist.destroy_process_group()
