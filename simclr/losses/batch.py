"""What a loss is given at a step: one object, whatever the loss reads of it."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["EmbeddedBatch"]


@dataclass(frozen=True, eq=False)
class EmbeddedBatch:
    """V views of B images of all processes, embedded, with all that is known of the images. The same in every process.

    >>> import torch
    >>> batch = EmbeddedBatch(torch.randn(2, 8, 16), torch.zeros(8, dtype=torch.int64), torch.arange(8), seed=0)
    >>> batch.keys is None
    True
    """

    z: Tensor
    """(V, B, D) floating point, the embeddings, with a graph."""
    labels: Tensor
    """int64 (B,); numbers (B,) or soft labels (B, C) for the losses that read them. All views of an image share its."""
    indices: Tensor
    """int64 (B,), the images' numbers in the training set."""
    seed: int
    """Of the step: what a loss draws is drawn from it."""
    keys: Tensor | None = None
    """(V, B, D) without a graph, the average's embeddings of the same views, for the losses that need them."""
