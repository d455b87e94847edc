"""The denominator of NT-Xent: logsumexp over the rows of other images, in memory linear in N.

With s_ik = z_i . z_k / temperature for unit rows and E_ik = exp(s_ik), 0 where i and k show the same image:

    L_i = sum_k E_ik,    out_i = log L_i,    dz_k = 1/temperature sum_j E_kj (g_k / L_k + g_j / L_j) z_j

for an incoming gradient g. E is symmetric, so that only the tiles on and above its diagonal are visited. The backward
pass needs all sums of the forward pass before its first tile, so each tile is either kept until then (up to
`KEPT_BYTES` in total, so that nothing is computed twice at moderate N) or computed again (beyond that, memory grows
with N * D).

Rows longer by a factor a are a temperature lower by a^2. So the gradient of the temperature, the sum of
-g_i E_ik s_ik / (temperature L_i), is -1/(2 temperature) sum_k z_k . dz_k: it needs no tile of its own.

The exponentials carry no shift by a row's maximum, which is what lets one tile serve its rows and its columns alike.
|s| <= 1/temperature keeps them inside the range of the type: float32 down to temperature 1/50, float64 down to 1/600.
Temperatures between the two are computed in float64: there the rounding of a float32 similarity, 3e-8 / temperature,
would cost more than a millionth of the gradient. Anything smaller takes the dense form, an N x N matrix. A temperature
that is a tensor on a device is not waited for: what is known of it beforehand, the coldest that it can be, decides.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simclr.numerics import float32_products, in_forward_mode, in_transform

__all__ = ["dense_negative_logsumexp", "negative_logsumexp"]

KEPT_BYTES = 160 * 2**20
"""Tiles kept from the forward to the backward pass: all of them up to 4,096 pairs."""


TILE_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows and columns of a tile: on the CPU it shall stay in the cache, on a GPU it shall fill the device."""


LARGEST_EXPONENT = {torch.float32: 50.0, torch.float64: 600.0}
"""Bound on 1/temperature: exp and its inverse, times N and the gradient, stay normal numbers of the type."""


class Block(NamedTuple):
    """Consecutive rows of z: a range of images of one view, or all images of several views."""

    start: int
    rows: int
    views: int
    images: tuple[int, int]
    """First image and number of images: blocks with the same pair hold views of the same images."""

    def of(self, tensor: Tensor) -> Tensor:
        """These rows of `tensor`, without a copy."""
        return tensor.narrow(0, self.start, self.rows)


