"""What is trained: a backbone and its projection head in one module, so that one wrapper carries both."""

import torch
from torch import Tensor, nn

from simclr.config import TrainConfig
from simclr.distributed import derive_seed
from simclr.encoder import build_backbone, feature_width
from simclr.heads import projection_head

__all__ = ["ContrastiveModel", "build_model"]


class ContrastiveModel(nn.Module):
    """Views (V, B, 3, S, S) -> embeddings z (V, B, D), all views in one pass.

    ``features`` keeps the latest features h (V * B, F), without a graph, for the diagnostics.
    """

    features: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.memory_format = memory_format
        self.features = torch.empty(0)
        self.to(memory_format=memory_format)

    def forward(self, views: Tensor) -> Tensor:
        images = views.flatten(0, 1).contiguous(memory_format=self.memory_format)  # (V*B, 3, S, S)
        h = self.backbone(images)  # (V*B, F)
        self.features = h.detach()
        return self.head(h).unflatten(0, views.shape[:2])  # (V, B, D)


def build_model(config: TrainConfig) -> ContrastiveModel:
    """The model of a run, its weights a pure function of ``config`` and its seed."""
    seed = derive_seed(config.seed, "init")
    backbone = build_backbone(config.encoder, config.augment.size, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head"))
        head = projection_head(feature_width(backbone, config.augment.size), config.head)
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return ContrastiveModel(backbone, head, memory_format)
