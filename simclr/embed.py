"""Images of a set through a module, as they are: no augmentation, in order, batch by batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from augment import AugmentConfig, preprocess
from simclr.data import ImageSet

__all__ = ["embed_images"]


@torch.no_grad()
def embed_images(
    images: ImageSet, module: Callable[[Tensor], Tensor], augment: AugmentConfig, device: torch.device, batch: int = 512
) -> Tensor:
    """Outputs (N, F) float32 on ``device`` of ``module`` for all of ``images``, prepared at the size of ``augment``."""
    found = []
    for part in torch.arange(len(images)).split(batch):
        if images.pixels is not None:
            pixels = images.pixels[part.to(images.pixels.device)]
        else:
            pixels = torch.stack([images[i][0] for i in part.tolist()])
        found.append(module(preprocess(pixels.to(device), augment.size, augment.mean, augment.std)).float())
    return torch.cat(found)
