"""What takes memory in training, and what a run could do about it."""

import os
from contextlib import AbstractContextManager

from simclr.config import TrainConfig
from simclr.distributed import world_size
from simclr.memory import memory_in_words

__all__ = ["training_memory"]


def training_memory(config: TrainConfig) -> AbstractContextManager[None]:
    """Where memory runs out inside, an OutOfMemoryError names what of ``config`` takes it and what helps.

    The batch is never made smaller by itself: another batch is another run.
    """
    train, augment = config.train, config.augment
    causes = (
        f"the batch (train.batch_size {train.batch_size}, augment.views {augment.views}, augment.size {augment.size}), the "
        f"network ({config.encoder.name}, head.out_dim {config.head.out_dim}), images that are kept decoded (data.size "
        f"{config.data.size})"
    )
    local = train.batch_size // world_size()
    chunk = max(1, (train.cached_chunk or local) // 2)
    helps = (
        [f"--train.cached-chunk {chunk} (the loss still compares the whole batch)"] if train.cached_chunk != 1 else []
    )
    if not train.activation_checkpointing:
        helps.append("--train.activation-checkpointing (a run that has begun may take it up)")
    if train.precision != "bf16":
        helps.append("--train.precision bf16")
    if world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP") != "true":
        helps.append("accelerate launch --use_fsdp --fsdp_version 2 (the processes share the weights out)")
    helps += ["a smaller --train.batch-size", "--data.device-resident no", "fewer --data.workers"]
    return memory_in_words(causes, ", ".join(helps))
