"""The command line of an evaluation: which encoder, on which images, by which protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from linear_eval.config import EvalConfig
from linear_eval.evaluate import data_of_run, default_protocol
from simclr.config import DataConfig
from simclr.config_io import parse_flags
from simclr.run_words import own_or_other_data, run_and_flags

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
    folder, words = run_and_flags(arguments, command, about, "score", EvaluationOptions())
    own = own_or_other_data(data_of_run(folder) or DataConfig(), words)
    default = EvaluationOptions(data=own, eval=default_protocol(folder))
    return folder, parse_flags(EvaluationOptions, words, f"{command} RUN", about, default=default)
