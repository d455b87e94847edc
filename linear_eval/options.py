"""The command line of an evaluation: which encoder, on which images, by which protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from linear_eval.config import EvalConfig
from linear_eval.evaluate import data_of_run, default_protocol
from simclr.config import DataConfig
from simclr.config_io import parse_flags
from simclr.errors import ConfigError
from simclr.export import find_encoder

__all__ = ["EvaluationOptions", "parse_evaluation"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What an evaluation can be told; the images default to the run's own."""

    protocol: Literal["closed", "open-set"] = "closed"
    """`closed`: classify the classes that training saw. `open-set`: search, compare and recognise classes it never saw."""

    tensorboard: bool = False
    """Also write the scored images under every checkpoint, with thumbnails, for TensorBoard's projector: RUN/projector."""

    data: DataConfig = field(default_factory=DataConfig)
    """Labelled images to score on."""

    eval: EvalConfig = field(default_factory=EvalConfig)
    """The protocol's settings."""


def parse_evaluation(arguments: Sequence[str], command: str, about: str) -> tuple[Path, EvaluationOptions]:
    """``RUN [--protocol P] [--tensorboard] [--data.*] [--eval.*]`` as the encoder's folder and the options.

    Raises:
        ConfigError: no RUN, an unknown flag or a wrong value.
        CheckpointError: RUN holds no encoder.
    """
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        parse_flags(EvaluationOptions, ["--help"], f"{command} RUN", about, default=EvaluationOptions())
    if words[0].startswith("-"):
        raise ConfigError(f"the first word is {words[0]}; expected the run to score, e.g. {command} runs/digits")
    folder = find_encoder(Path(words.pop(0)))
    default = EvaluationOptions(data=data_of_run(folder) or DataConfig(), eval=default_protocol(folder))
    return folder, parse_flags(EvaluationOptions, words, f"{command} RUN", about, default=default)