def row_blocks(num_views: int, batch: int, limit: int) -> list[Block]:
    """Cut V * B rows into blocks of nearly equal size, at most `limit` rows each.

    >>> [(b.start, b.rows, b.images) for b in row_blocks(num_views=2, batch=6, limit=4)]
    [(0, 3, (0, 3)), (3, 3, (3, 3)), (6, 3, (0, 3)), (9, 3, (3, 3))]
    >>> [(b.start, b.rows, b.images) for b in row_blocks(num_views=4, batch=2, limit=5)]
    [(0, 4, (0, 2)), (4, 4, (0, 2))]
    """
    if batch <= limit:
        views = even_size(num_views, limit // batch)
        sizes = [(v, min(views, num_views - v)) for v in range(0, num_views, views)]
        return [Block(v * batch, n * batch, n, (0, batch)) for v, n in sizes]
    size = even_size(batch, limit)
    ranges = [(first, min(size, batch - first)) for first in range(0, batch, size)]
    return [Block(v * batch + first, n, 1, (first, n)) for v in range(num_views) for first, n in ranges]


def even_size(count: int, limit: int) -> int:
    """The size that cuts `count` into the fewest pieces of at most `limit`, the pieces as equal as can be."""
    return math.ceil(count / math.ceil(count / limit))


class Tiles:
    """E of `z` (N, D), tile by tile, on and above the diagonal.

    With `own` rows, which are views of the same images, the others show other images and are columns alone: E of the first
    `own` rows with all.
    """

    def __init__(self, z: Tensor, num_views: int, temperature: float | Tensor, own: int | None = None) -> None:
        limit = TILE_ROWS.get(z.device.type, TILE_ROWS["cuda"])
        temperature = temperature.to(z.dtype) if isinstance(temperature, Tensor) else temperature
        self.z, self.temperature, self.own = z, temperature, len(z) if own is None else own
        self.scaled = z[: self.own] * (math.log2(math.e) / temperature)
        self.blocks = row_blocks(num_views, self.own // num_views, limit)
        self.both = len(self.blocks)  # so many are rows and columns
        if self.own < len(z):
            others = row_blocks(1, len(z) - self.own, limit)
            self.blocks += [Block(self.own + one.start, one.rows, 1, (-1, 0)) for one in others]
        self.pairs = [(i, j) for i in range(self.both) for j in range(i, len(self.blocks))]
        self.largest = max(block.rows for block in self.blocks) ** 2

    def size(self, i: int, j: int) -> int:
        """Number of elements of tile (i, j)."""
        return self.blocks[i].rows * self.blocks[j].rows

    def compute(self, i: int, j: int, out: Tensor, total: Tensor | None = None) -> Tensor:
        """Tile (i, j), written over the start of the flat buffer `out`; its sums are added to `total` (N,)."""
        rows, columns = self.blocks[i], self.blocks[j]
        tile = out[: self.size(i, j)].view(rows.rows, columns.rows)
        torch.mm(rows.of(self.scaled), columns.of(self.z).T, out=tile)
        images = rows.images[1] if rows.images == columns.images else 0
        tile.exp2_()  # on the CPU four times as fast as exp
        if images:
            tile.view(rows.views, images, columns.views, images).diagonal(dim1=1, dim2=3).zero_()
        if total is not None:
            rows.of(total).add_(tile.sum(dim=1))
            if i != j < self.both:
                columns.of(total).add_(tile.sum(dim=0))
        return tile


def tiled_sums(tiles: Tiles, room: int) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
    """L of the own rows, and as many tiles as fit into `room` bytes."""
    kept: dict[tuple[int, int], Tensor] = {}
    scratch: Tensor | None = None
    total = tiles.z.new_zeros(tiles.own)
    for i, j in tiles.pairs:
        room -= tiles.size(i, j) * tiles.z.element_size()
        if room >= 0:
            kept[i, j] = tiles.compute(i, j, out=tiles.z.new_empty(tiles.size(i, j)), total=total)
        else:
            scratch = tiles.z.new_empty(tiles.largest) if scratch is None else scratch
            tiles.compute(i, j, out=scratch, total=total)
    return total, kept


def tiled_gradient(tiles: Tiles, weight: Tensor, kept: dict[tuple[int, int], Tensor]) -> Tensor:
    """dz of the own rows for `weight` = g / L (N,) of all. Uses up the tiles in `kept`, which it overwrites."""
    dz = torch.zeros_like(tiles.z[: tiles.own])
    scratch: Tensor | None = None
    factors: Tensor | None = None
    for i, j in tiles.pairs:
        rows, columns = tiles.blocks[i], tiles.blocks[j]
        tile = kept.pop((i, j), None)
        if tile is None:
            scratch = tiles.z.new_empty(tiles.largest) if scratch is None else scratch
            tile = tiles.compute(i, j, out=scratch)
        factors = tiles.z.new_empty(tiles.largest) if factors is None else factors
        factor = factors[: tiles.size(i, j)].view(tile.shape)
        tile.mul_(torch.add(rows.of(weight)[:, None], columns.of(weight)[None, :], out=factor))
        rows.of(dz).addmm_(tile, columns.of(tiles.z))
        if i != j < tiles.both:
            columns.of(dz).addmm_(tile.T, rows.of(tiles.z))
    return dz.mul_(1 / tiles.temperature)


class NegativeLogSumExp(torch.autograd.Function):
    """z (N, D) and a temperature to log L (N,), with the backward pass of the module's docstring.

    The temperature is the number `coldest`, or the tensor `learned`, which is no lower than that.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, num_views: int, coldest: float, room: int, learned: Tensor | None) -> Tensor:
        tiles = Tiles(working_copy(z, coldest), num_views, coldest if learned is None else learned)
        with float32_products():
            total, ctx.kept = tiled_sums(tiles, room)
        ctx.save_for_backward(z, total, learned)
        ctx.num_views, ctx.coldest = num_views, coldest
        return total.log().to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, Tensor | None]:
        z, total, learned = ctx.saved_tensors
        temperature = ctx.coldest if learned is None else learned
        if torch.is_grad_enabled():  # create_graph=True: someone differentiates twice, which the dense form can
            needed = ctx.needs_input_grad[0], ctx.needs_input_grad[4]
            z = z.view_as(z)  # an end of its own, should z depend on the temperature
            temperature = temperature if learned is None else learned.view_as(learned)
            out = dense_negative_logsumexp(z.to(total.dtype), ctx.num_views, temperature).to(z.dtype)
            asked = [x for x, one in zip((z, temperature), needed, strict=True) if one]
            found = iter(torch.autograd.grad(out, asked, gradient, create_graph=True))
            of_z, of_temperature = (next(found) if one else None for one in needed)
            return of_z, None, None, None, of_temperature
        weight = torch.where(total == 0, 0.0, gradient / total)  # one image alone has an empty sum
        with float32_products():
            tiles = Tiles(z.to(total.dtype).contiguous(), ctx.num_views, temperature)
            dz = tiled_gradient(tiles, weight, ctx.kept)
        of_temperature = None if learned is None else of_learned(tiles.z, dz, learned)
        return dz.to(z.dtype), None, None, None, of_temperature


def of_learned(z: Tensor, dz: Tensor, temperature: Tensor) -> Tensor:
    """The gradient of the temperature, given that of z."""
    return ((z * dz).sum() / (-2 * temperature)).to(temperature.dtype)


def working_copy(z: Tensor, temperature: float) -> Tensor:
    """`z` in the type that its exponentials fit."""
    return z.double() if 1 / temperature > LARGEST_EXPONENT[z.dtype] else z.contiguous()


def dense_negative_logsumexp(z: Tensor, num_views: int, temperature: float | Tensor) -> Tensor:
    """The same as `negative_logsumexp` through one N x N matrix: for any temperature, differentiable twice."""
    image = torch.arange(len(z) // num_views, device=z.device).repeat(num_views)  # (N,)
    with float32_products():
        logits = (z @ z.T) / temperature
    return logits.masked_fill(image[:, None] == image[None, :], float("-inf")).logsumexp(dim=1)


@torch.library.custom_op("simclr::negative_logsumexp", mutates_args=())
def compiled_sums(z: Tensor, num_views: int, coldest: float, learned: Tensor | None) -> tuple[Tensor, Tensor]:
    """log L (N,) and L (N,) as one operation of a compiled program, which a compiler would not speed up inside."""
    tiles = Tiles(working_copy(z, coldest), num_views, coldest if learned is None else learned)
    with float32_products():
        total, _ = tiled_sums(tiles, 0)
    return total.log().to(z.dtype), total


@torch.library.custom_op("simclr::negative_logsumexp_gradient", mutates_args=())
def compiled_gradient(
    z: Tensor, total: Tensor, gradient: Tensor, num_views: int, coldest: float, learned: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dz (N, D) for a gradient of log L (N,), and the gradient of the temperature, 0 where none is learned."""
    weight = torch.where(total == 0, 0.0, gradient / total)
    with float32_products():
        tiles = Tiles(z.to(total.dtype).contiguous(), num_views, coldest if learned is None else learned)
        dz = tiled_gradient(tiles, weight, {})
    return dz.to(z.dtype), z.new_zeros(()) if learned is None else of_learned(tiles.z, dz, learned)


@compiled_sums.register_fake
def _(z: Tensor, num_views: int, coldest: float, learned: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = 1 / coldest > LARGEST_EXPONENT[z.dtype]
    return z.new_empty(len(z)), z.new_empty(len(z), dtype=torch.float64 if wide else z.dtype)


@compiled_gradient.register_fake
def _(
    z: Tensor, total: Tensor, gradient: Tensor, num_views: int, coldest: float, learned: Tensor | None
) -> tuple[Tensor, Tensor]:
    of_temperature = z.new_empty(()) if learned is None else torch.empty_like(learned)
    return torch.empty_like(z, memory_format=torch.contiguous_format), of_temperature


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z, ctx.num_views, ctx.coldest, learned = inputs
    ctx.save_for_backward(z, output[1], learned)


def _back(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
    z, total, learned = ctx.saved_tensors
    dz, of_temperature = compiled_gradient(z, total, gradient, ctx.num_views, ctx.coldest, learned)
    return dz, None, None, None if learned is None else of_temperature


compiled_sums.register_autograd(_back, setup_context=_keep)


def negative_logsumexp(z: Tensor, num_views: int, temperature: float | Tensor, coldest: float | None = None) -> Tensor:
    """log sum_k exp(z_i . z_k / temperature) over the rows k of other images, (N,), for unit rows `z` (N, D).

    Row v * B + b of z is view v of image b, N = V * B, float32 or float64. With one image alone the sum is empty and
    the result -inf. A `temperature` in a tensor, 0-dim of z's type and device, gets its gradient; `coldest` is the
    lowest that it can be, for where it cannot be looked at: without it that takes the dense form.

    >>> negative_logsumexp(torch.eye(3).repeat(2, 1), num_views=2, temperature=0.5)  # log 4
    tensor([1.3863, 1.3863, 1.3863, 1.3863, 1.3863, 1.3863])
    """
    learned = temperature if isinstance(temperature, Tensor) else None
    compiling, transformed = torch.compiler.is_compiling(), in_transform() or in_forward_mode()
    if not isinstance(temperature, Tensor):
        coldest = temperature
    elif temperature.device.type == "cpu" and not compiling and not transformed:
        coldest = float(temperature.detach())
    widest = torch.float32 if z.device.type == "mps" else torch.float64  # MPS has no float64
    if transformed or coldest is None or 1 / coldest > LARGEST_EXPONENT[widest]:
        return dense_negative_logsumexp(z, num_views, temperature)
    if compiling:
        out: Tensor = compiled_sums(z, num_views, coldest, learned)[0]
        return out
    differentiated = z.requires_grad or (learned is not None and learned.requires_grad)
    room = KEPT_BYTES if differentiated and torch.is_grad_enabled() else 0
    return NegativeLogSumExp.apply(z, num_views, coldest, room, learned)
