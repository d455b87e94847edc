"""The first word of the commands that work on a finished run: the run. What follows are flags."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simclr.config import DataConfig
from simclr.config_io import parse_flags
from simclr.errors import ConfigError
from simclr.export import find_encoder

__all__ = ["own_or_other_data", "run_and_flags"]


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
