"""What is trained: a backbone and its projection head in one module, so that one wrapper carries both."""

import torch
from torch import Tensor, nn

from simclr.config import TrainConfig
from simclr.distributed import derive_seed
from simclr.encoder import build_backbone, feature_width
from simclr.heads import projection_head

__all__ = ["ContrastiveModel", "build_model"]


class ContrastiveModel(nn.Module):
    """Images (N, 3, S, S) -> features h (N, F) and embeddings z (N, D)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = self.backbone(images)  # (N, F)
        return h, self.head(h)  # (N, D)


def build_model(config: TrainConfig) -> ContrastiveModel:
    """The model of a run, its weights a pure function of ``config`` and its seed."""
    seed = derive_seed(config.seed, "init")
    backbone = build_backbone(config.encoder, config.augment.size, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head"))
        head = projection_head(feature_width(backbone, config.augment.size), config.head)
    return ContrastiveModel(backbone, head)
