"""What an evaluation can be told: the protocol's settings, and what the command takes beside them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from linear_eval.classify.few_labels import FEW_LABEL_C
from linear_eval.classify.probe import STRENGTHS
from simclr.config.data import DataConfig
from simclr.config.marks import Rare
from simclr.config.numbers import check_numbers
from simclr.errors import ConfigError
from simclr.exchange.given import EncoderWords
from simclr.paths import expand_fields

__all__ = ["AUTOCAST", "EvalConfig", "EvaluationOptions"]

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""``EvalConfig.precision`` -> the type that autocast is given."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How an encoder is scored."""

    probe: Literal["lbfgs", "sgd"] = "lbfgs"
    """Linear protocol: "lbfgs" fits on features taken once, "sgd" is the paper's, with crops and flips every epoch."""

    strengths: Rare[tuple[float, ...]] = STRENGTHS
    """L2 strengths that the lbfgs probe tries."""

    validation: Rare[float] = 0.1
    """Share of every training class held out to choose the strength; of small sets in turn, until 500 images were."""

    knn_k: int = 20
    """Neighbours that vote."""

    knn_temperature: Rare[float] = 0.1
    """Of their votes, exp(cosine / temperature)."""

    labels_per_class: tuple[int, ...] = (1, 5, 10)
    """Few-label settings: labelled images a class."""

    label_fractions: Rare[tuple[float, ...]] = (0.01, 0.1)
    """Few-label settings: labelled share of every class."""

    trials: int = 10
    """Draws of every few-label setting; 0 leaves these scores out."""

    few_label_c: Rare[float] = FEW_LABEL_C
    """scikit-learn's C of the few-label fits: a constant, there is nothing to choose it on."""

    seed: Rare[int] = 0
    """Of the held-out part, the draws, the crops and the bootstrap."""

    batch_size: int = 256
    """Images an encoder call."""

    workers: Rare[int] = 0
    """Processes that read images of a set that does not fit into memory."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type the encoder runs in. Features and classifiers are float32 in any case."""

    resamples: Rare[int] = 10_000
    """Bootstrap resamples of every interval."""

    pixel_size: Rare[int] = 32
    """Raw pixels: images larger than this are averaged down to it."""

    sgd_epochs: Rare[int] = 100
    """sgd probe: epochs."""

    sgd_batch_size: Rare[int] = 512
    """sgd probe: images a step."""

    sgd_learning_rate: Rare[float] = 0.1
    """sgd probe: learning rate at batch 256, scaled linearly with the batch."""

    sgd_flip: Rare[float] = 0.5
    """sgd probe: probability of mirroring; 0 where a mirror image means something else."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    """Open set, one-shot: how two images are compared."""

    one_shot_trials: Rare[int] = 10_000
    """Open set: one-shot trials of each difficulty."""

    episodes: Rare[int] = 1_000
    """One-shot: random episodes of each difficulty."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in (
            "one_shot_trials",
            "episodes",
            "knn_k",
            "batch_size",
            "resamples",
            "pixel_size",
            "sgd_epochs",
            "sgd_batch_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        for name in ("knn_temperature", "few_label_c", "sgd_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected a number > 0")
        if not self.strengths or not all(strength > 0 for strength in self.strengths):
            raise ConfigError(f"strengths is {self.strengths}: expected at least one, each > 0")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation is {self.validation}: expected a share in (0, 1)")
        if not 0 <= self.sgd_flip <= 1:
            raise ConfigError(f"sgd_flip is {self.sgd_flip}: expected a probability in [0, 1]")
        if any(k < 1 for k in self.labels_per_class) or any(not 0 < share <= 1 for share in self.label_fractions):
            raise ConfigError(
                f"labels_per_class is {self.labels_per_class} and label_fractions is {self.label_fractions}: expected "
                "numbers of at least 1, and shares in (0, 1]"
            )
        if self.trials < 0 or self.workers < 0:
            raise ConfigError(f"trials is {self.trials} and workers is {self.workers}: neither may be negative")
        if self.probe not in ("lbfgs", "sgd"):
            raise ConfigError(f"probe is {self.probe!r}: expected 'lbfgs' or 'sgd'")
        if self.distance not in ("cosine", "euclidean"):
            raise ConfigError(f"distance is {self.distance!r}: expected 'cosine' or 'euclidean'")
        if self.precision not in AUTOCAST:
            raise ConfigError(f"precision is {self.precision!r}: expected one of {', '.join(AUTOCAST)}")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(EncoderWords):
    """What an evaluation can be told; the images default to the run's own."""

    protocol: Literal["closed", "open-set", "one-shot"] = "closed"
    """`closed`: classify the classes that training saw. `open-set`: search, compare and recognise classes it never saw.
    `one-shot`: recognise such classes by one image of each, or a few."""

    runs: Path | None = None
    """`one-shot`: trials drawn already, in the form of Lake's for Omniglot: a zip, or a folder with run01/class_labels.txt."""

    beside: tuple[str, ...] = ()
    """More encoders to score on the same images, each whatever RUN may be; of a file that does not say which network it is,
    NAME=FILE."""

    out: Path | None = None
    """Where the report goes; beside the encoder if none."""

    tensorboard: bool = False
    """Also write the scored images under every checkpoint, with thumbnails, for TensorBoard's projector: RUN/projector."""

    save_probe: bool = False
    """Also write the encoder's linear probe, calibrated on held-out training images, beside the score, for `predict.py`."""

    data: DataConfig = field(default_factory=DataConfig)
    """Labelled images to score on."""

    eval: EvalConfig = field(default_factory=EvalConfig)
    """The protocol's settings."""

    def __post_init__(self) -> None:
        expand_fields(self, "out", "runs")
        if self.save_probe and self.protocol != "closed":
            raise ConfigError(
                f"--save-probe writes the closed protocol's probe; leave out --protocol {self.protocol}, or --save-probe"
            )
        if self.runs is not None and self.protocol != "one-shot":
            raise ConfigError(f"--runs {self.runs} is for one-shot trials; add --protocol one-shot, or leave it out")
        if self.save_probe and self.eval.probe == "sgd":
            raise ConfigError(
                "--save-probe writes the probe of --eval.probe lbfgs; the sgd one sees every training image, and leaves none "
                "to calibrate on"
            )
