"""The online score: kNN on held-out training images, every few epochs. The test set is never looked at in training."""

import torch
from torch import Tensor, nn

from augment import preprocess
from simclr.config import TrainConfig
from simclr.data import ImageSet
from simclr.distributed import derive_seed
from simclr.neighbours import nearest_neighbour_vote

__all__ = ["OnlineScore"]

_NEIGHBOURS, _QUERIES = 10_000, 2_000


class OnlineScore:
    """kNN accuracy of the features, on a fixed seeded part of the labelled training images."""

    def __init__(self, images: ImageSet, config: TrainConfig) -> None:
        assert images.labels is not None
        generator = torch.Generator().manual_seed(derive_seed(config.data.split_seed, "online"))
        labelled = (images.labels >= 0).nonzero().flatten()
        order = labelled[torch.randperm(len(labelled), generator=generator)]
        held_out = min(_QUERIES, len(order) // 5)
        self.images, self.augment = images, config.augment
        self.queries, self.bank = order[:held_out], order[held_out:][:_NEIGHBOURS]

    @torch.no_grad()
    def __call__(self, backbone: nn.Module, device: torch.device) -> float:
        """Accuracy in [0, 1] of kNN (k = 20, temperature 0.1); the modules' modes are as before afterwards."""
        modes = {module: module.training for module in backbone.modules()}
        backbone.eval()
        bank, queries = self._features(backbone, self.bank, device), self._features(backbone, self.queries, device)
        for module, training in modes.items():
            module.training = training
        labels = self.images.labels
        assert labels is not None
        found = nearest_neighbour_vote(bank, labels[self.bank].to(device), queries)
        return (found.cpu() == labels[self.queries]).float().mean().item()

    def _features(self, backbone: nn.Module, index: Tensor, device: torch.device) -> Tensor:
        features = []
        for part in index.split(512):
            if self.images.pixels is not None:
                pixels = self.images.pixels[part.to(self.images.pixels.device)]
            else:
                pixels = torch.stack([self.images[i][0] for i in part.tolist()])
            images = preprocess(pixels.to(device), self.augment.size, self.augment.mean, self.augment.std)
            features.append(backbone(images).float())
        return torch.cat(features)
