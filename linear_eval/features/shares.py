"""Rows that several processes have shares of, as one whole."""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

__all__ = ["gather_shares", "wait_for_all"]


def wait_for_all(world: int, device: torch.device) -> None:
    """Go on when all processes are here."""
    if world > 1:
        # Without its device NCCL guesses one, and warns.
        index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
        dist.barrier(device_ids=[index] if dist.get_backend() == "nccl" else None)


def gather_shares(
    x: Tensor | None, y: Tensor, share: Tensor, count: int, world: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The shares of all processes as one whole, in order. Shares differ by one row at most and are padded to equal."""
    device = device if dist.get_backend() == "nccl" else torch.device("cpu")
    width = torch.tensor(0 if x is None else x.shape[1], device=device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    longest = -(-count // world)

    def padded(t: Tensor) -> Tensor:
        return F.pad(t, (0, 0) * (t.ndim - 1) + (0, longest - len(t))).to(device)

    def gathered(t: Tensor) -> Tensor:
        parts = [torch.empty_like(t) for _ in range(world)]
        dist.all_gather(parts, t)
        # Process r holds images r, r + world, ...: stacked along dim 1 they are in order, and the padding is last.
        return torch.stack(parts, 1).flatten(0, 1)[:count].cpu()

    x = torch.zeros(0, int(width)) if x is None else x
    features, labels, index = (gathered(padded(part)) for part in (x, y, share))
    assert torch.equal(index, torch.arange(count)), "every image exactly once"
    return features, labels, index
