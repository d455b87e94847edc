"""Numbers that no computer with float32 can train with, refused once for every field of every config."""

import dataclasses
import math
from typing import Any

from simclr.errors import require

__all__ = ["LARGEST", "check_numbers"]

LARGEST = 1e30
"""What any number of a config may be at most: its products with a batch's share, with another such number's root and with a
tensor's norm have to fit float32, which ends at 3.4e38."""

_LONGEST = 2**63 - 1
"""What a whole number may be at most: torch and the files have 64 bits for it."""


def check_numbers(config: Any, where: str = "") -> None:
    """Look at every number in a config dataclass, in tuples and in the configs that are its fields.

    Args:
        config: the dataclass.
        where: what stands in front of its fields' names in a message, such as ``optim.``.

    Raises:
        ConfigError: NaN, infinity, or a number beyond ``LARGEST``; it names the field.

    >>> @dataclasses.dataclass
    ... class Knobs:
    ...     betas: tuple[float, float] = (0.9, math.nan)
    >>> check_numbers(Knobs(), "optim.")
    Traceback (most recent call last):
        ...
    simclr.errors.ConfigError: optim.betas is (0.9, nan); it must be finite, and between -1e+30 and 1e+30
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{where}{field.name}.")
            continue
        for number in _flat(value):
            if isinstance(number, float):
                fits = math.isfinite(number) and abs(number) <= LARGEST
                require(fits, f"{where}{field.name}", value, f"finite, and between -{LARGEST:g} and {LARGEST:g}")
            else:
                require(abs(number) <= _LONGEST, f"{where}{field.name}", value, f"at most {_LONGEST}")


def _flat(value: Any) -> list[float | int]:
    if isinstance(value, tuple | list):
        return [number for one in value for number in _flat(one)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
