"""What every command in ``scripts/`` shares: words to a config by tyro, and a user's mistake as one line and exit code 2.

A command on a finished run takes the run as its first word; what follows are flags.
"""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from simclr.adapt import adapted
from simclr.commands import as_called
from simclr.config import DataConfig, TrainConfig
from simclr.config.changes import before_changes
from simclr.config.numbers import check_numbers
from simclr.config.presets import preset
from simclr.config.yaml import T, load_config, preset_and_encoder, suggestion
from simclr.cores import use_cores
from simclr.errors import ConfigError, DataError, LostProcessError, PipelineError
from simclr.exchange.given import GivenEncoder, given_encoder
from simclr.exchange.starting_point import with_its_stem
from simclr.flags import HELP, Words, check_flags, choices, for_tyro, from_tyro, read_words
from simclr.help import PLUGIN, short_help
from simclr.memory import memory_in_words
from simclr.names import printable
from simclr.paths import check_paths, given_path
from simclr.plugins import blamed, loaded_plugins, take_plugins
from simclr.processes import leave_launch, note_on_accelerate, take_launch, together
from simclr.progress import screen, terminal
from simclr.run.process import keep_freed_memory
from simclr.stopping import exit_code, finish, imports_are_done, request
from simclr.streams import in_lines, undisturbed

__all__ = [
    "own_or_other_data",
    "parse_command",
    "parse_flags",
    "run_and_flags",
    "run_command",
    "run_images_and_flags",
    "without_dry_run",
]


_CAUSES = (
    "images that are kept decoded (data.size), those of one call (eval.batch_size), features and their classifiers"
)

_HELPS = (
    "smaller images (--data.size) or fewer (--data.limit), a smaller --eval.batch-size (--batch-size of embed.py), "
    "--data.device-resident no, fewer --data.workers or --eval.workers, --eval.pixel-size 16"
)


def run_command(main: Callable[[list[str]], int], keep_memory: bool = True, alone: bool = False) -> int:
    """Run ``main`` on the command line's words; return its exit code, or 2 after a user's mistake.

    A command that is asked to stop says so in a line and returns 128 + the signal's number (``simclr/stopping.py``). What it
    prints may go to a terminal that was closed, a pipe whose reader left or a full disk: that ends no command.

    With ``keep_memory`` the process holds what it frees until it ends (``simclr/run/process.py``). Of several processes that a
    launcher started the first does what is to be done ``alone``.
    """
    imports_are_done()
    sys.stdout, sys.stderr = undisturbed(sys.stdout), undisturbed(sys.stderr)
    code = 2
    try:
        take_launch()
        if sys.stderr.isatty() and (note := note_on_accelerate()):
            _say(note)
        if alone and not _is_first():
            return 0
        if alone:
            leave_launch()
        use_cores()
        if keep_memory:
            keep_freed_memory()
        with together(), memory_in_words(_CAUSES, _HELPS), screen():
            code = main(take_plugins(sys.argv[1:]))
    except LostProcessError as error:
        code = 1
        if not error.said:
            again = "run the same command again: training goes on from the newest checkpoint"
            print(printable(f"error: {error}; {again}"), file=sys.stderr)
    except PipelineError as error:
        if not error.said:
            print(printable(f"error: {error}" if _is_first() else f"error: {_who()}: {error}"), file=sys.stderr)
    except Exception as error:
        if (said := blamed(error)) is None:
            raise
        print(printable(f"error: {said}" if _is_first() else f"error: {_who()}: {said}"), file=sys.stderr)
    except KeyboardInterrupt:
        code = exit_code()
        stopped = request()
        _say(f"stopped by {'Ctrl-C' if stopped in (None, signal.SIGINT) else stopped.name}; the same command goes on")
    finally:
        finish()
    return code


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _who() -> str:
    return f"process {os.environ['RANK']}"


def _say(text: str) -> None:
    # Several processes make the same mistake; one of them says so.
    if _is_first():
        print(in_lines(printable(text), terminal()), file=sys.stderr)


def run_and_flags(
    arguments: Sequence[str], command: str, about: str, purpose: str, default: object
) -> tuple[GivenEncoder, list[str]]:
    """Split ``RUN [--flags]`` into the encoder that RUN names and the flags; without RUN, or with --help, print help.

    ``--checkpoint`` and ``--encoder.name`` say which encoder it is, and ``--data.channels`` what its first layer is to take.

    Args:
        arguments: the command line's words.
        command: name of the command, for its help.
        about: what its help begins with.
        purpose: what the run is wanted for, in an infinitive without "to", for the message where it is missing.
        default: what the flags set, with the values that the help shows.

    Raises:
        ConfigError: a flag where the run should be.
        CheckpointError: RUN is nothing that an encoder can be taken from.
    """
    words = list(arguments)
    if not words or words[0] in HELP:
        parse_flags(type(default), words[:1] or ["--help"], f"{command} RUN", about, default=default)
    if words[0].startswith("-"):
        raise ConfigError(
            f"the first word is {words[0]}; expected the run to {purpose}, e.g. {as_called(f'scripts/{command}')} runs/digits"
        )
    given = read_words(words[1:])
    channels = given.value("--data.channels") or ""
    encoder = given_encoder(
        words[0],
        checkpoint=given.value("--checkpoint"),
        network=given.value("--encoder.name"),
        channels=int(channels) if channels.isdigit() and channels != "0" else 3,
    )
    if not any(word in HELP for word in words):
        for line in encoder.said:
            _say(line)
    return encoder, words[1:]


