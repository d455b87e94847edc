"""What a loss is given at a step: one object, whatever the loss reads of it."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

__all__ = ["EmbeddedBatch"]


@dataclass(frozen=True, eq=False)
class EmbeddedBatch:
    """V views of B images, embedded, with all that is known of the images.

    Of the images of all processes together for `Loss.on_batch`; of this process's for `Loss.on_ranks`.

    >>> import torch
    >>> batch = EmbeddedBatch(torch.randn(2, 8, 16), torch.zeros(8, dtype=torch.int64), torch.arange(8), seed=0)
    >>> batch.keys is None
    True
    """

    z: Annotated[Tensor, "float V B D"]
    """(V, B, D) floating point, the embeddings, with a graph."""
    labels: Annotated[Tensor, "B ..."]
    """int64 (B,); numbers (B,) or soft labels (B, C) for the losses that read them. All views of an image share its."""
    indices: Annotated[Tensor, "int64 B"]
    """int64 (B,), the images' numbers in the training set."""
    seed: int
    """Of the step: what a loss draws is drawn from it."""
    keys: Annotated[Tensor, "float V B D"] | None = None
    """(V, B, D) without a graph, the average's embeddings of the same views, for the losses that need them."""
