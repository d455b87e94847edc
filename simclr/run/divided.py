"""Weights of very many classes, of which each process holds those of its own classes: ArcFace and CosFace.

Directions, their gradient, the optimizer's state and their average are all cut into rows (`simclr.sharding`), so that clipping,
steps, checkpoints and a skipped step treat them as they treat the shards of FSDP. Files hold whole tensors.
"""

import math

from accelerate import Accelerator
from torch import nn

from simclr.objectives import Objective
from simclr.sharding import cut, is_sharded, on_host

__all__ = ["DIVIDED_FROM", "make_whole", "place_objectives"]

DIVIDED_FROM = 4 << 20
"""Numbers in a parameter from which on it is divided: of 32,768 classes in 128 dimensions. With its gradient and AdamW's two
averages these are 64 MB, and adding up the gradient moves as much as 31,000 rows of embeddings, there and back."""


def place_objectives(accelerator: Accelerator, *objectives: Objective) -> list[str]:
    """Put ``objectives``, alike in every process, on the device; of large weights of classes only the rows of this process.

    Args:
        accelerator: of the run.
        objectives: the one that learns first, then its average, if any.

    Returns:
        A line where weights are divided, or would be with another precision.
    """
    said: dict[str, None] = {}
    world = accelerator.num_processes
    for objective in objectives:
        loss = objective.loss
        able = loss.divisible() if world > 1 and vars(type(loss)).get("divides", False) else {}
        for name, together in able.items():
            weight = loss.get_parameter(name)
            classes = len(weight) // together
            if weight.numel() < DIVIDED_FROM:
                continue
            if accelerator.scaler is not None:  # which asks each process by itself whether a step overflows
                said |= {f"all {classes:,} classes; --train.precision bf16 would divide them": None}
                continue
            setattr(loss, name, nn.Parameter(cut(weight, accelerator.device, together), weight.requires_grad))
            said |= {f"{math.ceil(classes / world):,} of the {classes:,} classes": None}
        objective.to(accelerator.device)
    return [f"each process holds the weights of {words}" for words in said]


def make_whole(objective: Objective, keep: bool) -> None:
    """Where weights of ``objective`` are divided: put all of them on the CPU, in a process that is to ``keep`` them.

    For after training. A collective where they are divided.
    """
    for name, p in list(objective.loss.named_parameters()):
        if is_sharded(p):
            value = on_host(p, keep)
            if value is not None:
                setattr(objective.loss, name, nn.Parameter(value, p.requires_grad))
