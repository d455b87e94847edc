"""Features as other programs hold them: a pair of arrays, tensors or lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linear_eval.features.extract import Features
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
        _tensor(part, f"{what} of the {name} set") for part, what in zip(given, ("features", "labels"), strict=True)
    )
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise DataError(
            f"features of the {name} set have the shape {tuple(x.shape)} and its labels {tuple(y.shape)}: expected (N, F) "
            "and (N,), a label for each row"
        )
    whole = y if not y.is_floating_point() else y.round()
    if not torch.equal(whole, y):
        raise DataError(f"labels of the {name} set are {y.dtype} with fractions: expected whole numbers, one a class")
    return Features(x.float(), whole.long(), torch.arange(len(x)))


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype}")
        kind = np.int64 if array.dtype.kind in "biu" else np.float64 if array.dtype.itemsize > 4 else np.float32
        return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))  # in this machine's order of bytes
    except (TypeError, ValueError) as error:
        example = f", such as {values[0]!r:.40}" if isinstance(values, Sequence) and len(values) else ""
        raise DataError(
            f"{what} are {type(values).__name__} of what is no number ({str(error).splitlines()[0]}){example}: expected "
            "numbers; number the classes first"
        ) from error
