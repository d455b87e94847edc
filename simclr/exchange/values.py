"""Values of a JSON file, each looked at when it is taken: its type, its range, that it is finite."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from simclr.errors import CheckpointError, shown

__all__ = ["Values"]

_MISSING = object()


class Values:
    """The keys and values of ``file``, or of the part of it that ``part`` names.

    Every method takes a key and gives its value; without the key, ``otherwise`` where that is given.

    Raises:
        CheckpointError: in every method, no such key, or a value of another kind; the message names the file, the key, what
            stands there and what was expected.

    >>> Values(Path("encoder.json"), {"size": 0}).whole("size", 2, 4096)
    Traceback (most recent call last):
        ...
    simclr.errors.CheckpointError: encoder.json: size is 0; expected a whole number from 2 to 4096
    """

    def __init__(self, file: Path, content: Mapping[str, Any], part: str = "") -> None:
        self.file, self.content, self.part = file, content, part

    def fault(self, key: str, expected: str) -> CheckpointError:
        """The error that says that the value of ``key`` is not what was ``expected``."""
        given = shown(self.content[key]) if key in self.content else "missing"
        return CheckpointError(f"{self.file}: {self.part}{key} is {given}; expected {expected}")

    def whole(self, key: str, low: int, high: int, otherwise: Any = _MISSING) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._take(key, otherwise)
        if type(value) is not int or not low <= value <= high:
            raise self.fault(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number from ``low`` to ``high``."""
        value = self._take(key, _MISSING)
        if not _is_number(value) or not low <= value <= high:
            raise self.fault(key, f"a finite number from {low:g} to {high:g}")
        return float(value)

    def numbers(self, key: str, counts: Collection[int], low: float, high: float) -> tuple[float, ...] | None:
        """As many finite numbers as one of ``counts``, or None; without the key None."""
        value = self._take(key, None)
        if value is None:
            return None
        each = isinstance(value, list) and all(_is_number(one) and low <= one <= high for one in value)
        if not each or len(value) not in counts:
            many = " or ".join(map(str, sorted(set(counts))))
            raise self.fault(key, f"null, or {many} finite numbers from {low:g} to {high:g}")
        return tuple(map(float, value))

    def choice(self, key: str, known: Collection[Any], otherwise: Any = _MISSING) -> Any:
        """One of the ``known`` values, of the same type."""
        value = self._take(key, otherwise)
        if not any(type(value) is type(one) and value == one for one in known):
            raise self.fault(key, f"one of {', '.join(map(str, known))}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self._take(key, _MISSING)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.fault(key, "a list of texts")
        return tuple(value)

    def text(self, key: str) -> str:
        """A text."""
        value = self._take(key, _MISSING)
        if not isinstance(value, str):
            raise self.fault(key, "a text")
        return value

    def inner(self, key: str, otherwise: Any = _MISSING) -> "Values":
        """Keys and values of its own."""
        value = self._take(key, otherwise)
        if not isinstance(value, dict):
            raise self.fault(key, "keys and values")
        return Values(self.file, value, f"{self.part}{key}.")

    def _take(self, key: str, otherwise: Any) -> Any:
        if key not in self.content and otherwise is _MISSING:
            raise CheckpointError(f"{self.file} is damaged: it has no {self.part}{key}")
        return self.content.get(key, otherwise)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value)
