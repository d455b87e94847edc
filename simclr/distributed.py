"""What several processes need to behave as one: rows gathered with their gradient, sums, agreement, and seeds.

Each function with a gradient here says what it is of: of one loss that every process computes alike, or of the sum of what they
compute a part of each. `simclr.losses.share` is what puts them together.
"""

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
    "gather_parts",
    "gather_rare",
    "gather_rows",
    "gather_values",
    "largest_over_ranks",
    "rank",
    "scaled_for_mean",
    "sum_gradients",
    "sum_over_ranks",
    "sum_parts",
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
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, narrow: bool) -> Tensor:
        return gather_values(x, narrow)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        # Every rank computes the same loss of the same rows, so the gradient of this rank's rows is already here:
        # no second collective. DistributedDataParallel divides the sum over ranks by their number; this undoes it.
        (grad,) = grads
        share = grad.shape[1] // world_size()
        own = grad[:, rank() * share : (rank() + 1) * share] * world_size()
        return _NotAgain.where_asked(own), None


class _NotAgain(torch.autograd.Function):
    """A gradient of gathered rows. That of other ranks' gradients by this rank's rows stays with them."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @classmethod
    def where_asked(cls, x: Tensor) -> Tensor:
        """``x``, the gradient that a backward pass has found, which somebody may want to differentiate."""
        if not torch.is_grad_enabled():
            return x
        return cls.apply(x if x.requires_grad else x.detach().requires_grad_())

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        raise NotImplementedError(
            f"the gradient of rows gathered from {world_size()} processes cannot be differentiated again; take second "
            "derivatives by the gathered rows themselves, or in one process"
        )


def gather_values(x: Tensor, narrow: bool = False) -> Tensor:
    """``x`` (V, B, ...) of all ranks along B, in rank order, without gradient: (V, world * B, ...); ``narrow`` sends bfloat16."""
    if world_size() == 1:
        return x
    sent = x.bfloat16() if narrow and x.is_floating_point() else x
    return torch.cat(from_all_ranks(sent).unbind(), dim=1).to(x.dtype)


def gather_rows(x: Tensor, narrow: bool = False) -> Tensor:
    """Concatenate ``x`` (V, B, ...) of all ranks along B, in rank order, with gradient: (V, world * B, ...).

    For a loss that every rank computes alike on the gathered rows, the parameters' gradients after
    DistributedDataParallel's mean are exactly those of one process holding the whole batch. Every rank must bring the
    same B. With one process it returns ``x`` itself. Of several, differentiating that gradient again raises
    NotImplementedError. ``narrow`` sends floating point rows as bfloat16: half the bytes, and the loss is that of rounded
    rows, the process's own too.
    """
    return x if world_size() == 1 else _GatherRows.apply(x, narrow)


class _GatherParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, narrow: bool) -> Tensor:
        return gather_values(x, narrow)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        parts = [part.contiguous() for part in grads[0].chunk(world_size(), dim=1)]
        own = torch.empty_like(parts[0])
        try:
            dist.reduce_scatter(own, parts)
        except RuntimeError as error:  # older gloo
            if "support" not in str(error):
                raise
            every = torch.stack(parts)
            dist.all_reduce(every)
            own = every[rank()]
        return _NotAgain.where_asked(own), None


def gather_parts(x: Tensor, narrow: bool = False) -> Tensor:
    """As `gather_rows`, for a loss that is the sum of what every rank computes of it: the gradients of all ranks are added up.

    A collective in the backward pass too: all ranks must come to it, in the same order of such functions.
    """
    return x if world_size() == 1 else _GatherParts.apply(x, narrow)


class _SumParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        return _NotAgain.where_asked(grads[0])


def sum_parts(x: Tensor) -> Tensor:
    """The sum of every rank's ``x``, of which each goes on to compute the same: the gradient of the sum is that of ``x``."""
    return x if world_size() == 1 else _SumParts.apply(x)


class _SumGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        out = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return _NotAgain.where_asked(out)


def sum_gradients(x: Tensor) -> Tensor:
    """``x``, the same on every rank, for a part of the loss: its gradient is the sum of all ranks', which a collective takes."""
    return x if world_size() == 1 else _SumGradients.apply(x)


class _ScaledForMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        return _NotAgain.where_asked(grads[0] * world_size())


def scaled_for_mean(x: Tensor) -> Tensor:
    """``x``, whose gradient is multiplied by the number of ranks: DistributedDataParallel divides by it what it adds up."""
    return x if world_size() == 1 else _ScaledForMean.apply(x)


def largest_over_ranks(x: Tensor) -> Tensor:
    """The largest of every rank's ``x``, entry by entry, without gradient. A collective: all ranks must call it."""
    if world_size() == 1:
        return x.detach()
    out = x.detach().clone()
    dist.all_reduce(out, op=dist.ReduceOp.MAX)
    return out


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
