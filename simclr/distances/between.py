"""Distances between embeddings that stay right where the textbook expansion does not.

    >>> import torch
    >>> from simclr.distances import pairwise_distance
    >>> pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]])

``|x|^2 + |y|^2 - 2 x.y`` in float32 leaves no digit of a distance below 3e-4 (on unit vectors). Here that expansion is
evaluated in float64, where products of two float32 numbers are exact: it keeps the speed of a matrix product, and is
right down to a millionth of the norm. Rows that agree to about 1e-7 of their norm are the same point: their distance
is exactly 0, and so is its (sub)gradient. Nothing of size N x N x D is ever formed.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from simclr.distances.matrices import euclidean, manhattan, unit_cosine
from simclr.errors import ConfigError
from simclr.numerics import full_precision, l2_normalize, safe_sqrt, squares_fit, widened

__all__ = ["DistanceName", "check_distance", "paired_distance", "pairwise_distance"]

DistanceName = Literal["euclidean", "squared", "manhattan", "cosine"]
"""``euclidean`` |x - y|, ``squared`` |x - y|^2, ``manhattan`` sum |x_d - y_d|, ``cosine`` 1 - cos(x, y), in [0, 2]."""


def check_distance(name: str) -> None:
    """Raise `ConfigError` unless ``name`` is one of `DistanceName`."""
    if name not in get_args(DistanceName):
        raise ConfigError(f"unknown distance {name!r}; expected one of {', '.join(get_args(DistanceName))}")


def paired_distance(x: Tensor, y: Tensor, kind: DistanceName = "euclidean", *, unit: bool = False) -> Tensor:
    """Distance between ``x`` (..., D) and ``y`` (..., D), row by row with broadcasting: (...), float32 or float64.

    Computed from the differences. A zero vector has cosine distance 1 to everything. ``unit``: the rows are known to have
    length 1, so that nobody has to look whether their squares fit into float32.
    """
    check_distance(kind)
    with torch.autocast(x.device.type, enabled=False):
        x, y = full_precision(x), full_precision(y)
        if kind == "cosine":
            empty = (x == 0).all(-1).to(x.dtype) + (y == 0).all(-1).to(x.dtype)
            return ((l2_normalize(x) - l2_normalize(y)).square().sum(-1) + empty) / 2
        difference = x - y
        if kind == "manhattan":
            return difference.abs().sum(-1)
        if kind == "squared":
            return difference.square().sum(-1)
        wide = difference if unit or squares_fit(x, y) else widened(difference)
        return safe_sqrt(wide.square().sum(-1)).to(difference.dtype)


def pairwise_distance(x: Tensor, y: Tensor | None = None, kind: DistanceName = "euclidean") -> Tensor:
    """Distance of every row of ``x`` (N, D) to every row of ``y`` (M, D), or of ``x`` itself: (N, M).

    float32 inside and out (float64 stays float64) whatever the autocast type; differentiable in ``x`` and ``y`` as often
    as you like and in forward mode, with a zero gradient where the distance is zero. Memory is the result plus a few
    rows of it, and some matrices of its size where a gradient is made to be differentiated again.

    Raises `ConfigError` for an unknown ``kind`` and `ValueError` for shapes that do not fit.
    """
    check_distance(kind)
    if x.ndim != 2 or (y is not None and (y.ndim != 2 or y.shape[1] != x.shape[1])):
        given = tuple(x.shape) if y is None else (tuple(x.shape), tuple(y.shape))
        raise ValueError(f"pairwise_distance needs rows x (N, D) and y (M, D), got {given}")
    with torch.autocast(x.device.type, enabled=False):
        x = full_precision(x)
        y = None if y is None else full_precision(y)
        if kind == "manhattan":
            return manhattan(x, y)
        if kind == "cosine":
            return unit_cosine(l2_normalize(widened(x)), None if y is None else l2_normalize(widened(y)), x.dtype)
        return euclidean(x, y, kind == "squared")
