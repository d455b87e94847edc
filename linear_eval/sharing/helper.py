"""A process that does its share for the first one."""

from typing import Any

from torch import distributed as dist

from linear_eval.sharing.talk import Pulse, meet, told
from linear_eval.sharing.work import AT_ONCE, Do, End, Hold, Share, as_sent, do_work, take_share

__all__ = ["Helper"]


class Helper:
    """A process that is told what to do."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._shares: dict[int, Share] = {}

    def __call__(self) -> int:
        """Do what the first process asks, until it is done; its exit code."""
        while not isinstance(job := told(self._group), End):
            for number in job.forget:
                self._shares.pop(number, None)
            if isinstance(job, Hold):
                self._hold(job)
            else:
                self._do(job)
        return job.code

    def _hold(self, job: Hold) -> None:
        box: list[Any] = [None]
        dist.recv_object_list(box, 0, group=self._group)
        mine, fault = take_share(box[0], job.resident)
        self._answer(fault, None if mine is None else mine[1])
        if mine is not None:
            rank = dist.get_rank(self._group)
            self._shares[job.number] = Share(mine[0], job.starts[rank], rank)

    def _do(self, job: Do) -> None:
        share = self._shares[job.number]
        mine, fault = do_work(job.work, share, Pulse(self._group, job.rounds, len(share.images)))
        rows = None if mine is None else mine[1]
        anywhere = self._answer(fault, None if mine is None else (mine[0], None if rows is None else rows.shape))
        if not anywhere and rows is not None:
            for part in rows.contiguous().view(-1).split(AT_ONCE):
                if len(part):
                    dist.send(part, 0, group=self._group)

    def _answer(self, fault: BaseException | None, item: Any) -> bool:
        """Tell the first process; whether any process met a fault."""
        faults = meet(self._group, fault is not None)
        dist.gather_object((as_sent(fault), item), None, 0, group=self._group)
        return faults > 0