def run_images_and_flags(
    arguments: Sequence[str], command: str, about: str, default: object
) -> tuple[Path, Path, list[str]]:
    """Split ``RUN DIR [--flags]`` into the two paths as they are given, and the flags; see ``run_and_flags``.

    Raises:
        ConfigError: a flag where the run or the images should be, or nothing there.
        DataError: there is nothing at DIR.
    """
    words = list(arguments)
    if not words or words[0] in HELP:
        parse_flags(type(default), words[:1] or ["--help"], f"{command} RUN DIR", about, default=default)
    for number, wanted in enumerate(("the run", "a folder of images or an image")):
        if len(words) <= number or words[number].startswith("-"):
            given = f"is {words[number]}" if len(words) > number else "is missing"
            place = ("first", "second")[number]
            raise ConfigError(
                f"the {place} word {given}; expected {wanted}, e.g. {as_called(f'scripts/{command}')} runs/birds photos"
            )
    if twice := {"--data.path", "--data.source"} & read_words(words[2:]).flags.keys():
        raise ConfigError(f"the images are the second word, {words[1]}; leave {min(twice)} out")
    run, images = given_path(words[0], "the run"), given_path(words[1], "the images")
    if not images.exists():
        raise DataError(f"{images} does not exist; give a folder of images, or an image")
    return run, images, words[2:]


def own_or_other_data(own: DataConfig, words: Sequence[str], needs_labels: bool = True) -> DataConfig:
    """What the flags ``words`` start from: a run's ``own`` images, or other ones, which bring labels of their own.

    With ``needs_labels``, labels that the run did not look at are looked at.
    """
    other = not read_words(words).flags.keys().isdisjoint({"--data.path", "--data.source"})
    return replace(own, labels="auto") if other or (needs_labels and own.labels == "none") else own


def without_dry_run(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The words without ``--dry-run``, which is no part of a run, and whether it was among them."""
    return [word for word in arguments if word not in ("--dry-run", "--dry_run")], (
        "--dry-run" in arguments or "--dry_run" in arguments
    )


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
    words = list(arguments)
    first = words.pop(0) if words and not words[0].startswith("-") and ":" not in words[0] else default
    file = given_path(first, "the config") if first.endswith((".yaml", ".yml")) else None
    base, told = (first, {}) if file is None else preset_and_encoder(file)
    if base != "adapt" or any(word in HELP for word in words):
        start = preset(first) if file is None else load_config(file)
    else:
        start, left = adapted(preset(base), read_words(words), told)
        start, words = start if file is None else load_config(file, start), left.typed()
    if start.given.words():
        raise ConfigError(
            f"{first} is of a run that simclr.pretrain was handed its {' and '.join(start.given.words())} for, in Python: call "
            "it there again, which no command can"
        )
    start = before_changes(start, read_words(words).nested())
    return with_its_stem(parse_flags(TrainConfig, words, command, about, default=start))


def parse_flags(cls: type[T], words: Sequence[str], command: str, about: str, default: T) -> T:
    """Flags over ``default`` as a config of type ``cls``, by tyro; an error of the user's is one ConfigError.

    ``--help`` prints a screen with examples and the flags that many need (``simclr/help.py``), ``--help-all`` all of them; both
    exit with 0.
    """
    given = read_words(words)
    chosen = list(given.choices)
    for name, options in choices(cls).items():
        known = [f"{name}:{option.name}" for option in options]
        for word in chosen:
            if word.startswith(f"{name}:") and word not in known:
                raise ConfigError(
                    f"unknown {word!r}{suggestion(word, known)}; one of your own comes with --plugin MODULE"
                )
        if not any(word in known for word in chosen) and any(flag.startswith(f"--{name}.") for flag in given.flags):
            # Flags of the default objective need no objective:NAME in front of them.
            chosen.append(f"{name}:{type(getattr(default, name)).name}")
    given = Words(chosen, given.flags)
    check_flags(cls, given)
    if any(word in given.flags for word in HELP) and "--help-all" not in given.flags:
        print(short_help(cls, default, as_called(f"scripts/{command}"), as_called(about), given.choices))
        raise SystemExit(0)
    tyro_type, tyro_default = for_tyro(cls, default)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
                tyro_type,
                prog=as_called(f"scripts/{command}"),
                description=as_called(about),
                default=tyro_default,
                args=["--help" if word == "--help-all" else word for word in given.typed()],
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as stop:
        if stop.code:
            raise ConfigError(_one_line(errors.getvalue())) from None
        print(PLUGIN)
        raise
    config = from_tyro(cls, parsed)
    if isinstance(config, TrainConfig):
        config = replace(config, plugin=loaded_plugins())
    check_numbers(config)
    check_paths(config)
    return config


def _one_line(message: str) -> str:
    # tyro prints a box with a title; a user's mistake is one line here.
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    text = " ".join(re.sub(r"[╭╮╰╯│─━]+|\+?-{5,}\+?|(?<=\s)\|(?=\s)", " ", text).split())
    text = re.sub(r"(Argument helptext|For full helptext|Perhaps you meant).*", "", text)
    text = re.sub(r"^(Value error|Invalid choice|Unrecognized options|Parsing error|Missing argument)\s+", "", text)
    text = re.sub(
        r"no type matching (.+?) could be instantiated from \[(.*?)\]\. Got errors:.*", r"expected \1, got \2", text
    )
    text = re.sub(r"^Error parsing (\w+: )?", "", text)
    return text.strip() or "the command line could not be read; --help shows how it is written"
