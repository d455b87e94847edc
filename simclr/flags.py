"""Flags of a config: which of them the words on a command line give, which there are, and how tyro is to read the config."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_type_hints

import tyro

from simclr.config.marks import FIXED, RARE, chosen_from, marked
from simclr.config.yaml import config_fields, suggestion
from simclr.errors import ConfigError

__all__ = ["HELP", "Words", "check_flags", "choices", "flag_names", "for_tyro", "from_tyro", "more_flags", "read_words"]

T = TypeVar("T")

HELP = ("-h", "--help", "--help-all")
"""Words that ask for help; the last one for all of it."""


REPEATED = ("--beside",)
"""Flags that may be given several times, each time with more of the same."""


@dataclass(frozen=True)
class Words:
    """The words of a command line behind its name, a preset or a run.

    >>> words = read_words(["objective:triplet", "--data.path=birds", "--encoder.channels", "4", "8"])
    >>> words.choices, words.value("--data.path"), "--data.size" in words.flags
    (['objective:triplet'], 'birds', False)
    >>> words.without("--data.path").typed()
    ['objective:triplet', '--encoder.channels', '4', '8']
    """

    choices: list[str]
    """``objective:NAME``."""

    flags: dict[str, list[str]]
    """Every flag that is given, written as in the help, with its words as they were typed; of a flag given twice, the last
    ones. Words before the first flag stand under ''."""

    def value(self, flag: str) -> str | None:
        """The first word that ``flag`` is set to, or None where there is none."""
        first, *others = self.flags.get(flag, [""])
        return first.split("=", 1)[1] if "=" in first else next(iter(others), None)

    def without(self, flag: str) -> "Words":
        """The same words without ``flag`` and what it is set to."""
        return Words(self.choices, {name: typed for name, typed in self.flags.items() if name != flag})

    def nested(self) -> dict[str, dict[str, int | str]]:
        """Flags of one value, as a YAML file would have it; what is wrong with a value is said elsewhere.

        >>> read_words(["--train.epochs", "3", "--encoder.name=resnet34"]).nested()
        {'train': {'epochs': 3}, 'encoder': {'name': 'resnet34'}}
        """
        found: dict[str, dict[str, int | str]] = {}
        for flag in self.flags:
            group, dot, name = flag.removeprefix("--").partition(".")
            if dot and (value := self.value(flag)) is not None:
                found.setdefault(group, {})[name.replace("-", "_")] = int(value) if value.isdecimal() else value
        return found

    def typed(self) -> list[str]:
        """The words as they were typed, the choices first."""
        return [*self.choices, *(word for typed in self.flags.values() for word in typed)]


def read_words(words: Sequence[str]) -> Words:
    """The flags that ``words`` give: the one place that tells them apart.

    >>> read_words(["--beside", "runs/a", "--beside=runs/b"]).flags
    {'--beside': ['--beside', 'runs/a', 'runs/b']}
    """
    chosen: list[str] = []
    flags: dict[str, list[str]] = {}
    flag = ""
    for word in words:
        if re.fullmatch(r"[\w.]+:[\w-]+", word):
            chosen.append(word)
        elif word.startswith("--") or word in HELP:
            flag, _, value = word.partition("=")
            flag = flag.replace("_", "-")
            if flag in REPEATED:
                flags.setdefault(flag, [flag]).extend([value] if value else [])
                continue
            flags.pop(flag, None)  # so that the last of --train.evaluate and --train.no-evaluate stays the last
            flags[flag] = [word]
        else:
            flags.setdefault(flag, []).append(word)
    return Words(chosen, flags)


def check_flags(cls: type, words: Words) -> None:
    """Raises ConfigError at the first flag that the config ``cls`` does not have, with the closest one it has."""
    known = flag_names(cls, words.choices)
    for flag, typed in words.flags.items():
        if flag.startswith("--") and flag not in (*known, *HELP):
            raise ConfigError(f"unknown flag {typed[0].split('=')[0]}{suggestion(flag, known)}")


def flag_names(cls: type, chosen: Sequence[str], prefix: str = "") -> list[str]:
    """Every flag of the config ``cls``, with those of the ``chosen`` objective, or without one of all of them."""
    names: list[str] = []
    fixed = marked(cls, FIXED)
    for field_name, hint in config_fields(cls).items():
        if field_name in fixed or any(name.startswith(f"{field_name}.") for name in fixed):
            continue
        path = f"{prefix}{field_name}".replace("_", "-")
        members = [hint, *get_args(hint)]
        configs: list[Any] = [m for m in members if dataclasses.is_dataclass(m) and isinstance(m, type)]
        if len(configs) > 1:
            wanted = [word.split(":")[1] for word in chosen if word.startswith(f"{field_name}:")]
            configs = [config for config in configs if config.name in wanted] or configs
        for config in configs:
            names += flag_names(config, chosen, f"{path}.")
        if not configs:
            is_bool = bool in members
            *parents, last = path.split(".")
            names += [f"--{path}"] + ([f"--{'.'.join([*parents, 'no-' + last])}"] if is_bool else [])
    return names


def choices(cls: type) -> dict[str, list[Any]]:
    """Fields of the config ``cls`` that hold one of several configs, such as the objective, with those configs."""
    found = {}
    for name, hint in config_fields(cls).items():
        configs = [member for member in get_args(hint) if dataclasses.is_dataclass(member)]
        if len(configs) > 1:  # without one that no command can make
            found[name] = [config for config in configs if getattr(config, "from_config", True)]
    return found


def for_tyro(cls: type, default: Any) -> tuple[type, Any]:
    """The config ``cls`` as tyro is to read it, and ``default`` as one of it; ``from_tyro`` leads back.

    It may be a subclass, so that tyro finds the fields' docstrings. One of several configs is called by its ``name``.
    """
    hints, several, fields = get_type_hints(cls, include_extras=True), choices(cls), []
    if not several:
        return cls, default
    for field in dataclasses.fields(cls):
        hint, value = chosen_from(hints[field.name], offered=True), getattr(default, field.name)
        if FIXED in getattr(hint, "__metadata__", ()):
            hint = Annotated[hint, tyro.conf.Suppress, tyro.conf.Fixed]
        elif field.name in several:
            named = (Annotated[config, tyro.conf.subcommand(name=config.name)] for config in several[field.name])
            hint = Union[tuple(named)]  # noqa: UP007
        fields.append((field.name, hint, dataclasses.field(default=value)))
    # What the fields may not say together is checked where from_tyro builds the config itself.
    body = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__post_init__": lambda self: None}
    subclass: Any = dataclasses.make_dataclass(
        cls.__name__, fields, bases=(cls,), namespace=body, frozen=True, kw_only=True
    )
    return subclass, subclass()


def from_tyro(cls: type[T], parsed: Any) -> T:
    """The config ``cls`` with the values of ``parsed``, which tyro made of what ``for_tyro`` gave it.

    Raises:
        ConfigError: what two fields may not say together.
    """
    return parsed if type(parsed) is cls else cls(**{name: getattr(parsed, name) for name in config_fields(cls)})


def more_flags(cls: type) -> str:
    """The last line of the help that leaves out the fields with the mark ``Rare``, or nothing where there are none."""
    hidden = len(marked(cls, RARE))
    return f"{hidden} more flags, which few runs need: --help-all" if hidden else ""
