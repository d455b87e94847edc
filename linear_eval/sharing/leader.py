"""The first process, which asks the others; see ``linear_eval.sharing``."""

import os
import pickle
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

from linear_eval.sharing.talk import Pulse, meet, tell
from linear_eval.sharing.work import AT_ONCE, Do, End, Hold, Share, Work, do_work, parts_of_whole_batches, take_share
from simclr.data import ImageSet
from simclr.data.loader import fits_on

__all__ = ["Team", "team"]

_ROUNDS = 64
"""How often the processes hear from each other, at most, while they encode their shares."""


def team() -> "Team | None":
    """The processes that this one leads; None where it is alone, or does what another one asks."""
    return state.led


class _State:
    led: "Team | None" = None


state = _State()


@dataclass
class _Held:
    number: int
    share: Share
    batch_size: int
    resident: bool
    rows: list[tuple[int, int]]


class Team:
    """All processes, in the first of them."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self.world = group, dist.get_world_size(group)
        self._held: weakref.WeakKeyDictionary[ImageSet, _Held] = weakref.WeakKeyDictionary()
        self._forget: list[int] = []
        self._numbers = 0
        self._busy = False

    def lead(self, main: Callable[[], int]) -> int:
        """``main()``, which the others help with where it asks for it."""
        state.led, code = self, 2
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            raise
        finally:
            state.led = None
            if not self._busy:  # else they are in the midst of something, and notice that this process is gone
                with suppress(RuntimeError):
                    tell(self._group, End(code))
        return code

    def place(
        self, images: ImageSet, resident: Literal["auto", "yes", "no"], batch_size: int
    ) -> tuple[ImageSet, dict[int, str]]:
        """See ``placed``."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        keep = resident == "yes" or (
            resident == "auto" and fits_on(torch.device("cpu"), images.nbytes * here // self.world)
        )
        if not keep and images.broken == "refuse":
            return images, {}  # what is broken is found where it is encoded
        broken = self._hold(images, batch_size, keep)
        if broken and (images.broken == "refuse" or len(broken) == len(images)):
            raise images.refusal(broken)
        if broken:  # the batches of those that are left begin elsewhere
            good = torch.ones(len(images), dtype=torch.bool)
            good[list(broken)] = False
            del self._held[images]
            self._forget.append(self._numbers)
            images = images.subset(good.nonzero().flatten())
            self._hold(images, batch_size, keep)
        return images, broken

    def run(
        self, work: Work, images: ImageSet, batch_size: int, progress: Callable[[int, int], None] | None = None
    ) -> tuple[list[Any], Tensor | None] | None:
        """``work`` on the share of every process: what each returned, in order, and the rows of all as one tensor.

        None, with nothing done, where it cannot be sent to another process.

        Raises:
            PipelineError: what it raised in any of them; the first in order.
        """
        try:
            sent = pickle.dumps(work)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
        held = self._held.get(images)
        if held is None or held.batch_size != batch_size:
            broken = self._hold(images, batch_size, held is not None and held.resident)
            assert not broken
            held = self._held[images]
        longest = max(stop - start for start, stop in held.rows)
        rounds = min(_ROUNDS, -(-longest // batch_size))
        self._busy = True
        tell(self._group, Do(held.number, sent, rounds, self._forgotten()))
        shown = None if progress is None else lambda done: progress(done, len(images))
        mine, fault = do_work(work, held.share, Pulse(self._group, rounds, len(held.share.images), shown))
        parts = self._gathered(fault, None if mine is None else (mine[0], None if mine[1] is None else mine[1].shape))
        assert mine is not None
        self._busy = True
        rows = self._rows(mine[1], [shape for _, shape in parts])
        self._busy = False
        return [result for result, _ in parts], rows

    def _hold(self, images: ImageSet, batch_size: int, resident: bool) -> dict[int, str]:
        """Give each process its share; the images that do not decode, as far as anybody looked, and why."""
        rows = parts_of_whole_batches(len(images), batch_size, self.world)
        self._numbers += 1
        self._busy = True
        tell(self._group, Hold(self._numbers, resident, tuple(start for start, _ in rows), self._forgotten()))
        own, *others = (images.subset(torch.arange(start, stop)) for start, stop in rows)
        for rank, share in enumerate(others, start=1):
            if share.paths is not None:  # not the whole of a list that parts share
                share = replace(share, paths=tuple(share.paths))
            dist.send_object_list([share], rank, group=self._group)
        mine, fault = take_share(own, resident)
        found = self._gathered(fault, None if mine is None else mine[1])
        assert mine is not None
        self._held[images] = _Held(self._numbers, Share(mine[0], 0, 0), batch_size, resident, rows)
        weakref.finalize(images, self._forget.append, self._numbers)
        return {
            start + index: why for (start, _), broken in zip(rows, found, strict=True) for index, why in broken.items()
        }

    def _forgotten(self) -> tuple[int, ...]:
        forget = tuple(self._forget)
        del self._forget[: len(forget)]
        return forget

    def _gathered(self, fault: BaseException | None, own: Any) -> list[Any]:
        """What each process has; or the first fault that any of them met is raised."""
        meet(self._group, fault is not None)
        told: list[Any] = [None] * self.world
        dist.gather_object((fault, own), told, 0, group=self._group)
        self._busy = False
        for first, _ in told:
            if first is not None:
                raise first
        return [item for _, item in told]

    def _rows(self, own: Tensor | None, shapes: list[torch.Size | None]) -> Tensor | None:
        known = [(rank, shape) for rank, shape in enumerate(shapes) if shape is not None and len(shape)]
        if not known:
            return None
        kind = next((shape for _, shape in known if shape[0]), known[0][1])
        whole = torch.empty(sum(shape[0] for _, shape in known), *kind[1:])
        start = 0
        for rank, shape in known:
            rows = whole[start : start + shape[0]].view(-1)
            start += shape[0]
            if rank == 0:
                assert own is not None
                rows.copy_(own.view(-1))
                continue
            for part in rows.split(AT_ONCE):
                if len(part):
                    dist.recv(part, rank, group=self._group)
        return whole
