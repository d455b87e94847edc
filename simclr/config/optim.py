"""The optimizer and the learning rate over the run."""

from dataclasses import dataclass
from typing import Literal

from simclr.config.marks import Rare
from simclr.config.numbers import LARGEST
from simclr.errors import ConfigError, require

__all__ = ["STEADY", "OptimConfig", "ScheduleConfig"]

STEADY = ("wsd", "constant")
"""Decays under which a run can be made longer later: its rate does not go by the number of its steps."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and the size of its steps."""

    name: Literal["lars", "sgd", "adamw", "muon"] = "lars"
    """LARS (You et al. 2017) with SimCLR's exclusions, SGD with momentum, AdamW, or Muon (Jordan et al. 2024) with
    momentum 0.95 and some ten times AdamW's learning rate, e.g. 0.02."""

    learning_rate: float = 1.0
    """Peak learning rate for a batch of 256 images; `scaling` carries it to the batch in use."""

    scaling: Rare[Literal["linear", "sqrt", "none"]] = "linear"
    """Multiply `learning_rate` by batch/256, by its square root, or not at all."""

    weight_decay: float = 1e-4
    """Weight decay; not of biases and normalisation parameters, unless `decay_all` says so."""

    decay_all: Rare[bool] = False
    """Weight decay of biases and normalisation parameters too, as torch's optimizers do it by themselves."""

    layer_decay: Rare[float] = 1.0
    """Learning rate of each layer of the backbone over that of the layer above it; the head has the full one. Fine-tuning
    takes 0.65 to 0.9 (Clark et al. 2020; Bao et al. 2022)."""

    momentum: Rare[float] = 0.9
    """Momentum of LARS, SGD and Muon."""

    nesterov: Rare[bool] = True
    """SGD looks ahead along its momentum (Nesterov)."""

    betas: Rare[tuple[float, float]] = (0.9, 0.999)
    """AdamW's two decay rates, and Muon's for vectors."""

    trust: Rare[float] = 0.001
    """LARS's trust coefficient."""

    trust_clip: Rare[bool] = False
    """LARS: `learning_rate` is the highest that a tensor may have, and no factor of what its norms give (LARC; solo-learn)."""

    clip_norm: Rare[float | None] = None
    """Clip the global norm of the gradient to this, before the step."""

    @property
    def own_scale(self) -> float:
        """What the objective's own parameters (class weights, boundaries) take of the learning rate: Muon's is some ten times
        AdamW's, and turns a network's matrices, not a boundary that is one number."""
        return 0.1 if self.name == "muon" else 1.0

    def __post_init__(self) -> None:
        positive = f"positive, up to {LARGEST:g}"
        require(0 < self.learning_rate <= LARGEST, "optim.learning_rate", self.learning_rate, positive)
        # The presets' rates are LARS's: changing the optimizer alone would train nothing, at great length.
        usual = {"adamw": (0.2, "1e-3, with scaling sqrt"), "muon": (0.2, "0.02, with scaling sqrt and momentum 0.95")}
        highest, instead = usual.get(self.name, (float("inf"), ""))
        if self.learning_rate > highest:
            raise ConfigError(
                f"optim.learning_rate={self.learning_rate:g} is a rate for LARS; {self.name} takes about {instead}"
            )
        require(0 <= self.weight_decay <= LARGEST, "optim.weight_decay", self.weight_decay, f"0 to {LARGEST:g}")
        require(0 < self.layer_decay <= 1, "optim.layer_decay", self.layer_decay, "in (0, 1]")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in [0, 1)")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "two numbers in [0, 1)")
        require(0 < self.trust <= LARGEST, "optim.trust", self.trust, positive)
        require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "positive, or none")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the run: linear warm-up, then a decay by step."""

    decay: Rare[Literal["cosine", "linear", "constant", "wsd"]] = "cosine"
    """Shape of the decay after the warm-up. `wsd` (warm-up, stable, decay; Hu et al. 2024) is constant and falls in the last
    fifth: the same command with more `train.epochs` goes on from where the decay began, after the end too. So does `constant`."""

    warmup_epochs: float = 10.0
    """Epochs over which the learning rate rises linearly from 0."""

    head_epochs: Rare[int] = 0
    """Epochs, before the others, in which only the head learns: linear probing, then fine-tuning (Kumar et al. 2022)."""

    final: Rare[float] = 0.0
    """The last step's learning rate as a share of the peak."""

    view_sizes: Rare[tuple[tuple[float, int], ...]] = ()
    """Views of other sizes at the start: pairs of the share of the run until which, and the pixels; then `augment.size`.
    `--schedule.view-sizes 0.5 24` trains on views of 24 px for the first half. `0.8 16 1 24` has none of `augment.size`:
    the encoder reads whole images of that size, in which things are about as large as in crops of 24 px (Touvron et al. 2019)."""

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.view_sizes]
        ascending = shares == sorted(set(shares)) and all(0 < share <= 1 for share in shares)
        require(ascending, "schedule.view_sizes", self.view_sizes, "shares of the run that rise, above 0 and up to 1")
        require(
            all(size > 0 for _, size in self.view_sizes),
            "schedule.view_sizes",
            self.view_sizes,
            "positive sizes in pixels",
        )
        require(self.head_epochs >= 0, "schedule.head_epochs", self.head_epochs, "0 or more")
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "0 or more")
        require(0 <= self.final <= 1, "schedule.final", self.final, "in [0, 1]")
