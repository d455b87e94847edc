"""The keys of momentum contrast: embeddings of the same views by the moving average of the weights."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from simclr.compilation import maybe_compiled
from simclr.config import TrainConfig
from simclr.distributed import gather_rows
from simclr.weights import Weights

__all__ = ["momentum_keys"]


def momentum_keys(weights: Weights, config: TrainConfig, accelerator: Accelerator) -> Callable[[Tensor], Tensor | None]:
    """A function from this process's views (V, B, 3, S, S) to the keys (V, global B, D) of all processes.

    Where the objective compares with no keys it gives None. The average is in eval mode, so that an image's key does not
    depend on the others in the batch, and `train.cached_chunk` cuts them as it likes.
    """
    if not weights.objective.wants_keys:
        return lambda views: None
    average, _ = weights.final
    chunk = config.train.cached_chunk
    embed = maybe_compiled(average, config.train.compile)

    @torch.no_grad()
    def keys_of(views: Tensor) -> Tensor:
        with accelerator.autocast():
            # A copy: in some modes the next call of a compiled module writes over what this one gave.
            keys = [embed(piece).clone() for piece in views.split(chunk or views.shape[1], dim=1)]
        return gather_rows(torch.cat(keys, dim=1))

    return keys_of
