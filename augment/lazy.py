"""A package's face that loads a name's module when the name is first used: loading an encoder needs no trainer.

A face names its content twice, for type checkers under ``TYPE_CHECKING`` and here; ``tests/test_layout.py`` compares the two.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["lazy_face"]


def lazy_face(face: str, names: Mapping[str, tuple[str, ...]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` (PEP 562) of the package ``face``, for ``names`` by the module that defines them.

    The package's own modules are found too, as they are where a face has imported them.
    """
    home = {name: module for module, members in names.items() for name in members}

    def getattribute(name: str) -> Any:
        if name in home:
            found = getattr(import_module(home[name]), name)
        elif not name.startswith("_") and find_spec(f"{face}.{name}") is not None:
            found = import_module(f"{face}.{name}")
        else:
            raise AttributeError(f"module {face!r} has no attribute {name!r}")
        setattr(sys.modules[face], name, found)
        return found

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[face]), *home})

    return getattribute, directory
