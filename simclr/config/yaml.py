"""A config as plain values and YAML, and back: strict types, unknown keys refused with a suggestion."""

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from simclr.config import TrainConfig
from simclr.config.changes import before_changes
from simclr.config.marks import RUNTIME, chosen_from, marked
from simclr.config.yaml_text import read_yaml
from simclr.errors import ConfigError, shown
from simclr.files import atomically
from simclr.plugins import recall_plugins

__all__ = ["changed", "differences", "from_dict", "load_config", "save_config", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain YAML-able values. A member of a union of configs gets the key ``name`` that tells which it is."""
    content: dict[str, Any] = {}
    if isinstance(getattr(type(config), "name", None), str) and "name" not in config_fields(type(config)):
        content["name"] = type(config).name
    for field in dataclasses.fields(config):
        content[field.name] = _plain(getattr(config, field.name))
    return content


def from_dict(cls: type[T], content: Any, where: str = "") -> T:
    """Build the dataclass ``cls`` from plain values, nested ones included.

    A number may be written as text (YAML reads ``1e-3`` as text), an int for a float, a list for a tuple; nothing else
    is converted.

    Args:
        cls: a config dataclass.
        content: mapping of field names to plain values; fields that are absent keep their defaults.
        where: what a message calls this mapping, e.g. a file and a key.

    Raises:
        ConfigError: an unknown key (with the closest known one), a wrong type, or a value out of range.
    """
    return _dataclass(cls, content, where, default=None)


def changed(config: T, changes: dict[str, Any]) -> T:
    """``config`` with ``changes``, nested as in a YAML file: what they do not name stays.

    Raises:
        ConfigError: as ``from_dict``.
    """
    start: Any = before_changes(config, changes) if isinstance(config, TrainConfig) else config
    return _dataclass(type(config), changes, "", default=start)


def load_config(path: Path, start: TrainConfig | None = None) -> TrainConfig:
    """Read a YAML file. Its key ``preset`` names what it starts from, unless ``start`` is given; without both, the defaults.

    Raises:
        ConfigError: no such file, no YAML, or what ``from_dict`` raises, with the file's name in front.
    """
    from simclr.config.presets import preset

    content = read_yaml(path)
    if content is None:
        raise ConfigError(f"{path} is empty; it must hold keys and values, such as 'preset: cifar10'")
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, such as 'preset: cifar10'")
    base = content.pop("preset", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: preset is {shown(base)}, expected the name of a preset, such as cifar10")
    if isinstance(plugins := content.get("plugin"), list) and all(isinstance(one, str) for one in plugins):
        recall_plugins(plugins, str(path))
    if start is None:
        start = TrainConfig() if base is None else preset(base)
    content.setdefault("name", path.stem if path.name != "config.yaml" else path.parent.name)
    return _dataclass(TrainConfig, content, str(path), default=before_changes(start, content))


def preset_and_encoder(path: Path) -> tuple[Any, dict[str, Any]]:
    """The preset that a YAML file starts from, None where it names none, and what it says of the encoder, both unlooked at.

    Raises:
        ConfigError: it cannot be read.
    """
    content = read_yaml(path)
    content = content if isinstance(content, dict) else {}
    encoder = content.get("encoder")
    return content.get("preset"), encoder if isinstance(encoder, dict) else {}


def save_config(config: TrainConfig, path: Path) -> None:
    """Write a config, atomically, as YAML that ``load_config`` reads back to an equal one.

    Raises:
        CheckpointError: the disk refuses.
    """
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    atomically(path, lambda file: file.write(text.encode()))


def flat_fields(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of a config's ``to_dict`` by their paths.

    >>> flat_fields({"seed": 0, "data": {"source": "digits", "size": 32}})
    {'seed': 0, 'data.source': 'digits', 'data.size': 32}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flat_fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differences(old: Any, new: Any) -> list[str]:
    """``path: old -> new`` for every field that differs and that a run's weights depend on."""
    flat_old, flat_new = flat_fields(to_dict(old)), flat_fields(to_dict(new))
    free = marked(type(old), RUNTIME) | marked(type(new), RUNTIME)
    names = [name for name in dict.fromkeys([*flat_old, *flat_new]) if name not in free]
    return [
        f"{name}: {flat_old.get(name)} -> {flat_new.get(name)}"
        for name in names
        if flat_old.get(name) != flat_new.get(name)
    ]


def suggestion(word: str, known: Sequence[str], otherwise: str = "--help lists all") -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not close:  # the right name under the wrong group, e.g. --epochs for --train.epochs
        last = word.split(".")[-1].lstrip("-")
        close = [name for name in known if name.split(".")[-1].lstrip("-") == last]
    return f"; did you mean {close[0]}?" if close else f"; {otherwise}"


def _dataclass(cls: type[T], content: Any, where: str, default: T | None) -> T:
    prefix = f"{where}: " if where else ""
    if not isinstance(content, dict):
        raise ConfigError(f"{prefix}expected keys and values, got {shown(content)}")
    hints = config_fields(cls)
    values = {name: getattr(default, name) for name in hints} if default is not None else {}
    for key, value in content.items():
        if key == "name" and "name" not in hints and getattr(cls, "name", None) == value:
            continue
        if key in getattr(cls, "gone", {}):
            if value != cls.gone[key]:  # type: ignore[attr-defined]  # as just seen
                raise ConfigError(f"{prefix}{key} is {shown(value)}, which this version no longer has; leave it out")
            continue
        if key not in hints:
            known = ", ".join(hints)
            raise ConfigError(
                f"{prefix}unknown key {shown(key)}{suggestion(_word(key), list(hints), f'known: {known}')}"
            )
        values[key] = _value(hints[key], value, f"{prefix}{key}", values.get(key))
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{prefix}{error}") from error


def _value(hint: Any, value: Any, where: str, default: Any) -> Any:
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _member(members, value, where, default)
    if origin is Literal:
        if value in members and type(value) in {type(member) for member in members}:
            return value
        raise ConfigError(f"{where} is {shown(value)}; expected one of {', '.join(map(str, members))}")
    if origin is tuple:
        return _tuple(members, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if type(value) is hint:
            return value
        return _dataclass(hint, value, where, default)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{where} is {shown(value)}; expected {getattr(hint, '__name__', hint)}")


def _member(members: tuple[Any, ...], value: Any, where: str, default: Any) -> Any:
    if value is None and type(None) in members:
        return None
    configs: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
    if type(value) in configs:
        return value
    if len(configs) > 1:
        name = value.get("name", getattr(default, "name", None)) if isinstance(value, dict) else value
        chosen = next((member for member in configs if member.name == name), None)
        if chosen is None:
            names = [member.name for member in configs]
            raise ConfigError(f"{where} names {shown(name)}{suggestion(_word(name), names)}; known: {', '.join(names)}")
        content = value if isinstance(value, dict) else {}
        return _dataclass(chosen, content, where, default if type(default) is chosen else None)
    others = [member for member in members if member is not type(None)]
    errors = []
    for member in others:
        try:
            return _value(member, value, where, default)
        except ConfigError as error:
            errors.append(str(error))
    if len(errors) > 1 and isinstance(value, str):
        raise ConfigError(f"{errors[0]}, or {_kind(others[1])}")
    raise ConfigError(errors[-1])


def _word(value: Any) -> str:
    return value[:100] if isinstance(value, str) else shown(value)


def _kind(hint: Any) -> str:
    return "a list" if get_origin(hint) is tuple else getattr(hint, "__name__", str(hint))


def _tuple(members: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {shown(value)}; expected a list")
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(members) != len(value):
        raise ConfigError(f"{where} has {len(value)} values; expected {len(members)}")
    return tuple(_value(member, item, f"{where}[{i}]", None) for i, (member, item) in enumerate(zip(members, value)))


def config_fields(cls: Any) -> dict[str, Any]:
    plain, whole = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    found = {}
    for name in (field.name for field in dataclasses.fields(cls)):
        chosen = chosen_from(whole[name])
        found[name] = plain[name] if chosen is whole[name] else chosen
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
