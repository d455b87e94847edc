"""What is trained: a backbone and its projection head in one module, so that one wrapper carries both."""

import torch
from torch import Tensor, nn

from simclr.config import TrainConfig
from simclr.distributed import derive_seed
from simclr.model.encoder import build_backbone, checkpoint_activations, feature_width
from simclr.model.heads import predictor, projection_head
from simclr.model.layers import freeze

__all__ = ["ContrastiveModel", "build_model"]


class ContrastiveModel(nn.Module):
    """Views (V, B, C, S, S) -> embeddings z (V, B, D), all views in one pass.

    In training mode the embeddings go through ``predictor``, the identity unless ``head.predictor_dim`` asks for one.
    ``features`` keeps the latest features h (V * B, F), without a graph, for the diagnostics.
    """

    features: Tensor
    width: int
    """D, where ``build_model`` made it."""

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        memory_format: torch.memory_format,
        predictor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.predictor = predictor or nn.Identity()
        self.memory_format = memory_format
        self.features = torch.empty(0)
        self.frozen: list[nn.Module] = []
        """Modules that stay in eval mode: those whose parameters are all frozen."""
        self.only_head = False
        """Whether the backbone rests, in eval mode and without a graph, while the head learns."""
        self.to(memory_format=memory_format)

    def forward(self, views: Tensor) -> Tensor:
        images = views.flatten(0, 1).contiguous(memory_format=self.memory_format)  # (V*B, C, S, S)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.only_head):
            h = self.backbone(images)  # (V*B, F)
        self.features = h.detach()
        z = self.head(h)  # (V*B, D)
        return (self.predictor(z) if self.training else z).unflatten(0, views.shape[:2])  # (V, B, D)

    def train(self, mode: bool = True) -> "ContrastiveModel":
        """As in every module, but what is frozen keeps its BatchNorm statistics."""
        super().train(mode)
        for module in [self.backbone] if self.only_head else self.frozen:
            module.eval()
        return self

    def rest_backbone(self, resting: bool) -> None:
        """Let only the head learn, or all again."""
        if resting != self.only_head:
            self.only_head = resting
            self.train(self.training)


def build_model(config: TrainConfig) -> ContrastiveModel:
    """The model of a run, its weights a pure function of ``config`` and its seed."""
    seed = derive_seed(config.seed, "init")
    backbone = build_backbone(config.encoder, config.augment.size, seed, config.data.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head"))
        width = feature_width(backbone, config.augment.size, config.data.channels)
        head = projection_head(width, config.head)
        width = config.head.out_dim if config.head.layers else width
        predicts = predictor(width, config.head.predictor_dim, config.head.predictor_norm)
    if config.train.activation_checkpointing:
        checkpoint_activations(backbone, config.encoder.name)
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model = ContrastiveModel(backbone, head, memory_format, predicts)
    model.width = width
    model.frozen = freeze(backbone, config.encoder.frozen_layers)
    return model
