"""The denominator of NT-Xent on several processes: each has its own rows against all, forward and backward.

With the symbols of `simclr.losses.ntxent.tiled`, L_i of a process's own rows i needs all z, and

    dz_k = 1/temperature sum_j E_kj (g_k / L_k + g_j / L_j) z_j

for its own rows k needs all z and the N numbers g_j / L_j. So nothing is added up over processes: z is gathered in the forward
pass, without a gradient, and these numbers in the backward pass. The positives are views of a process's own images. The tiles
of own rows with own rows are symmetric and visited once; those of own rows with others are another process's as well, which
visits them for its rows: at W processes that is between 1/W and 4/3 of 1/W of the products of one.

    V b D (W - 1) numbers received by a process, and V b (W - 1) in the backward pass
"""

from typing import Any

import torch
from torch import Tensor

from simclr.distributed import from_all_ranks
from simclr.losses.ntxent import tiled
from simclr.losses.ntxent.tiled import LARGEST_EXPONENT, Tiles, of_learned, tiled_gradient, tiled_sums, working_copy
from simclr.losses.share import Share
from simclr.numerics import float32_products

__all__ = ["own_negative_logsumexp"]


class OwnNegativeLogSumExp(torch.autograd.Function):
    """As `NegativeLogSumExp`, of this process's rows z (A, D) against those of all; every process calls it, and its backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, share: Share, coldest: float, room: int, learned: Tensor | None) -> Tensor:
        rows = working_copy(own_first(from_all_ranks(z.bfloat16() if share.narrow else z), share).to(z.dtype), coldest)
        tiles = Tiles(rows, share.views, coldest if learned is None else learned, own=len(z))
        with float32_products():
            total, ctx.kept = tiled_sums(tiles, room)
        ctx.save_for_backward(rows, total, learned)
        ctx.share, ctx.coldest, ctx.dtype = share, coldest, z.dtype
        return total.log().to(z.dtype)

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, Tensor | None]:
        rows, total, learned = ctx.saved_tensors
        weight = own_first(from_all_ranks(gradient / total), ctx.share)  # (N,)
        with float32_products():
            tiles = Tiles(rows, ctx.share.views, ctx.coldest if learned is None else learned, own=len(total))
            dz = tiled_gradient(tiles, weight, ctx.kept)
        of_temperature = None if learned is None else of_learned(rows[: len(total)], dz, learned)
        return dz.to(ctx.dtype), None, None, None, of_temperature


def own_first(parts: Tensor, share: Share) -> Tensor:
    """(W, A, ...) of every process as (W * A, ...), this one's rows first; those of others are compared in any order."""
    return parts.roll(-share.rank, 0).flatten(0, 1)


def own_negative_logsumexp(z: Tensor, share: Share, temperature: float | Tensor, coldest: float | None) -> Tensor:
    """log sum_k exp(z_i . z_k / temperature) over rows k of all processes' other images, for unit rows `z` (A, D) of this one.

    `temperature` and `coldest` are those of `negative_logsumexp`. A part of the loss, in `Share`'s sense: the gradient is that of
    the sum of all processes' losses, in z whole, in the temperature this process's part.
    """
    learned = temperature if isinstance(temperature, Tensor) else None
    if not isinstance(temperature, Tensor):
        coldest = temperature
    elif temperature.device.type == "cpu":
        coldest = float(temperature.detach())
    widest = torch.float32 if z.device.type == "mps" else torch.float64
    if coldest is None or 1 / coldest > LARGEST_EXPONENT[widest]:
        return dense_own_logsumexp(z, share, temperature)
    differentiated = torch.is_grad_enabled() and (z.requires_grad or (learned is not None and learned.requires_grad))
    room = tiled.KEPT_BYTES if differentiated else 0
    return OwnNegativeLogSumExp.apply(z, share, coldest, room, learned)


def dense_own_logsumexp(z: Tensor, share: Share, temperature: float | Tensor) -> Tensor:
    """The same through a matrix A x N, for any temperature."""
    others = share.all(z)
    image = torch.arange(len(others) // share.views, device=z.device).repeat(share.views)  # (N,)
    with float32_products():
        logits = (share.own(others) @ others.T) / temperature
    return logits.masked_fill(share.own(image)[:, None] == image, float("-inf")).logsumexp(dim=1)
