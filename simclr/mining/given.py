"""Labels and numbers as people hold them, as tensors: NumPy's arrays, lists, whole numbers of any size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Listed", "are_texts", "as_labels", "as_tensor"]

Listed = np.ndarray | Sequence[Any]
"""Numbers that are no tensor yet."""

_ARRAYS, _LISTS = (np.ndarray, np.generic), (list, tuple)
_WHOLE = (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def as_tensor(value: Any, device: torch.device | None = None) -> Any:
    """An array or a list as a tensor on ``device``; whatever else comes back as it is."""
    if isinstance(value, _ARRAYS):
        array = np.asarray(value)
        native = array.dtype.isnative or array.dtype.kind not in "iuf"
        return torch.as_tensor(array if native else array.astype(array.dtype.newbyteorder("=")), device=device)
    if isinstance(value, _LISTS) and value:
        if all(isinstance(one, Tensor) for one in value):
            return torch.stack(list(value))
        if all(isinstance(one, _ARRAYS) for one in value):
            return torch.as_tensor(np.stack(value), device=device)
        return torch.as_tensor(value, device=device)
    return value


def as_labels(value: Any, name: str = "labels", device: torch.device | None = None) -> Any:
    """Labels as int64 (N,), of any whole numbers: an array, a list, a tensor. Others come back for the caller's message.

    >>> as_labels(np.array([3, 1], dtype=np.int32)), as_labels([2, 7])
    (tensor([3, 1]), tensor([2, 7]))

    Raises:
        TypeError: words.
    """
    if are_texts(value):
        raise TypeError(
            f"{name} are texts; a loss takes numbers: classes = sorted(set({name})), torch.tensor([classes.index(one) for one in "
            f"{name}])"
        )
    value = as_tensor(value, device)
    return value.long() if isinstance(value, Tensor) and value.dtype in _WHOLE else value


def are_texts(value: Any) -> bool:
    """Whether an array or a list holds words."""
    words = isinstance(value, np.ndarray) and value.dtype.kind in "OSU"
    return words or (isinstance(value, _LISTS) and any(isinstance(one, str) for one in value))
