"""Modules of the user's own: ``--plugin birds.py`` imports one before anything looks for what it registers.

A run and its encoder write down which they need, and later commands import those again. Code is imported on the user's word
alone: what a folder names was given with ``--plugin`` before, by this user on this computer, or is refused with a sentence.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import ModuleType

from simclr.errors import ConfigError
from simclr.files import WriteError, atomically
from simclr.paths import expanded

__all__ = [
    "blamed",
    "load_plugin",
    "loaded_plugins",
    "note_modules",
    "plugin_modules",
    "recall_plugins",
    "take_plugins",
]

FLAG = "--plugin"


@dataclass(frozen=True)
class _Plugin:
    word: str
    """What a config says: a module's name, or the whole path of a file."""
    name: str
    """The module's name."""
    file: str
    """Where its code is."""


_loaded: dict[str, _Plugin] = {}


def loaded_plugins() -> tuple[str, ...]:
    """The plugins of this process, as a config writes them down: names of modules, and whole paths of files."""
    return tuple(plugin.word for plugin in _loaded.values())


def take_plugins(words: Sequence[str]) -> list[str]:
    """Import what every ``--plugin MODULE`` among a command line's ``words`` names; the other words.

    Raises:
        ConfigError: as ``load_plugin``, or a flag without a module.
    """
    left, given = [], iter(words)
    for word in given:
        flag, _, value = word.partition("=")
        if flag != FLAG:
            left.append(word)
            continue
        value = value or next(given, "")
        if not value or value.startswith("-"):
            raise ConfigError(f"{FLAG} needs the name of a module or a file: {FLAG} birds.py")
        load_plugin(value)
    return left


def load_plugin(word: str) -> ModuleType:
    """Import a module by its name or a ``.py`` file by its path, on the user's word, and remember that it was given.

    Raises:
        ConfigError: there is none, another module has its name, or it breaks; the message names it and the line.
    """
    plugin = _found(word)
    module = _import(plugin)
    _loaded[plugin.name] = plugin
    _remember(plugin.word)
    return module


def recall_plugins(words: Iterable[str], where: str) -> None:
    """Import the plugins that ``where``, a run or an encoder, was made with.

    One that was imported already counts, and so does a file of the same name that has moved.

    Raises:
        ConfigError: one is missing, breaks, or was never given by this user.
    """
    for word in words:
        name = _name(word)
        if name in _loaded:
            continue
        if (there := sys.modules.get(name)) is not None and (not _is_file(word) or _is_at(there, word)):
            _loaded[name] = _Plugin(word, name, str(getattr(there, "__file__", "")))
            continue
        if _is_file(word) and not Path(word).is_file():
            raise ConfigError(
                f"{where} was made with the plugin {word}, which is not there; give its place: {FLAG} {Path(word).name}"
            )
        if (str(Path(word).resolve()) if _is_file(word) else word) not in _known():
            raise ConfigError(
                f"{where} was made with the plugin {word}, which is code that you have not run here yet: if you trust it, "
                f"add {FLAG} {word} once (in Python, import it first)"
            )
        plugin = _found(word)
        _import(plugin)
        _loaded[name] = plugin


def note_modules(names: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """``known`` plugins as a config writes them down, and the modules ``names``, which the user's own Python has imported.

    A script that is run, or a notebook, is no module that could be imported again, and is left out.
    """
    words = list(known)
    for name in dict.fromkeys(names):
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is None or file is None or name in ("__main__", "__mp_main__", *plugin_modules(words)):
            continue
        words.append(name if "." in name or not file.endswith(".py") else str(Path(file).resolve()))
        _loaded[name] = _Plugin(words[-1], name, file)
        _remember(words[-1])
    return tuple(words)


def plugin_modules(words: Iterable[str]) -> list[str]:
    """The names by which Python imports plugins that a config writes down.

    >>> plugin_modules(["plugins/birds.py", "nets.small"])
    ['birds', 'nets.small']
    """
    return [_name(word) for word in words]


def blamed(error: BaseException) -> str | None:
    """What went wrong in a plugin, in a line with its file and line; None where none had a part in ``error``."""
    files = {plugin.file: plugin for plugin in _loaded.values()}
    inside = [(frame, line) for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename in files]
    if not inside:
        return None
    frame, line = inside[-1]
    return f"the plugin {frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}: {_words(error)}"


def _found(word: str) -> _Plugin:
    name = _name(word)
    if not _is_file(word):
        try:
            spec = importlib.util.find_spec(word)
        except Exception as error:  # a package above it breaks, or the name is none
            raise ConfigError(f"the plugin {word} cannot be imported: {_words(error)}") from error
        if spec is None:
            file = f": {FLAG} {word}.py" if Path(f"{word}.py").exists() else ""
            raise ConfigError(f"there is no module {word!r} for {FLAG}; a file is given by its path{file}")
        return _Plugin(word, name, spec.origin or "")
    path = expanded(Path(word)).resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {word} for {FLAG}")
    there = sys.modules.get(name)
    spec = None if there is not None or not name.isidentifier() else importlib.util.find_spec(name)
    taken = there is not None and not _is_at(there, str(path))
    if taken or not name.isidentifier() or (spec is not None and Path(spec.origin or "").resolve() != path):
        other = getattr(there, "__file__", None) or (spec.origin if spec is not None else None)
        why = f"is the name of another module{f', {other}' if other else ''}"
        why = why if name.isidentifier() else "is no name of a module"
        raise ConfigError(f"the plugin {word} needs another file name: {name} {why}")
    return _Plugin(str(path), name, str(path))


def _import(plugin: _Plugin) -> ModuleType:
    if plugin.name in sys.modules:
        return sys.modules[plugin.name]
    try:
        if not _is_file(plugin.word):
            return importlib.import_module(plugin.word)
        spec = importlib.util.spec_from_file_location(plugin.name, plugin.file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # As a script's own folder: for what it imports, and for processes that are started afresh. Last, to hide nothing.
        if (folder := str(Path(plugin.file).parent)) not in sys.path:
            sys.path.append(folder)
        sys.modules[plugin.name] = module
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        sys.modules.pop(plugin.name, None)
        at = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == plugin.file]
        if isinstance(error, SyntaxError) and error.filename == plugin.file:
            at.append(error.lineno or 0)
        line = f", line {at[-1]}" if at else ""
        raise ConfigError(f"the plugin {plugin.word} cannot be imported{line}: {_words(error)}") from error


def _name(word: str) -> str:
    return Path(word).stem if _is_file(word) else word


def _is_file(word: str) -> bool:
    return word.endswith(".py")


def _is_at(module: ModuleType, path: str) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == Path(path).resolve()


def _words(error: BaseException) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return ": ".join([type(error).__name__, *said.splitlines()[:1]])


def _list() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "simclr-pipeline", "plugins")


def _known() -> list[str]:
    with suppress(OSError, ValueError, RuntimeError):  # nobody's home
        return _list().read_text(encoding="utf-8").splitlines()
    return []


def _remember(word: str) -> None:
    known = _known()
    if word in known or os.environ.get("RANK", "0") != "0":
        return
    with suppress(WriteError, OSError, RuntimeError, UnicodeError):  # then it has to be given every time
        text = "\n".join([*known, word, ""])
        atomically(_list(), lambda file: file.write(text.encode()))
