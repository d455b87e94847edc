"""Everything a run can be told, as frozen dataclasses; ``simclr/presets.py`` names whole sets of them.

A field's docstring is its help text on the command line. What no two fields may say together is checked in one place,
``TrainConfig.__post_init__``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from augment import AugmentConfig
from simclr.config_data import DataConfig, SamplerConfig
from simclr.config_model import EncoderConfig, HeadConfig
from simclr.errors import ConfigError, require
from simclr.objectives import NTXentConfig, ObjectiveConfig

__all__ = [
    "RUNTIME_FIELDS",
    "DataConfig",
    "EncoderConfig",
    "HeadConfig",
    "LoopConfig",
    "OptimConfig",
    "SamplerConfig",
    "ScheduleConfig",
    "TrainConfig",
]

RUNTIME_FIELDS = frozenset(
    {
        "out",
        "data.workers",
        "data.device_resident",
        "data.download",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.trackers",
        "train.evaluate",
    }
)
"""Fields that may differ when a run is resumed, since no weight depends on them."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and the size of its steps."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    """LARS (You et al. 2017) with SimCLR's exclusions, SGD with Nesterov momentum, or AdamW."""

    learning_rate: float = 1.0
    """Peak learning rate for a batch of 256 images; `scaling` carries it to the batch in use."""

    scaling: Literal["linear", "sqrt", "none"] = "linear"
    """Multiply `learning_rate` by batch/256, by its square root, or not at all."""

    weight_decay: float = 1e-4
    """Weight decay; never applied to biases and normalisation parameters."""

    momentum: float = 0.9
    """Momentum of LARS and SGD."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two decay rates."""

    trust: float = 0.001
    """LARS's trust coefficient."""

    clip_norm: float | None = None
    """Clip the global norm of the gradient to this, before the step."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "positive")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in [0, 1)")
        require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "positive, or none")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the run: linear warm-up, then a decay by step."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""

    warmup_epochs: float = 10.0
    """Epochs over which the learning rate rises linearly from 0."""

    final: float = 0.0
    """The last step's learning rate as a share of the peak."""

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "0 or more")
        require(0 <= self.final <= 1, "schedule.final", self.final, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The training loop itself."""

    epochs: int = 100
    """Passes over the training images."""

    batch_size: int = 512
    """Images in a batch over all processes together; every one is seen in all its views."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the encoder. `auto`: bf16 where the device computes it natively, else fp32. Losses are always fp32."""

    channels_last: bool = True
    """Store images and convolution weights channels-last, which most devices convolve faster."""

    compile: Literal["no", "default", "reduce-overhead", "max-autotune"] = "no"
    """torch.compile the encoder and its head in this mode: faster steps, for a minute or more of compilation at the start."""

    cached_chunk: int | None = None
    """Images of a process that the memory has room for; None is all of them. Fewer means gradient caching (Gao et al. 2021):
    the loss still compares the whole batch, for a second forward pass. BatchNorm then sees a chunk at a time."""

    sync_batchnorm: bool = True
    """With several GPU processes, take BatchNorm statistics over all of them, so that the result is that of one process."""

    log_every: int = 20
    """Steps between two lines of metrics; nothing else waits for the device."""

    checkpoint_every: int = 500
    """Steps between two checkpoints; one is also written when a run is asked to stop."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""

    knn_every: int = 10
    """Epochs between two online kNN scores on held-out images, where there are labels; 0 is never."""

    trackers: tuple[str, ...] = ()
    """Experiment trackers, by their accelerate name: tensorboard, wandb, trackio, ..."""

    evaluate: bool = True
    """Let the command score the encoder at the end, beside raw pixels and an untrained encoder, where there are labels."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(self.batch_size >= 2, "train.batch_size", self.batch_size, "at least 2: NT-Xent needs negatives")
        require(
            self.cached_chunk is None or self.cached_chunk >= 1, "train.cached_chunk", self.cached_chunk, "at least 1"
        )
        require(self.knn_every >= 0, "train.knn_every", self.knn_every, "0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run, whole. `simclr.preset(name)` gives a tried one, `dataclasses.replace` changes it."""

    name: str = "digits"
    """The run's name: everything it writes goes to `out`/`name`, and the same command run again continues there."""

    out: Path = Path("runs")
    """The folder that holds the runs."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and the augmentation."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which images."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Which images come together in a batch."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the views are made."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The backbone."""

    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head."""

    objective: ObjectiveConfig = field(default_factory=NTXentConfig)
    """What is minimised."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over time."""

    train: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""

    def __post_init__(self) -> None:
        require(bool(self.name) and Path(self.name).name == self.name, "name", self.name, "a single folder name")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        if self.schedule.warmup_epochs > self.train.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} is longer than the run "
                f"(train.epochs={self.train.epochs}); shorten it, e.g. --schedule.warmup-epochs {self.train.epochs / 10:g}"
            )
        if self.objective.views > self.augment.views:
            raise ConfigError(
                f"the objective {self.objective.name} compares at least {self.objective.views} views of an image, "
                f"augment.views is {self.augment.views}; set --augment.views {self.objective.views}"
            )

    @property
    def run_dir(self) -> Path:
        """The run's folder, `out`/`name`."""
        return self.out / self.name
