"""What a checkpoint holds of a run, and putting it back."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from simclr.checkpoint import Checkpoint
from simclr.data import MinedSampler, Sampler
from simclr.export import match_tensors

__all__ = ["gather_state", "restore_state"]


def gather_state(
    modules: nn.Module, sampler: Sampler, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors for ``model.safetensors`` and the rest for ``state.pt``; ``modules`` holds all that has weights."""
    tensors = modules.state_dict()
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    state = {"optimizer": optimizer.state_dict(), "scaler": scaler}
    if isinstance(sampler, MinedSampler):
        state["triplets"] = sampler.triplets
    return tensors, state


def restore_state(
    checkpoint: Checkpoint,
    modules: nn.Module,
    sampler: Sampler,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> int:
    """Load a checkpoint into what was just built, every tensor or none; return the steps it had done.

    Raises:
        CheckpointError: its tensors are not exactly those of ``modules``.
    """
    tensors = checkpoint.model()
    match_tensors(modules, tensors, what=f"{checkpoint.path} does not fit this model")
    modules.load_state_dict(tensors)
    state: dict[str, Any] = checkpoint.state()
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    if isinstance(sampler, MinedSampler):
        sampler.triplets = state["triplets"]
    return int(checkpoint.progress["step"])
