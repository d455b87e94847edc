"""Marks on a config's field, beside its type: what a command line or a resumed run has to know of it.

>>> from dataclasses import dataclass
>>> @dataclass
... class Cake:
...     eggs: int = 3
...     nutmeg: Rare[float] = 0.1
>>> marked(Cake, RARE)
frozenset({'nutmeg'})
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_type_hints

__all__ = ["RARE", "Mark", "OneOf", "Rare", "chosen_from", "marked"]

T = TypeVar("T")


@dataclass(frozen=True)
class Mark:
    """Something to know of a field. Type checkers and everything that reads types look past it."""

    name: str


RARE = Mark("rare")
"""Few runs turn this knob: ``--help`` leaves it to ``--help-all``."""

Rare = Annotated[T, RARE]
"""``field: Rare[float] = 0.1``: a field of the type in the brackets with the mark ``RARE``."""


@dataclass(frozen=True, eq=False)
class OneOf:
    """``field: Annotated[str, OneOf(lambda: KNOWN)]``: one of several words, or of several config classes.

    They are asked for when the field is read, not when the class is made: a plugin may have added one.
    """

    choices: Callable[[], Sequence[Any]]

    unoffered: Sequence[Any] = ()
    """What files may hold besides, and no flag."""


def chosen_from(hint: Any, offered: bool = False) -> Any:
    """``hint`` with the mark ``OneOf`` as the ``Literal`` or ``Union`` of what there is now, or is offered; else as it is.

    >>> chosen_from(Annotated[str, OneOf(lambda: ("a", "b"))])
    typing.Literal['a', 'b']
    """
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, OneOf):
            several = (*mark.choices(), *(() if offered else mark.unoffered))
            return Union[several] if isinstance(several[0], type) else Literal[several]  # noqa: UP007
    return hint


def marked(config: type, mark: Mark) -> frozenset[str]:
    """Paths, such as ``train.log_every``, of the fields with ``mark`` in a config dataclass and in those it holds.

    A mark on a field that holds a config counts for all fields of that config.
    """
    return frozenset(_marked(config, mark, "", inherited=False))


def _marked(config: type, mark: Mark, prefix: str, inherited: bool) -> list[str]:
    found = []
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        has_it = inherited or mark in getattr(hint, "__metadata__", ())
        members = (hint, *get_args(hint), *get_args(chosen_from(hint)))
        inner = [member for member in dict.fromkeys(members) if _is_config(member)]
        if has_it and not inner:
            found.append(f"{prefix}{field.name}")
        for member in inner:
            found += _marked(member, mark, f"{prefix}{field.name}.", has_it)
    return found


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)
