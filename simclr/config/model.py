"""What a run can be told about its model: the backbone and the projection head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr.config.marks import Rare
from simclr.errors import require
from simclr.paths import expanded

__all__ = ["EncoderConfig", "HeadConfig"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The backbone: any image model of timm, cut before its classifier."""

    name: str = "resnet18"
    """timm model name, e.g. resnet18, resnet50, vit_tiny_patch16_224, convnext_atto."""

    init: str | None = None
    """Start from these weights: a run, an encoder folder, or a checkpoint file of timm, torchvision, lightly or solo-learn.
    Every tensor of the backbone must be in it."""

    init_partial: Rare[bool] = False
    """Take the tensors of `init` that match, and start the others afresh."""

    frozen_layers: Rare[int] = 0
    """Layers, counted from the image, that keep the weights they start from: 1 is the stem, 2 the first block with it, and
    so on; -1 freezes the whole backbone. Their BatchNorm keeps its statistics."""

    stem: Rare[Literal["auto", "small", "patch", "imagenet"]] = "auto"
    """ResNets only. `small`: 3x3 stride-1 convolution, no max-pool, as SimCLR does for CIFAR-10. `auto`: small up to 64 px.
    `patch`: 4x4 stride-2 convolution, no max-pool, which leaves a quarter of the work."""

    pretrained: Rare[bool] = False
    """Start from timm's published weights (downloaded)."""

    layers: Rare[tuple[int, ...] | None] = None
    """ResNets only: blocks in each stage, instead of the model's own; last stages of 0 are left out."""

    channels: Rare[tuple[int, ...] | None] = None
    """ResNets only: channels of each stage, instead of the model's own."""

    patch_size: Rare[int | None] = None
    """Transformers with patches only: their size in pixels, instead of the model's own."""

    drop_path: Rare[float] = 0.0
    """Stochastic depth: the probability of dropping the last block's residual branch; it falls linearly to the first."""

    @property
    def started_from(self) -> str | None:
        """Whose weights the backbone starts from, in words; None for random ones."""
        return self.init or (f"timm's weights of {self.name}" if self.pretrained else None)

    def __post_init__(self) -> None:
        if self.init is not None and (self.init.startswith("~") or "$" in self.init):  # else it may be a model's name
            object.__setattr__(self, "init", str(expanded(Path(self.init))))
        for name in ("layers", "channels"):
            values = getattr(self, name)
            kept = [1] if values is None else list(values)
            while name == "layers" and kept and kept[-1] == 0:
                kept.pop()
            require(bool(kept) and all(v >= 1 for v in kept), f"encoder.{name}", values, "numbers of at least 1")
        require(
            self.patch_size is None or self.patch_size >= 1,
            "encoder.patch_size",
            self.patch_size,
            "at least 1, or none",
        )
        require(self.frozen_layers >= -1, "encoder.frozen_layers", self.frozen_layers, "-1, 0 or more")
        require(0 <= self.drop_path < 1, "encoder.drop_path", self.drop_path, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head g of SimCLR; it is thrown away after pretraining."""

    layers: Rare[int] = 2
    """Linear layers: 1 to 3. The paper has 2 on CIFAR-10 and 3 in its second version (SimCLR v2); 0 is no head at all."""

    hidden_dim: Rare[int | None] = None
    """Width of the hidden layers; None takes the encoder's feature width, as the paper does."""

    out_dim: int = 128
    """Width D of the embedding that the loss sees."""

    batch_norm: Rare[bool] = True
    """BatchNorm after every linear layer (after the last one without a learnable shift), as in the paper's code."""

    predictor_dim: Rare[int] = 0
    """Hidden width of MoCo v3's predictor, an MLP of two layers behind the head; 0 is none. For `objective:moco`."""

    predictor_norm: Rare[bool] = True
    """A last BatchNorm in the predictor, without scale and shift: MoCo v3 has it for transformers and not for ResNets."""

    def __post_init__(self) -> None:
        require(
            self.hidden_dim is None or self.hidden_dim >= 1, "head.hidden_dim", self.hidden_dim, "at least 1, or none"
        )
        require(self.predictor_dim >= 0, "head.predictor_dim", self.predictor_dim, "0 or more")
        require(0 <= self.layers <= 3, "head.layers", self.layers, "0, 1, 2 or 3")
        require(self.out_dim >= 2, "head.out_dim", self.out_dim, "at least 2")
