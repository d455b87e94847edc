"""How alike two embeddings are, computed in chunks so that memory grows with N and never with N^2.

Everything that ranks or compares embeddings here works on *scores*: larger is more alike. Scores are computed in
float64 and rounded to a grid far below the precision of float32 features, so that pairs which are equal on paper are
equal in the machine. A tie is then a tie on every machine, whatever the matrix product's blocking or thread count.

- ``cosine``: the score is the cosine of the angle, on a grid of 2**-31. A zero row has similarity 0 with every row.
- ``euclidean``: the score is minus the distance, rounded to float32. A distance below 4e-7 of the rows' norms (what
  float32 features can resolve) is 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from linear_eval.features.numbers import Listed, as_numbers
from simclr.errors import ConfigError, DataError
from simclr.progress import each

__all__ = [
    "CHUNK_BYTES",
    "COSINE_GRID",
    "Distance",
    "Embeddings",
    "block_scores",
    "class_sizes",
    "natural",
    "pair_cosines",
    "pair_scores",
    "prepare",
    "query_and_gallery",
    "rank_keys",
]

Distance = Literal["cosine", "euclidean"]

CHUNK_BYTES = 2**26
"""Size of one float64 block of scores. A handful of temporaries of this size exist at once."""

COSINE_GRID = 2.0**-31
GRID_ORIGIN = 1.5 * 2.0**21  # around it neighbouring float64 are one step of the grid apart
INDEX_BITS = 30


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Checked embeddings, ready to be compared."""

    rows: Tensor
    """(N, F) float64; of unit length for the cosine, except rows that are zero."""

    labels: Tensor
    """(N,) int64."""

    distance: Distance

    def __len__(self) -> int:
        return len(self.rows)

    def row_chunks(self, columns: int) -> Iterator[tuple[int, int]]:
        """Bounds of consecutive runs of rows whose scores against ``columns`` others fit in ``CHUNK_BYTES``."""
        step = max(1, CHUNK_BYTES // (8 * max(1, columns)))
        for start in each(range(0, len(self), step), "comparing", unit="parts"):
            yield start, min(start + step, len(self))


def prepare(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    distance: Distance = "cosine",
    name: str = "x",
) -> Embeddings:
    """Check embeddings ``x`` (N, F) and labels ``y`` (N,) integer, tensors, arrays or lists, and bring them into comparable form.

    Raises:
        DataError: an empty set, shapes that do not fit, labels that are not integers from 0 up, or rows with NaN or
            infinity.
        ConfigError: an unknown distance.
    """
    if distance not in get_args(Distance):
        raise ConfigError(f"unknown distance {distance!r}; expected one of {', '.join(get_args(Distance))}")
    x, y = as_numbers(x, name), as_numbers(y, f"the labels of {name}")
    if x.ndim != 2 or not x.is_floating_point():
        raise DataError(f"{name} must be a floating-point matrix (N, F), got {tuple(x.shape)} {x.dtype}")
    if y.ndim != 1 or y.is_floating_point() or y.is_complex():
        raise DataError(
            f"the labels of {name} must be integers (N,), got {tuple(y.shape)} {y.dtype}; cast with .long()"
        )
    if len(x) != len(y):
        raise DataError(f"{name} has {len(x)} rows but {len(y)} labels; every row needs exactly one")
    y = y.long()  # not every type of whole numbers compares
    if (y < 0).any():
        missing = int((y < 0).sum())
        raise DataError(
            f"{missing} of {len(y)} labels of {name} are below 0, which means no label: leave these rows out"
        )
    if x.numel() == 0:
        raise DataError(f"{name} is empty, shape {tuple(x.shape)}; there is nothing to score")
    bad = torch.nonzero(~torch.isfinite(x).all(dim=1)).flatten()
    if len(bad):
        shown = ", ".join(str(i) for i in bad[:8].tolist()) + (", ..." if len(bad) > 8 else "")
        raise DataError(
            f"{len(bad)} of {len(x)} rows of {name} are not finite: {shown}; look at the encoder or its inputs"
        )
    if x.device.type == "mps":  # has no float64
        x = x.cpu()
    if distance == "cosine":  # one copy, divided in place: 60,000 rows of raw pixels are 1.5 GB
        rows = x.to(torch.float64, copy=True)
        rows /= rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    else:
        rows = x.double()
    return Embeddings(rows=rows, labels=y.to(rows.device), distance=distance)


def query_and_gallery(
    x: Tensor | Listed,
    y: Tensor | Listed,
    gallery_x: Tensor | Listed | None,
    gallery_y: Tensor | Listed | None,
    distance: Distance,
) -> tuple[Embeddings, Embeddings]:
    """Both sides of a search, prepared; the same object twice where the queries search among themselves.

    Raises:
        DataError: as :func:`prepare`, or two sides of different width.
        ConfigError: an unknown distance, or half a gallery.
    """
    queries = prepare(x, y, distance)
    if gallery_x is None and gallery_y is None:
        return queries, queries
    if gallery_x is None or gallery_y is None:
        given, missing = ("gallery_y", "gallery_x") if gallery_x is None else ("gallery_x", "gallery_y")
        raise ConfigError(f"{given} was given without {missing}; give both, or neither to search among the queries")
    gallery = prepare(gallery_x, gallery_y, distance, name="gallery_x")
    if gallery.rows.shape[1] != queries.rows.shape[1]:
        raise DataError(
            f"queries have {queries.rows.shape[1]} features but the gallery has {gallery.rows.shape[1]}; "
            "both must come from one encoder"
        )
    return queries, gallery


def class_sizes(
    labels: Annotated[Tensor, "int64 Q"], gallery_labels: Annotated[Tensor, "int64 N"]
) -> Annotated[Tensor, "int64 Q"]:
    """How many gallery rows bear each of ``labels`` (N,): (N,) int64."""
    ordered = gallery_labels.sort().values
    return torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)


