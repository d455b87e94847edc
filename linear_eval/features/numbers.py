"""Numbers as other programs hold them, as tensors: arrays, lists and tensors of any type."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr.errors import DataError

__all__ = ["Listed", "as_numbers", "as_whole_numbers"]

Listed = np.ndarray | Sequence[Any]
"""Numbers that are no tensor yet."""


def as_numbers(values: Any, what: str) -> Tensor:
    """``values``, called ``what`` in messages, as a tensor without gradient: one as it is, an array or a list on the CPU.

    Raises:
        DataError: no numbers.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            return torch.stack(list(values)).detach()
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype}")
        kind = np.int64 if array.dtype.kind in "biu" else np.float64 if array.dtype.itemsize > 4 else np.float32
        return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))  # in this machine's order of bytes
    except (TypeError, ValueError, RuntimeError) as error:
        example = f", such as {values[0]!r:.40}" if isinstance(values, Sequence) and len(values) else ""
        raise DataError(
            f"{what} are {type(values).__name__} of what is no number ({str(error).splitlines()[0]}){example}: expected "
            "numbers; number the classes first"
        ) from error


def as_whole_numbers(values: Any, what: str, floats: bool = False) -> Tensor:
    """``values`` as int64, where they are whole numbers of any type; with ``floats`` also those of a floating-point type.

    Raises:
        DataError: no numbers, or some that are not whole.
    """
    numbers = as_numbers(values, what)
    if numbers.dtype == torch.int64:
        return numbers
    if numbers.is_complex() or (numbers.is_floating_point() and not floats):
        raise DataError(f"{what} are {numbers.dtype}: expected int64, or other whole numbers; cast with .long()")
    if numbers.is_floating_point() and not torch.equal(numbers.round(), numbers):
        raise DataError(f"{what} are {numbers.dtype} with fractions: expected whole numbers, one a class")
    return numbers.long()
