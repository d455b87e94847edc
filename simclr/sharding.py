"""Tensors of which each process holds some rows (FSDP2's DTensor): the own part, the whole, and norms of wholes.

With tensors that are whole in every process each function does what torch does, and sends nothing. With parts those that are
marked as collectives must be called by all processes, with the same tensors in the same order.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["fill", "is_sharded", "local", "norms", "sharded_like", "whole"]


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of ``tensor``."""
    return hasattr(tensor, "to_local")  # to import the class takes half a second, and most runs have none


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` (N, ...) that this process holds, (n, ...) with n from 0 to N, in the same memory; no graph."""
    part: Any = tensor.detach() if is_sharded(tensor) else None
    return tensor if part is None else part.to_local()


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with the rows of all processes, in every one of them. A collective where it is sharded."""
    part: Any = tensor.detach() if is_sharded(tensor) else None
    return tensor if part is None else part.full_tensor()


def sharded_like(value: Tensor, tensor: Any) -> Tensor:
    """The part of ``value``, whole in every process, that this one holds of ``tensor``; ``value`` itself where that is whole."""
    if not is_sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    # Without a source nothing is sent: each process cuts its own rows.
    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Write ``value``, whole in every process, into ``tensor`` in place."""
    local(tensor).copy_(local(sharded_like(value, tensor)))


def norms(tensors: list[Tensor], cut: Sequence[bool]) -> Tensor:
    """(T,): the 2-norms of T whole tensors, the same in every process. A collective where any is cut.

    Args:
        tensors: what this process holds of them.
        cut: of each, whether that is a part.
    """
    found = torch.stack(torch._foreach_norm(tensors))
    if not any(cut):
        return found
    squares = found.double().square() if found.device.type != "mps" else found.square()
    parts = torch.tensor(cut, device=found.device)
    sums = torch.where(parts, squares, 0)
    dist.all_reduce(sums)
    return torch.where(parts, sums, squares).sqrt().to(found.dtype)
