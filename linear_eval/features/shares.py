"""Rows that several processes have shares of, as one whole."""

from collections.abc import Sequence

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
    x: Tensor | None, y: Tensor, shares: Sequence[tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features (N, F) and labels (N,) of all processes, in order; process r has the rows ``shares[r]``, first and end.

    ``x`` is None in a process without rows.
    """
    device = device if dist.get_backend() == "nccl" else torch.device("cpu")
    width = torch.tensor(0 if x is None else x.shape[1], device=device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    longest = max(stop - start for start, stop in shares)

    def gathered(t: Tensor) -> Tensor:
        padded = F.pad(t, (0, 0) * (t.ndim - 1) + (0, longest - len(t))).to(device)
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(parts, shares, strict=True)]).cpu()

    return gathered(torch.zeros(0, int(width)) if x is None else x), gathered(y)
