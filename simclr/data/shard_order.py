"""The order of images that lie in shards: read from a few places at a time, forwards, and yet mixed; a function of (seed, step).

What a stream gets from a shuffle buffer has a state that a stopped run would lose, and that depends on how many processes and
workers share it. Here the same is drawn at once, for the whole epoch: pieces of shards are dealt to lanes, lanes are read side by
side, and every image is moved by up to half a window.
"""

import torch
from torch import Tensor

from simclr.data.image_set import ImageSet
from simclr.data.packed.shards import Shards
from simclr.data.places import Chosen
from simclr.data.rows import StoredRows
from simclr.distributed import derive_seed

__all__ = ["LANES", "WINDOW", "pieces_of", "shard_order", "shards_of"]

LANES = 32
"""Places that are read from at a time."""

WINDOW = 16_384
"""Images among which one is moved: what a shuffle buffer would hold."""

_PIECES = 256
"""Fewer shards than this are cut into pieces, so that the epochs of a few large shards differ in more than their windows."""


def shards_of(images: ImageSet) -> Tensor | None:
    """The number of each image's shard, int64 (N,), or None where they are in none."""
    rows, numbers = images.rows, None
    if isinstance(rows, Chosen):
        numbers, rows = rows.rows, rows.items
    if not isinstance(rows, StoredRows) or not isinstance(rows.store, Shards):
        return None
    shard = torch.from_numpy(rows.store.shard.astype("int64"))
    return shard if numbers is None else shard[numbers]


def shard_order(piece: Tensor, seed: int, epoch: int, lanes: int = LANES, window: int = WINDOW) -> Tensor:
    """A permutation of the images, int64 (N,), whose ``piece`` (N,) is numbered 0 to P - 1 without gaps.

    >>> order = shard_order(torch.arange(4).repeat_interleave(3), seed=0, epoch=0, lanes=2, window=0)
    >>> sorted(order.tolist()) == list(range(12)), order[::2].diff()[:2].tolist(), order[1::2].diff()[:2].tolist()
    (True, [1, 1], [1, 1])
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "shard order", epoch))
    counts = torch.bincount(piece)
    pieces = len(counts)
    turn = torch.randperm(pieces, generator=generator)
    lanes = min(lanes, pieces)
    start, lane_of = torch.empty_like(counts), torch.empty_like(counts)
    length = torch.zeros(lanes, dtype=torch.int64)
    for lane in range(lanes):
        mine = turn[lane::lanes]
        ends = counts[mine].cumsum(0)
        start[mine], lane_of[mine] = ends - counts[mine], lane
        length[lane] = ends[-1]
    # Lanes of any length end together.
    at = (start[piece] + _places(piece, counts) + 0.5).double() / length[lane_of[piece]] * len(piece)
    moved = torch.rand(len(piece), generator=generator, dtype=torch.float64) - 0.5
    return (at + moved * window).argsort(stable=True)


def pieces_of(shard: Tensor) -> Tensor:
    """Which piece of a shard each image is in, int64 (N,), from 0 without gaps; ``shard`` (N,) is the number of its shard.

    >>> pieces_of(torch.tensor([3, 3, 3, 9])).tolist()
    [0, 1, 2, 3]
    """
    shards, number, counts = shard.unique(return_inverse=True, return_counts=True)
    cuts = -(-_PIECES // len(shards))
    return (number * cuts + _places(number, counts) * cuts // counts[number]).unique(return_inverse=True)[1]


def _places(number: Tensor, counts: Tensor) -> Tensor:
    """The place of each image among those of its ``number`` (N,), in the order of the set."""
    order = number.argsort(stable=True)
    places = torch.empty_like(number)
    places[order] = torch.arange(len(number)) - (counts.cumsum(0) - counts)[number[order]]
    return places
