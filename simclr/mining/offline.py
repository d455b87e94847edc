"""Offline mining: hard triplets of a large subset, embedded once with the latest weights."""

from typing import Literal, get_args

import torch
from torch import Tensor

from simclr.distances import DistanceName, pairwise_distance
from simclr.errors import ConfigError
from simclr.mining.given import as_labels, as_tensor
from simclr.mining.hardest import hard, semi_hard
from simclr.mining.tuples import check_labels
from simclr.numerics import full_precision, l2_normalize, row_chunks

__all__ = ["OfflineStrategy", "offline_triplets"]

OfflineStrategy = Literal["hard", "semi-hard"]
"""``hard``: argmax and argmin over the subset. ``semi-hard``: the nearest negative beyond each positive."""


def offline_triplets(
    z: Tensor,
    labels: Tensor,
    *,
    seed: int,
    strategy: OfflineStrategy = "semi-hard",
    margin: float = 0.2,
    distance: DistanceName = "euclidean",
    normalize: bool = True,
    per_anchor: int = 1,
    limit: int | None = None,
) -> Tensor:
    """Triplets (anchor, positive, negative) of an embedded subset ``z`` (N, D) with ``labels`` (N,): (T, 3) int64.

    Schroff et al. 2015, section 3.2: every few epochs the argmin and argmax over a subset, with the latest weights.
    Only triplets inside the margin (d_an < d_ap + ``margin``) come back: the others have nothing to teach. ``hard``
    gives at most one an anchor, ``semi-hard`` at most ``per_anchor`` of its positives, drawn by ``seed``. They come in
    an order drawn by ``seed``, at most ``limit`` of them: a pure function of its arguments, so that a resumed run that
    embeds with the same weights trains on the same triplets. Distances are formed a block of rows at a time: memory
    grows with N, not with N^2.

    Raises `ConfigError` for an unknown strategy or a count below 1, `ValueError` for embeddings that are not finite.
    """
    if strategy not in get_args(OfflineStrategy):
        raise ConfigError(f"unknown strategy {strategy!r}; expected one of {', '.join(get_args(OfflineStrategy))}")
    if per_anchor < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"per_anchor and limit must be at least 1, got {per_anchor} and {limit}")
    z = as_tensor(z)
    labels = as_labels(labels, device=z.device)
    check_labels(labels, len(z))
    z = full_precision(z.detach())
    if not bool(torch.isfinite(z).all()):
        broken = (~torch.isfinite(z).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"embeddings that are not finite in {len(broken)} rows, the first of them {broken[:8]}")
    z = l2_normalize(z) if normalize else z
    generator = torch.Generator().manual_seed(seed)
    found = [torch.empty(0, 3, dtype=torch.int64, device=z.device)]
    for rows in row_chunks(len(z), len(z), z.device):
        anchors = torch.arange(rows.start, rows.stop, device=z.device)
        distances = pairwise_distance(z[rows], z, distance)
        if strategy == "hard":
            triplets = hard(distances, labels, anchors=anchors)
        else:
            triplets = semi_hard(distances, labels, margin, "skip", anchors=anchors)
            priority = torch.rand(triplets.valid.shape, generator=generator).to(z.device)
            priority = priority.masked_fill(~triplets.valid, -1)
            rank = priority.argsort(stable=True, dim=1, descending=True).argsort(1)
            triplets = triplets._replace(valid=triplets.valid & (rank < per_anchor))
        inside = distances.gather(1, triplets.negative) < distances.gather(1, triplets.positive) + margin
        found.append(triplets._replace(valid=triplets.valid & inside).indices(anchors))
    every = torch.cat(found)
    order = torch.randperm(len(every), generator=generator).to(z.device)
    return every[order[:limit]]
