"""Features as other programs hold them: a pair of arrays, tensors or lists."""

from typing import Any

import torch

from linear_eval.features.extract import Features
from linear_eval.features.numbers import as_numbers, as_whole_numbers
from simclr.errors import DataError

__all__ = ["Pair", "as_features"]

Pair = tuple[Any, Any]
"""Features x (N, F) of any type of numbers and labels y (N,) of whole numbers: arrays, tensors or lists."""


def as_features(given: Any, name: str) -> Features:
    """Features, or a pair (x, y) of them: x (N, F) of any type of numbers, y (N,) whole numbers; arrays, tensors or lists.

    Raises:
        DataError: something else; the message says what was found in ``name``.
    """
    if isinstance(given, Features):
        return given
    if not isinstance(given, tuple | list) or len(given) != 2:
        found = f"{len(given)} values" if isinstance(given, tuple | list) else type(given).__name__
        raise DataError(
            f"the {name} set is {found}: expected what extract_features gives, or a pair (x, y) of features (N, F) and "
            "labels (N,)"
        )
    x, y = (
        as_numbers(part, f"{what} of the {name} set").cpu()
        for part, what in zip(given, ("features", "labels"), strict=True)
    )
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise DataError(
            f"features of the {name} set have the shape {tuple(x.shape)} and its labels {tuple(y.shape)}: expected (N, F) "
            "and (N,), a label for each row"
        )
    return Features(x, as_whole_numbers(y, f"labels of the {name} set", floats=True), torch.arange(len(x)))
