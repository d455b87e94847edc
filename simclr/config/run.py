"""A run, whole: its parts, the training loop's own settings, and what no two fields may say together."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from augment import AugmentConfig, MixConfig
from simclr.config.data import DataConfig, SamplerConfig
from simclr.config.given import GivenConfig
from simclr.config.marks import RUNTIME, Fixed, Rare, Runtime, marked
from simclr.config.model import EncoderConfig, HeadConfig
from simclr.config.normalisation import normalised_for
from simclr.config.numbers import check_numbers
from simclr.config.optim import OptimConfig, ScheduleConfig
from simclr.errors import ConfigError, require
from simclr.objectives import OBJECTIVES, NTXentConfig, ObjectiveConfig
from simclr.paths import expand_fields, is_folder_name

__all__ = ["RUNTIME_FIELDS", "LoopConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The training loop itself."""

    epochs: int = 100
    """Passes over the training images."""

    batch_size: int = 512
    """Images in a batch over all processes together; every one is seen in all its views."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the encoder. `auto`: bf16 where the device computes it natively, else fp32. Losses are always fp32."""

    channels_last: Rare[bool] = True
    """Store images and convolution weights channels-last, which most devices convolve faster."""

    compile: Literal["no", "default", "reduce-overhead", "max-autotune"] = "no"
    """torch.compile the encoder and its head in this mode: faster steps, for a minute or more of compilation at the start."""

    compile_augment: Rare[bool] = False
    """torch.compile the augmentation on a GPU; that of a CPU is faster as it is."""

    cached_chunk: int | None = None
    """Images of a process that the memory has room for; None is all of them. Fewer means gradient caching (Gao et al. 2021):
    the loss still compares the whole batch, for a second forward pass. BatchNorm then sees a chunk at a time."""

    activation_checkpointing: Runtime[Rare[bool]] = False
    """Compute the activations of the encoder's blocks again in the backward pass instead of keeping them: less memory, for up
    to a third more time. The gradients stay the same."""

    wire: Rare[Literal["full", "bf16"]] = "full"
    """How embeddings travel between processes: `full`, as the encoder gives them, or `bf16`, in half the bytes of float32, which
    rounds what the loss compares to 3 digits."""

    sync_batchnorm: Rare[bool] = True
    """With several GPU processes, take BatchNorm statistics over all of them, so that the result is that of one process."""

    log_every: Runtime[Rare[int]] = 20
    """Steps between two lines of metrics; nothing else waits for the device."""

    checkpoint_every: Runtime[Rare[int]] = 500
    """Steps between two checkpoints; one is also written when a run is asked to stop."""

    keep_checkpoints: Runtime[Rare[int]] = 2
    """How many of the newest checkpoints stay on disk; the one of the best online score stays too, where there are scores."""

    keep_every: Runtime[Rare[int | None]] = None
    """Keep every checkpoint whose step this divides as well; None keeps none for good."""

    knn_every: Runtime[Rare[int]] = 10
    """Epochs between two online kNN scores on held-out images, where there are labels; 0 is never."""

    keep: Runtime[Rare[Literal["last", "best"]]] = "last"
    """Which weights become the encoder: the last, or those of the best score while training went on (`knn_every`): of validation
    images, of kNN on held-out training images, or without labels RankMe (Garrido et al. 2023). Never of test images."""

    patience: Runtime[Rare[int | None]] = None
    """Stop after so many of these scores in a row without a better one; None trains to the end."""

    trackers: Runtime[Rare[tuple[str, ...]]] = ()
    """Experiment trackers, by their accelerate name: tensorboard, wandb, trackio, ..."""

    ema: Rare[float | None] = None
    """Decay of an exponential moving average of the weights, e.g. 0.999; it rises to that from 0, and the average is what is
    exported. None is no average."""

    scratch: Runtime[Rare[bool]] = True
    """Fine-tuning: also train the same network from random weights, to compare with."""

    evaluate: Runtime[bool] = True
    """Let the command score the encoder at the end, beside raw pixels and an untrained encoder, where there are labels."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(
            self.keep_every is None or self.keep_every >= 1, "train.keep_every", self.keep_every, "at least 1, or none"
        )
        require(self.batch_size >= 2, "train.batch_size", self.batch_size, "at least 2: NT-Xent needs negatives")
        require(
            self.cached_chunk is None or self.cached_chunk >= 1, "train.cached_chunk", self.cached_chunk, "at least 1"
        )
        require(self.ema is None or 0 < self.ema < 1, "train.ema", self.ema, "in (0, 1), or none")
        require(self.knn_every >= 0, "train.knn_every", self.knn_every, "0 or more")
        require(self.patience is None or self.patience >= 1, "train.patience", self.patience, "at least 1, or none")
        if self.by_score and not self.knn_every:
            asks = "train.keep=best" if self.keep == "best" else f"train.patience={self.patience}"
            raise ConfigError(f"{asks} goes by scores, and train.knn_every=0 takes none; set --train.knn-every 1")

    @property
    def by_score(self) -> bool:
        """Whether a score decides when training ends, or what comes out of it."""
        return self.keep == "best" or self.patience is not None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run, whole. `simclr.preset(name)` gives a tried one, and `but` changes it."""

    name: str = "digits"
    """The run's name: everything it writes goes to `out`/`name`, and the same command run again continues there."""

    out: Runtime[Path] = Path("runs")
    """The folder that holds the runs."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and the augmentation."""

    profile: Runtime[Rare[bool]] = False
    """Time the parts of 20 steps, print where they went, write a trace, and stop."""

    plugin: Fixed[Runtime[tuple[str, ...]]] = ()
    """Modules of the user's own that the run needs, as ``--plugin`` imported them."""

    given: Fixed[GivenConfig] = field(default_factory=GivenConfig)
    """What was handed to ``simclr.pretrain`` beside this config."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which images."""

    sampler: Rare[SamplerConfig] = field(default_factory=SamplerConfig)
    """Which images come together in a batch."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the views are made."""

    mix: Rare[MixConfig] = field(default_factory=MixConfig)
    """Mixed images, for objectives on soft labels."""

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
        check_numbers(self)
        expand_fields(self, "out")
        require(
            is_folder_name(self.name),
            "name",
            self.name,
            "a single folder name, of at most 200 bytes, that a file system takes",
        )
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        object.__setattr__(self, "augment", normalised_for(self.data.channels, self.augment))
        if self.schedule.warmup_epochs > self.train.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} is longer than the run "
                f"(train.epochs={self.train.epochs}); shorten it, e.g. --schedule.warmup-epochs {self.train.epochs / 10:g}"
            )
        if self.schedule.warmup_epochs + self.schedule.head_epochs > self.train.epochs:
            raise ConfigError(
                f"schedule.head_epochs={self.schedule.head_epochs} and schedule.warmup_epochs="
                f"{self.schedule.warmup_epochs:g} together are longer than the run (train.epochs={self.train.epochs})"
            )
        if self.objective.needs_triplets and self.sampler.name != "mined":
            raise ConfigError(
                "objective.mining=given takes the triplets of sampler.name=mined; set --sampler.name mined"
            )
        if self.sampler.name == "mined" and (not self.objective.needs_labels or self.train.batch_size % 3):
            raise ConfigError(
                f"sampler.name=mined fills batches with triplets of labelled images: it needs an objective on labels, got "
                f"{self.objective.name}, and a train.batch_size that 3 divides, got {self.train.batch_size}"
            )
        if self.mix.active and not self.objective.soft_labels:
            takers = " or ".join(f"objective:{one.name}" for one in OBJECTIVES if one.soft_labels)
            raise ConfigError(
                f"mix.mixup={self.mix.mixup:g} and mix.cutmix={self.mix.cutmix:g} give soft labels, which the objective "
                f"{self.objective.name} does not take; use {takers}"
            )
        if self.objective.average is not None and self.train.ema is not None:
            raise ConfigError(
                f"train.ema={self.train.ema:g} and the objective {self.objective.name}, which keeps an average of its own: "
                "leave train.ema out and set --objective.momentum"
            )
        if self.head.predictor_dim and not self.objective.needs_keys:
            takers = ", ".join(one.name for one in OBJECTIVES if one.needs_keys)
            raise ConfigError(
                f"head.predictor_dim={self.head.predictor_dim} is for the objective {takers}, not {self.objective.name}"
            )
        if self.encoder.init is not None and self.encoder.pretrained:
            raise ConfigError("encoder.init and encoder.pretrained both name weights to start from; give one of them")
        if self.objective.views > self.augment.views:
            raise ConfigError(
                f"the objective {self.objective.name} compares at least {self.objective.views} views of an image, "
                f"augment.views is {self.augment.views}; set --augment.views {self.objective.views}"
            )

    def but(self, **changes: Any) -> "TrainConfig":
        """This config with ``changes``, named as its fields are and nested as in a YAML file.

        Raises:
            ConfigError: a name or a value that a YAML file would be refused for, in the same words.

        >>> config = TrainConfig().but(name="birds", train={"epochs": 20}, objective={"name": "triplet", "margin": 0.3})
        >>> config.train.epochs, config.train.batch_size, config.objective.margin
        (20, 512, 0.3)
        """
        from simclr.config.yaml import changed

        return changed(self, changes)

    @property
    def starts_from_weights(self) -> bool:
        """Whether the backbone starts from weights that are there already."""
        return self.encoder.started_from is not None

    @property
    def ema(self) -> float | None:
        """Decay of the average of the weights: the objective's where the loss compares with it, else `train.ema`."""
        return self.train.ema if self.objective.average is None else self.objective.average

    @property
    def run_dir(self) -> Path:
        """The run's folder, `out`/`name`."""
        return self.out / self.name


RUNTIME_FIELDS = marked(TrainConfig, RUNTIME)
"""Fields that may differ when a run is resumed, since no weight depends on them: those with the mark ``Runtime``."""
