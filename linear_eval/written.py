"""Results as frozen dataclasses that are written as JSON, and read back with one check and one message."""

from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from simclr.commands import command
from simclr.errors import CheckpointError, shown

__all__ = ["LEFT_OUT", "Written"]


LEFT_OUT = {"left_out": True}
"""Metadata of a field that has no key in what is written where it is None."""


@dataclass(frozen=True)
class Written:
    """Base of what goes into a result's file: its fields are the keys, in their order.

    A field that has a default is one that a file written before may lack.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found: dict[str, Any] = _plain(self)
        return found

    @classmethod
    def from_dict(cls, content: object, where: str) -> Self:
        """What ``to_dict`` gave; keys that this class does not know are passed over.

        Raises:
            CheckpointError: a key is missing or holds another kind of value; it names ``where`` and the key.
        """
        try:
            made: Self = _parsed(cls, content, "")
        except _UnlikeError as error:
            raise CheckpointError(
                f"{where} is not as this version writes it: {error}; score the run again with {command('evaluate')}"
            ) from error
        return made


class _UnlikeError(Exception):
    """Which key is not as it should be, in words."""


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        found = ((one, getattr(value, one.name)) for one in fields(value))
        return {one.name: _plain(held) for one, held in found if held is not None or "left_out" not in one.metadata}
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    return [_plain(held) for held in value] if isinstance(value, tuple | list) else value


def _parsed(kind: Any, value: Any, key: str) -> Any:
    """``value`` as the type ``kind``: a dataclass, dict, tuple, Literal, union with None, or a plain type."""
    if kind is Any:
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (other,) = (one for one in inner if one is not NoneType)
        return None if value is None else _parsed(other, value, key)
    if is_dataclass(kind) and isinstance(kind, type):
        _expect(isinstance(value, dict), key, value, "keys and values")
        hints = get_type_hints(kind)
        below = f"{key}." if key else ""
        present = [one for one in fields(kind) if one.name in value or not _has_default(one, below)]
        return kind(**{one.name: _parsed(hints[one.name], value[one.name], below + one.name) for one in present})
    if origin is dict:
        _expect(isinstance(value, dict), key, value, "keys and values")
        return {name: _parsed(inner[1], held, f"{key}.{name}") for name, held in value.items()}
    if origin is tuple:
        _expect(isinstance(value, list | tuple), key, value, "a list")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        _expect(len(kinds) == len(value), key, value, f"{len(kinds)} values")
        return tuple(_parsed(one, held, f"{key}[{i}]") for i, (one, held) in enumerate(zip(kinds, value, strict=True)))
    if origin is Literal:
        _expect(value in inner, key, value, " or ".join(map(str, inner)))
        return value
    number = kind in (int, float) and isinstance(value, int if kind is int else int | float)
    _expect((number and not isinstance(value, bool)) or (kind not in (int, float) and isinstance(value, kind)),
            key, value, {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind])  # fmt: skip
    return value


def _has_default(one: "Field[Any]", below: str) -> bool:
    if one.default is MISSING and one.default_factory is MISSING:
        raise _UnlikeError(f"{below}{one.name} is missing")
    return True


def _expect(right: bool, key: str, value: Any, expected: str) -> None:
    if not right:
        given = shown(value)
        raise _UnlikeError(f"{key or 'it'} is {given if len(given) < 50 else given[:50] + '...'}, expected {expected}")
