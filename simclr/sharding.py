"""Tensors of which each process holds some rows (DTensor, as FSDP2 has it): the own part, the whole, and norms of wholes.

With tensors that are whole in every process each function does what torch does, and sends nothing. With parts those that are
marked as collectives must be called by all processes, with the same tensors in the same order.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "cut",
    "fill",
    "first_row",
    "is_sharded",
    "local",
    "local_with_gradient",
    "norms",
    "on_host",
    "sharded_like",
    "whole",
]

_TOGETHER = "rows-together-"

AT_ONCE = 1 << 24
"""Numbers in a tensor up to which it is gathered by all processes at once."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of ``tensor``."""
    return hasattr(tensor, "to_local")  # to import the class takes half a second, and most runs have none


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` (N, ...) that this process holds, (n, ...) with n from 0 to N, in the same memory; no graph."""
    part: Any = tensor.detach() if is_sharded(tensor) else None
    return tensor if part is None else part.to_local()


def local_with_gradient(tensor: Any) -> Tensor:
    """As `local`, with a graph: the gradient of the part is this process's part of that of ``tensor``."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def first_row(tensor: Any) -> int:
    """The number in ``tensor`` of the first row of `local`, from 0 to N; 0 where it is whole."""
    if not is_sharded(tensor):
        return 0
    mesh = tensor.device_mesh
    return min(mesh.get_local_rank() * _share(len(tensor), mesh), len(tensor))


def cut(tensor: Tensor, device: torch.device, together: int = 1) -> Tensor:
    """Of ``tensor`` (N, ...), whole in every process, the rows of this one on ``device``: as many in each, fewer in the last.

    Nothing is sent, and only the own rows get to the device. ``together`` rows in turn, which divides N, are not torn apart.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    # What is computed of a DTensor keeps its mesh, whose name says what torch has no word for.
    mesh = init_device_mesh(device.type, (dist.get_world_size(),), mesh_dim_names=(f"{_TOGETHER}{together}",))
    stride = torch.empty(tensor.shape, device="meta").stride()
    own = _rows(tensor.detach(), mesh, mesh.get_local_rank()).to(device, copy=True).contiguous()
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=stride)


def _together(mesh: Any) -> int:
    """Rows that `cut` does not tear apart; FSDP has 1."""
    name = (mesh.mesh_dim_names or ("",))[0]
    return int(name.removeprefix(_TOGETHER)) if name.startswith(_TOGETHER) else 1


def _share(rows: int, mesh: Any) -> int:
    """The most rows of ``rows`` that a process holds: all but the last few do."""
    together = _together(mesh)
    return math.ceil(rows / together / mesh.size()) * together


def _rows(tensor: Tensor, mesh: Any, rank: int) -> Tensor:
    """Those of ``tensor`` (N, ...) that process ``rank`` of ``mesh`` holds."""
    share = _share(len(tensor), mesh)
    return tensor[min(rank * share, len(tensor)) : (rank + 1) * share]


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with the rows of all processes, in every one of them. A collective where it is sharded."""
    part: Any = tensor.detach() if is_sharded(tensor) else None
    if part is None:
        return tensor
    if _together(mesh := part.device_mesh) == 1:
        return part.full_tensor()
    own = part.to_local()
    padded = own.new_zeros(_share(len(part), mesh), *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(mesh.size())]
    dist.all_gather(parts, padded)
    return torch.cat(parts)[: len(part)]


@torch.no_grad()
def on_host(tensor: Any, keep: bool) -> Tensor | None:
    """A copy of the whole ``tensor`` on the CPU, for a process that is to ``keep`` it. A collective where it is sharded.

    Of a large one nobody has more than one other process's part at a time beside that copy.
    """
    if not is_sharded(tensor):
        return tensor.detach().to("cpu", copy=True) if keep else None
    if tensor.numel() < AT_ONCE:
        found = whole(tensor)
        return found.to("cpu", copy=True) if keep else None
    own, mesh = local(tensor), tensor.device_mesh
    out = torch.empty(tensor.shape if keep else (len(tensor), 0), dtype=own.dtype)
    for rank in range(mesh.size()):
        rows = _rows(out, mesh, rank)
        part = own.contiguous() if rank == mesh.get_local_rank() else own.new_empty(len(rows), *own.shape[1:])
        if len(rows):
            dist.broadcast(part, rank)
        if keep:
            rows.copy_(part)
    return out if keep else None


def sharded_like(value: Tensor, tensor: Any) -> Tensor:
    """The part of ``value``, whole in every process, that this one holds of ``tensor``; ``value`` itself where that is whole."""
    if not is_sharded(tensor):
        return value
    from torch.distributed.tensor import DTensor

    mesh = tensor.device_mesh
    own = _rows(value, mesh, mesh.get_local_rank()).to(local(tensor).device, copy=True)
    return DTensor.from_local(own, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


@torch.no_grad()
def fill(tensor: Any, value: Tensor) -> None:
    """Write ``value``, whole in every process, into ``tensor`` in place."""
    own = value
    if is_sharded(tensor):
        own = _rows(value, tensor.device_mesh, tensor.device_mesh.get_local_rank())
    local(tensor).copy_(own)


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
