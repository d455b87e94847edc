"""Everything a run can be told, as frozen dataclasses; ``simclr/presets.py`` names whole sets of them.

A field's docstring is its help text on the command line. What no two fields may say together is checked in one place,
``TrainConfig.__post_init__``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from augment import AugmentConfig, MixConfig
from simclr.config_data import DataConfig, SamplerConfig
from simclr.config_model import EncoderConfig, HeadConfig
from simclr.errors import ConfigError, require
from simclr.losses import MoCoConfig
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
        "train.knn_every",
        "train.trackers",
        "train.evaluate",
        "train.scratch",
        "profile",
    }
)
"""Fields that may differ when a run is resumed, since no weight depends on them."""


_LARGEST = 1e30
"""What a learning rate, a decay or a coefficient may be at most: their products with each other, with a batch's share and with a
tensor's norms have to fit float32, which ends at 3.4e38."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and the size of its steps."""

    name: Literal["lars", "sgd", "adamw", "muon"] = "lars"
    """LARS (You et al. 2017) with SimCLR's exclusions, SGD with Nesterov momentum, AdamW, or Muon (Jordan et al. 2024) with
    momentum 0.95 and some ten times AdamW's learning rate, e.g. 0.02."""

    learning_rate: float = 1.0
    """Peak learning rate for a batch of 256 images; `scaling` carries it to the batch in use."""

    scaling: Literal["linear", "sqrt", "none"] = "linear"
    """Multiply `learning_rate` by batch/256, by its square root, or not at all."""

    weight_decay: float = 1e-4
    """Weight decay; never applied to biases and normalisation parameters."""

    layer_decay: float = 1.0
    """Learning rate of each layer of the backbone over that of the layer above it; the head has the full one. Fine-tuning
    takes 0.65 to 0.9 (Clark et al. 2020; Bao et al. 2022)."""

    momentum: float = 0.9
    """Momentum of LARS, SGD and Muon."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two decay rates, and Muon's for vectors."""

    trust: float = 0.001
    """LARS's trust coefficient."""

    clip_norm: float | None = None
    """Clip the global norm of the gradient to this, before the step."""

    def __post_init__(self) -> None:
        positive = f"positive, up to {_LARGEST:g}"
        require(0 < self.learning_rate <= _LARGEST, "optim.learning_rate", self.learning_rate, positive)
        # The presets' rates are LARS's: changing the optimizer alone would train nothing, at great length.
        usual = {"adamw": (0.2, "1e-3, with scaling sqrt"), "muon": (0.2, "0.02, with scaling sqrt and momentum 0.95")}
        highest, instead = usual.get(self.name, (float("inf"), ""))
        if self.learning_rate > highest:
            raise ConfigError(
                f"optim.learning_rate={self.learning_rate:g} is a rate for LARS; {self.name} takes about {instead}"
            )
        require(0 <= self.weight_decay <= _LARGEST, "optim.weight_decay", self.weight_decay, f"0 to {_LARGEST:g}")
        require(0 < self.layer_decay <= 1, "optim.layer_decay", self.layer_decay, "in (0, 1]")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in [0, 1)")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "two numbers in [0, 1)")
        require(0 < self.trust <= _LARGEST, "optim.trust", self.trust, positive)
        require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "positive, or none")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the run: linear warm-up, then a decay by step."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""

    warmup_epochs: float = 10.0
    """Epochs over which the learning rate rises linearly from 0."""

    head_epochs: int = 0
    """Epochs, before the others, in which only the head learns: linear probing, then fine-tuning (Kumar et al. 2022)."""

    final: float = 0.0
    """The last step's learning rate as a share of the peak."""

    view_sizes: tuple[tuple[float, int], ...] = ()
    """Views of other sizes at the start: pairs of the share of the run until which, and the pixels; then `augment.size`.
    `--schedule.view-sizes 0.5 24` trains on views of 24 px for the first half."""

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.view_sizes]
        ascending = shares == sorted(set(shares)) and all(0 < share < 1 for share in shares)
        require(ascending, "schedule.view_sizes", self.view_sizes, "shares of the run between 0 and 1 that rise")
        require(
            all(size > 0 for _, size in self.view_sizes),
            "schedule.view_sizes",
            self.view_sizes,
            "positive sizes in pixels",
        )
        require(self.head_epochs >= 0, "schedule.head_epochs", self.head_epochs, "0 or more")
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

    compile_augment: bool = False
    """torch.compile the augmentation on a GPU; that of a CPU is faster as it is."""

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

    ema: float | None = None
    """Decay of an exponential moving average of the weights, e.g. 0.999; it rises to that from 0, and the average is what is
    exported. None is no average."""

    scratch: bool = True
    """Fine-tuning: also train the same network from random weights, to compare with."""

    evaluate: bool = True
    """Let the command score the encoder at the end, beside raw pixels and an untrained encoder, where there are labels."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(self.batch_size >= 2, "train.batch_size", self.batch_size, "at least 2: NT-Xent needs negatives")
        require(
            self.cached_chunk is None or self.cached_chunk >= 1, "train.cached_chunk", self.cached_chunk, "at least 1"
        )
        require(self.ema is None or 0 < self.ema < 1, "train.ema", self.ema, "in (0, 1), or none")
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

    profile: bool = False
    """Time the parts of 20 steps, print where they went, write a trace, and stop."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which images."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Which images come together in a batch."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the views are made."""

    mix: MixConfig = field(default_factory=MixConfig)
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
        require(bool(self.name) and Path(self.name).name == self.name, "name", self.name, "a single folder name")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
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
        given = getattr(self.objective, "mining", None) == "given"
        if given and self.sampler.name != "mined":
            raise ConfigError(
                "objective.mining=given takes the triplets of sampler.name=mined; set --sampler.name mined"
            )
        if self.sampler.name == "mined" and (not self.objective.needs_labels or self.train.batch_size % 3):
            raise ConfigError(
                f"sampler.name=mined fills batches with triplets of labelled images: it needs an objective on labels, got "
                f"{self.objective.name}, and a train.batch_size that 3 divides, got {self.train.batch_size}"
            )
        if self.mix.active and not self.objective.soft_labels:
            raise ConfigError(
                f"mix.mixup={self.mix.mixup:g} and mix.cutmix={self.mix.cutmix:g} give soft labels, which the objective "
                f"{self.objective.name} does not take; use objective:cross-entropy or objective:quality-focal"
            )
        if isinstance(self.objective, MoCoConfig) and self.train.ema is not None:
            raise ConfigError(
                f"train.ema={self.train.ema:g} and the objective moco, which keeps an average of its own: leave train.ema "
                "out and set --objective.momentum"
            )
        if self.head.predictor_dim and not isinstance(self.objective, MoCoConfig):
            raise ConfigError(
                f"head.predictor_dim={self.head.predictor_dim} is for the objective moco, not {self.objective.name}"
            )
        if self.encoder.init is not None and self.encoder.pretrained:
            raise ConfigError("encoder.init and encoder.pretrained both name weights to start from; give one of them")
        if self.objective.views > self.augment.views:
            raise ConfigError(
                f"the objective {self.objective.name} compares at least {self.objective.views} views of an image, "
                f"augment.views is {self.augment.views}; set --augment.views {self.objective.views}"
            )

    @property
    def ema(self) -> float | None:
        """Decay of the average of the weights: `objective.momentum` where the loss compares with it, else `train.ema`."""
        return self.objective.momentum if isinstance(self.objective, MoCoConfig) else self.train.ema

    @property
    def run_dir(self) -> Path:
        """The run's folder, `out`/`name`."""
        return self.out / self.name
