"""Gradient caching: the contrastive gradient of a large batch in the memory of a small one.

Gao, Zhang, Han, Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2101.06983).
A contrastive loss compares all rows of the batch, so that adding up the gradients of small batches is not the gradient
of the large one. But the encoder only meets the loss through z, and z is small:

1. embed the batch chunk by chunk without a graph, keeping z and the state of the random generators before each chunk;
2. compute the loss on the whole z, and dL/dz;
3. embed each chunk again under its old random state, this time with a graph, and send its rows of dL/dz through it.

The price is a second forward pass. For an encoder without batch statistics the result is the gradient of the chunks
embedded with one common graph: dropout and stochastic depth draw the same masks both times. BatchNorm normalises each
chunk by the chunk's own statistics, not by the batch's, in both passes; its running buffers move once for each chunk.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["CachedStep", "cached_step"]


class CachedStep(NamedTuple):
    """What a step leaves behind, besides the gradients in the model's parameters. Both without a graph."""

    loss: Tensor
    """Scalar."""
    z: Tensor
    """(V, B, D), the embeddings that the loss saw."""


def cached_step(
    model: nn.Module,
    views: Tensor,
    objective: Callable[[Tensor], Tensor],
    chunk: int,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> CachedStep:
    """Add the gradient of `objective(model(views))` to `.grad` of all parameters, `chunk` images at a time.

    Args:
        model: views (V, b, ...) of b images to z (V, b, D). Under DistributedDataParallel the gradients are exchanged
            once, with the last chunk.
        views: (V, B, ...), cut into the fewest chunks of at most `chunk` images, as equal as can be. Where one chunk
            holds all, this is a plain step without a second forward pass.
        objective: z (V, B, D) to a scalar loss. It may gather the rows of other processes, with gradient.
        chunk: images that the memory has room for, all their views included.
        backward: what starts the backward pass from the loss, such as `accelerator.backward`, which may scale it.

    Raises:
        ValueError: `chunk` is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; gradient caching expects at least 1 image at a time")
    pieces = views.tensor_split(max(1, math.ceil(views.shape[1] / chunk)), dim=1)
    if len(pieces) == 1:
        z = model(views)
        loss = objective(z)
        with buffers_at_rest(model):
            backward(loss)
        return CachedStep(loss.detach(), z.detach())

    # The bare module: DistributedDataParallel would copy rank 0's buffers to all here, and the restoring would undo it.
    module = model.module if isinstance(model, DistributedDataParallel) else model
    buffers = [buffer.clone() for buffer in model.buffers()]
    random_states = []
    embedded = []
    with torch.no_grad():
        for piece in pieces:
            random_states.append(random_state(views.device))
            embedded.append(module(piece))
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    torch.clear_autocast_cache()  # it holds half copies of the weights that were made without a graph

    z = torch.cat(embedded, dim=1).requires_grad_()  # (V, B, D)
    loss = objective(z)
    backward(loss)
    assert z.grad is not None

    after = random_state(views.device)
    for i, (piece, gradient) in enumerate(zip(pieces, z.grad.tensor_split(len(pieces), dim=1), strict=True)):
        set_random_state(views.device, random_states[i])
        with without_exchange(model) if i < len(pieces) - 1 else nullcontext():
            embedding = model(piece)
            with buffers_at_rest(model):
                embedding.backward(gradient)
    set_random_state(views.device, after)
    return CachedStep(loss.detach(), z.detach())


@contextmanager
def buffers_at_rest(model: nn.Module) -> Iterator[None]:
    """For a backward pass: one that computes activations again would move BatchNorm's running statistics a second time."""
    again = any(getattr(module, "grad_checkpointing", False) for module in model.modules())
    buffers = list(model.buffers()) if again else []
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def without_exchange(model: nn.Module) -> AbstractContextManager[None]:
    """Where `model` exchanges gradients between processes after a backward pass: not inside this context."""
    no_sync: Callable[[], AbstractContextManager[None]] = getattr(model, "no_sync", nullcontext)
    return no_sync()


def random_state(device: torch.device) -> list[Tensor]:
    """State of the generators that a forward pass on `device` may draw from; it lives on the host, there is no sync."""
    if device.type == "cpu":
        return [torch.get_rng_state()]
    if device.type == "mps":
        return [torch.get_rng_state(), torch.mps.get_rng_state()]
    return [torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device)]


def set_random_state(device: torch.device, state: list[Tensor]) -> None:
    """Put the generators back to a `random_state`."""
    torch.set_rng_state(state[0])
    if device.type == "mps":
        torch.mps.set_rng_state(state[1])
    elif device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[1], device)
