"""What several processes need to behave as one: rows gathered with their gradient, agreement, and seeds."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "alone",
    "any_rank",
    "derive_seed",
    "from_all_ranks",
    "gather_rare",
    "gather_rows",
    "rank",
    "sum_over_ranks",
    "world_size",
]

Item = TypeVar("Item")


_alone = False


def rank() -> int:
    """This process's number, 0 without torch.distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def world_size() -> int:
    """How many processes there are, 1 without torch.distributed."""
    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process does what one process would do: nothing here waits for the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that is a pure function of ``parts``; different parts give unrelated seeds.

    >>> derive_seed(0, "views", 7) == derive_seed(0, "views", 7) != derive_seed(0, "views", 8)
    True
    """
    digest = hashlib.sha256(
        "\0".join(f"{type(part).__name__}:{part}" for part in parts).encode(errors="backslashreplace")
    ).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        # Every rank computes the same loss of the same rows, so the gradient of this rank's rows is already here:
        # no second collective. DistributedDataParallel divides the sum over ranks by their number; this undoes it.
        (grad,) = grads
        share = grad.shape[1] // world_size()
        own = grad[:, rank() * share : (rank() + 1) * share] * world_size()
        return _NotAgain.apply(own) if torch.is_grad_enabled() else own


class _NotAgain(torch.autograd.Function):
    """A gradient of gathered rows. That of other ranks' gradients by this rank's rows stays with them."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        raise NotImplementedError(
            f"the gradient of rows gathered from {world_size()} processes cannot be differentiated again; take second "
            "derivatives by the gathered rows themselves, or in one process"
        )


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate ``x`` (V, B, ...) of all ranks along B, in rank order, with gradient: (V, world * B, ...).

    For a loss that every rank computes alike on the gathered rows, the parameters' gradients after
    DistributedDataParallel's mean are exactly those of one process holding the whole batch. Every rank must bring the
    same B. With one process it returns ``x`` itself. Of several, differentiating that gradient again raises
    NotImplementedError.
    """
    return x if world_size() == 1 else _GatherRows.apply(x)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank raises the flag; every rank gets the same answer. A collective: all ranks must call it."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def from_all_ranks(x: Tensor) -> Tensor:
    """``x`` of every rank, in rank order: (world, *x.shape), without gradient. A collective: all ranks must call it."""
    if world_size() == 1:
        return x[None]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of every rank's ``x``, on every rank, without gradient. A collective: all ranks must call it."""
    return from_all_ranks(x).sum(0)


def gather_rare(item: Item | None) -> list[Item]:
    """The items of those ranks that have one, in rank order; every rank gets the same list. A collective: all must call it.

    It is for what hardly ever happens, looked for at every step: the CPUs exchange a number, and no device is waited for.
    """
    if world_size() == 1:
        return [] if item is None else [item]
    group = dist.group.WORLD
    assert group is not None
    if dist.get_backend(group) != "gloo":
        group = _cpu_group(group)
    votes = torch.tensor([int(item is not None)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=group)
    if not votes.item():
        return []
    found: list[Item | None] = [None] * world_size()
    dist.all_gather_object(found, item, group=group)
    return [one for one in found if one is not None]


@lru_cache(maxsize=1)
def _cpu_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """The processes of ``world``, but speaking from CPU to CPU."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group
