"""What every command in ``scripts/`` shares: words to a config by tyro, and a user's mistake as one line and exit code 2.

A command on a finished run takes the run as its first word; what follows are flags.
"""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import tyro

from simclr.config import DataConfig, TrainConfig
from simclr.config.yaml import T, config_fields, load_config, suggestion
from simclr.cores import use_cores
from simclr.errors import ConfigError, PipelineError
from simclr.exchange.encoder import find_encoder
from simclr.run.process import keep_freed_memory

__all__ = ["own_or_other_data", "parse_command", "parse_flags", "run_and_flags", "run_command"]


def run_command(main: Callable[[list[str]], int], keep_memory: bool = True) -> int:
    """Run ``main`` on the command line's words; return its exit code, or 2 after a user's mistake.

    With ``keep_memory`` the process holds what it frees until it ends (``simclr/run/process.py``).
    """
    use_cores()
    if keep_memory:
        keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without UTF-8 shows what it cannot write as an escape, rather than ending the run.
            stream.reconfigure(errors="backslashreplace")
    try:
        return main(sys.argv[1:])
    except PipelineError as error:
        # Several processes make the same mistake; one of them says so.
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run_and_flags(
    arguments: Sequence[str], command: str, about: str, purpose: str, default: object
) -> tuple[Path, list[str]]:
    """Split ``RUN [--flags]`` into the folder of the run's encoder and the flags; without RUN, or with --help, print help.

    Args:
        arguments: the command line's words.
        command: name of the command, for its help.
        about: what its help begins with.
        purpose: what the run is wanted for, in an infinitive without "to", for the message where it is missing.
        default: what the flags set, with the values that the help shows.

    Raises:
        ConfigError: a flag where the run should be.
        CheckpointError: RUN holds no encoder.
    """
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        parse_flags(type(default), ["--help"], f"{command} RUN", about, default=default)
    if words[0].startswith("-"):
        raise ConfigError(f"the first word is {words[0]}; expected the run to {purpose}, e.g. {command} runs/digits")
    return find_encoder(Path(words[0])), words[1:]


def own_or_other_data(own: DataConfig, words: Sequence[str], needs_labels: bool = True) -> DataConfig:
    """What the flags ``words`` start from: a run's ``own`` images, or other ones, which bring labels of their own.

    With ``needs_labels``, labels that the run did not look at are looked at.
    """
    flags = {word.split("=")[0].replace("_", "-") for word in words}
    other = bool(flags & {"--data.path", "--data.source"})
    return replace(own, labels="auto") if other or (needs_labels and own.labels == "none") else own


def parse_command(arguments: Sequence[str], command: str, about: str, default: str = "digits") -> TrainConfig:
    """``[PRESET | FILE.yaml] [objective:NAME] [--overrides]`` as a TrainConfig.

    Args:
        arguments: the words after the command.
        command: how the help calls the command.
        about: the help's first paragraph.
        default: preset when no first word names one.

    Raises:
        ConfigError: an unknown preset or flag (with a suggestion), or a wrong value. ``--help`` prints and exits with 0.
    """
    from simclr.config.presets import preset

    words = list(arguments)
    first = words.pop(0) if words and not words[0].startswith("-") and ":" not in words[0] else default
    is_file = first.endswith((".yaml", ".yml"))
    start = load_config(Path(first)) if is_file else preset(first)
    return parse_flags(TrainConfig, words, command, about, default=start)


def parse_flags(cls: type[T], words: Sequence[str], command: str, about: str, default: T) -> T:
    """Flags over ``default`` as a config of type ``cls``, by tyro; an error of the user's is one ConfigError."""
    subcommands = [word for word in words if re.fullmatch(r"[\w.]+:[\w-]+", word)]
    flags = [word for word in words if word not in subcommands]
    for name, options in _unions(cls).items():
        if not any(word.startswith(f"{name}:") for word in subcommands) and any(
            f.startswith(f"--{name}.") for f in flags
        ):
            # Flags of the default objective need no objective:NAME in front of them.
            subcommands.append(f"{name}:{type(getattr(default, name)).name}")
        for word in subcommands:
            known = [f"{name}:{option.name}" for option in options]
            if word.startswith(f"{name}:") and word not in known:
                raise ConfigError(f"unknown {word!r}{suggestion(word, known)}")
    _check_flags(cls, flags, subcommands)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                cls,
                prog=command,
                description=about,
                default=default,
                args=[*subcommands, *flags],
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_one_line(said.getvalue())) from None


def _check_flags(cls: type, flags: Sequence[str], subcommands: Sequence[str]) -> None:
    known = _flag_names(cls, subcommands)
    for word in flags:
        if not word.startswith("--") or word in ("--help", "--help-verbose"):
            continue
        flag = word.split("=")[0].replace("_", "-")
        if flag not in known:
            raise ConfigError(f"unknown flag {word.split('=')[0]}{suggestion(flag, known)}")


def _flag_names(cls: type, subcommands: Sequence[str], prefix: str = "") -> list[str]:
    names: list[str] = []
    for field_name, hint in config_fields(cls).items():
        path = f"{prefix}{field_name}".replace("_", "-")
        members = [hint, *get_args(hint)]
        configs: list[Any] = [m for m in members if dataclasses.is_dataclass(m) and isinstance(m, type)]
        if len(configs) > 1:
            chosen = [word.split(":")[1] for word in subcommands if word.startswith(f"{field_name}:")]
            configs = [config for config in configs if config.name in chosen] or configs
        for config in configs:
            names += _flag_names(config, subcommands, f"{path}.")
        if not configs:
            is_bool = bool in members
            *parents, last = path.split(".")
            names += [f"--{path}"] + ([f"--{'.'.join([*parents, 'no-' + last])}"] if is_bool else [])
    return names


def _one_line(message: str) -> str:
    # tyro prints a box with a title; a user's mistake is one line here.
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    text = " ".join(re.sub(r"[╭╮╰╯│─━]+|\+?-{5,}\+?|(?<=\s)\|(?=\s)", " ", text).split())
    text = re.sub(r"(Argument helptext|For full helptext|Perhaps you meant).*", "", text)
    text = re.sub(r"^(Value error|Invalid choice|Unrecognized options|Parsing error|Missing argument)\s+", "", text)
    text = re.sub(r"^Error parsing (\w+: )?", "", text)
    return text.strip() or "the command line could not be read; --help shows how it is written"


def _unions(cls: type) -> dict[str, list[Any]]:
    unions = {}
    for name, hint in config_fields(cls).items():
        configs = [member for member in get_args(hint) if dataclasses.is_dataclass(member)]
        if len(configs) > 1:
            unions[name] = configs
    return unions
