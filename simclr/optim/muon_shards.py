"""Muon's orthogonal steps of matrices whose rows are shared out (FSDP2): each process orthogonalises some of them, whole."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["orthogonal_shards"]


def orthogonal_shards(
    shards: Sequence[Tensor], rows: Sequence[int], orthogonalise: Callable[[list[Tensor]], list[Tensor]]
) -> list[Tensor]:
    """The own rows of T matrices made orthogonal. A collective: two exchanges for all of them together.

    A matrix goes whole to one process, by the order of their cost to the one that has least to do; so a process computes about
    1 / W of the work of all, and holds about 1 / W of all matrices beside its own rows.

    Args:
        shards: this process's rows (n, C) of each matrix (N, C), as ``torch.chunk`` deals them out; n may be 0.
        rows: N of each.
        orthogonalise: matrices (N, C) to as many of the same shapes.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    columns = [shard.shape[1] for shard in shards]
    owner = _owners([n * c * min(n, c) for n, c in zip(rows, columns, strict=True)], world)
    of = [[number for number, one in enumerate(owner) if one == process] for process in range(world)]
    dealt = [_dealt(n, world) for n in rows]  # (T, W)

    def sizes(numbers: list[int], process: int) -> list[int]:
        return [dealt[number][process] * columns[number] for number in numbers]

    sent = torch.cat([shards[number].flatten() for numbers in of for number in numbers])
    mine = of[rank]
    here, away = [sum(sizes(mine, p)) for p in range(world)], [sum(sizes(numbers, rank)) for numbers in of]
    found = sent.new_empty(sum(here))
    dist.all_to_all_single(found, sent, here, away)
    pieces = [part.split(sizes(mine, p)) for p, part in enumerate(found.split(here))]
    whole = [torch.cat([part[place] for part in pieces]).view(rows[number], -1) for place, number in enumerate(mine)]
    done = [matrix.split(dealt[number]) for matrix, number in zip(orthogonalise(whole), mine, strict=True)]
    back = [parts[p].flatten() for p in range(world) for parts in done]
    result = torch.empty_like(sent)
    dist.all_to_all_single(result, torch.cat(back) if back else found, away, here)
    split = result.split([size for numbers in of for size in sizes(numbers, rank)])
    order = [number for numbers in of for number in numbers]
    own = dict(zip(order, split, strict=True))
    return [own[number].view(shard.shape) for number, shard in enumerate(shards)]


def _owners(costs: list[int], world: int) -> list[int]:
    """Which process takes each of the matrices, the dearest first to whoever has least.

    >>> _owners([5, 3, 3, 1], 2)
    [0, 1, 1, 0]
    """
    load, owner = [0] * world, [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        owner[number] = load.index(min(load))
        load[owner[number]] += costs[number]
    return owner


def _dealt(rows: int, world: int) -> list[int]:
    """How many rows each process holds.

    >>> _dealt(10, 4), _dealt(2, 3)
    ([3, 3, 3, 1], [1, 1, 0])
    """
    each = -(-rows // world)
    return [max(0, min(rows, each * (process + 1)) - each * process) for process in range(world)]
