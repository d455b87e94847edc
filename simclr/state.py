"""What a checkpoint holds of a run, and putting it back."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from simclr.checkpoint import Checkpoint
from simclr.export import match_tensors

__all__ = ["gather_state", "restore_state"]


def gather_state(
    model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors for ``model.safetensors`` and the rest for ``state.pt``."""
    tensors = nn.ModuleDict({"model": model, "objective": objective}).state_dict()
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    return tensors, {"optimizer": optimizer.state_dict(), "scaler": scaler}


def restore_state(
    checkpoint: Checkpoint,
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> int:
    """Load a checkpoint into what was just built, every tensor or none; return the steps it had done.

    Raises:
        CheckpointError: its tensors are not exactly those of the model and the objective.
    """
    tensors = checkpoint.model()
    both = nn.ModuleDict({"model": model, "objective": objective})
    match_tensors(both, tensors, what=f"{checkpoint.path} does not fit this model")
    both.load_state_dict(tensors)
    state: dict[str, Any] = checkpoint.state()
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return int(checkpoint.progress["step"])