def block_scores(
    a: Annotated[Tensor, "float ... Q D"], b: Annotated[Tensor, "float ... N D"], distance: Distance
) -> Annotated[Tensor, "float ... Q N"]:
    """Scores of every row of ``a`` (..., A, F) with every row of ``b`` (..., B, F), both prepared: (..., A, B) float64."""
    scores = a @ b.mT  # (..., A, B)
    if distance == "cosine":
        return _on_grid(scores)
    lengths = _squared_norms(a)[..., :, None] + _squared_norms(b)[..., None, :]  # (..., A, B)
    return _minus_distance(scores.mul_(-2).add_(lengths), lengths)


def pair_scores(embeddings: Embeddings, pairs: Annotated[Tensor, "int64 P 2"]) -> Annotated[Tensor, "float P"]:
    """Scores of ``pairs`` (P, 2) int64 of row numbers: (P,) float64, equal to the entries of :func:`block_scores`."""
    a, b = embeddings.rows[pairs[:, 0]], embeddings.rows[pairs[:, 1]]  # (P, F) each
    if embeddings.distance == "cosine":
        return _on_grid((a * b).sum(1))
    return _minus_distance(_squared_norms(a - b), _squared_norms(a) + _squared_norms(b))


def pair_cosines(a: Annotated[Tensor, "float P D"], b: Annotated[Tensor, "float P D"]) -> Annotated[Tensor, "float P"]:
    """Cosines of rows ``a`` (P, F), prepared, with rows ``b`` (P, F) of any length: (P,) float64, see :func:`block_scores`."""
    b = b.double()
    b = b / b.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return _on_grid((a * b).sum(1))


def rank_keys(scores: Tensor, distance: Distance) -> Tensor:
    """Integers (Q, N) that sort like ``scores`` (Q, N), and among equal scores put the lower column first.

    All keys of a row differ, so the order of the largest is defined whatever algorithm selects them. ``scores`` is
    overwritten: a block of them is large, and is not needed twice.

    >>> scores = torch.tensor([[0.5, 0.9, 0.5, 0.9]], dtype=torch.float64)
    >>> rank_keys(scores, "cosine").topk(4).indices
    tensor([[1, 3, 0, 2]])
    """
    if distance == "cosine":
        keys = scores.add_(GRID_ORIGIN).view(torch.int64)  # around the origin a step of the grid is a step of the bits
        keys -= torch.tensor(GRID_ORIGIN, dtype=torch.float64).view(torch.int64).item()
    else:  # the bits of a non-negative float32 sort like its value
        keys = -scores.neg().float().abs_().view(torch.int32).to(torch.int64)
    columns = torch.arange(scores.shape[1], device=scores.device)
    return keys.bitwise_left_shift_(INDEX_BITS).add_((1 << INDEX_BITS) - 1 - columns)


def natural(score: float, distance: Distance) -> float:
    """A score in the unit a person expects: the cosine itself, or the euclidean distance. Its own inverse."""
    return score if distance == "cosine" else 0.0 - score


def _squared_norms(rows: Tensor) -> Tensor:
    return torch.einsum("...f,...f->...", rows, rows)  # without a second (N, F)


def _on_grid(cosines: Tensor) -> Tensor:
    # Rounds to the grid in two passes. What unit rows exceed 1 by is far below a step: nothing needs to be clamped.
    return cosines.add_(GRID_ORIGIN).sub_(GRID_ORIGIN)


def _minus_distance(squared: Tensor, lengths: Tensor) -> Tensor:
    # |a|^2 + |b|^2 - 2ab cancels for near duplicates: what is left below this bound is rounding.
    squared = torch.where(squared <= 1.6e-13 * lengths, 0.0, squared)
    return squared.sqrt_().float().double().neg_()
