"""Paths as people type them: ``~`` and ``$VARIABLES`` in them, in a flag as in a file, where no shell sees them.

``expanded`` is called where a config is made, once for each field that holds a path; ``check_paths`` where a command has read
its words, so that a variable that is not set is named, and not a folder made that is called like it.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from simclr.errors import ConfigError

__all__ = ["check_paths", "expand_fields", "expanded", "given_path", "is_folder_name"]

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expanded(path: Path) -> Path:
    """``path`` with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced.

    A folder or file whose own name has a ``$`` in it is taken as it is, and so is a variable that is not set.

    >>> os.environ["PICTURES"] = "/data/pictures"
    >>> expanded(Path("$PICTURES/birds")).as_posix(), expanded(Path("${PICTURES}-2/$no_such")).as_posix()
    ('/data/pictures/birds', '/data/pictures-2/$no_such')
    """
    text = str(path)
    if "$" not in text and not text.startswith("~"):
        return path
    with suppress(RuntimeError):  # no user of that name: a folder's own
        path = path.expanduser()
    found = Path()
    for part in path.parts:
        there = "$" in part and os.path.lexists(found / part)
        found /= part if there else _VARIABLE.sub(lambda name: os.environ.get(name[1] or name[2], name[0]), part)
    return found


def expand_fields(config: Any, *names: str) -> None:
    """Replace these fields of a frozen config, paths or tuples of them, by what ``expanded`` makes of them; for its
    ``__post_init__``. What is no path, None or a word, stays."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, Path):
            object.__setattr__(config, name, expanded(value))
        elif isinstance(value, tuple):
            object.__setattr__(config, name, tuple(map(expanded, value)))


def given_path(word: str, what: str) -> Path:
    """The path that is typed as ``word`` of a command line, ``what`` in a message.

    Raises:
        ConfigError: a variable in it that is not set.
    """
    path = expanded(Path(word))
    _check(path, what)
    return path


def check_paths(config: Any) -> None:
    """Look at every path of a config.

    Raises:
        ConfigError: a variable in one that is not set, and no file or folder of that name.
    """
    for field, path in _paths(config, ""):
        _check(path, field)


def _paths(config: Any, prefix: str) -> Iterator[tuple[str, Path]]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _paths(value, f"{name}.")
        elif field.name == "init" and isinstance(value, str):  # a path, or the name of a model
            yield name, Path(value)
        else:
            yield from (
                (name, one) for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Path)
            )


def _check(path: Path, what: str) -> None:
    found = Path()
    for part in path.parts:
        found /= part
        name = _VARIABLE.search(part)
        if name is not None and not os.path.lexists(found):
            raise ConfigError(
                f"{what} is {path}: the variable {name[0]} is not set, and there is no {found}; set it, or write the path out"
            )


def is_folder_name(name: str) -> bool:
    """Whether ``name`` is the name of one folder, wherever: no path, none of the names that mean another folder, not too long.

    >>> [is_folder_name(name) for name in ("birds", "..", "a/b", "a\\0b", "", "x" * 300, "\\ud800")]
    [True, False, False, False, False, False, False]
    """
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:  # half a letter
        return False
    foreign = set('<>:"|?*\\') if os.name == "nt" else set()
    return name not in ("", ".", "..") and 0 < length <= 200 and not set(name) & ({"/", "\0"} | foreign)
