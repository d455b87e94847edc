"""The learning rate as a pure function of the step, and handing it to the optimizer."""

import math
from typing import Literal

import torch

from simclr.config import ScheduleConfig

__all__ = ["learning_rate", "set_learning_rate"]


def learning_rate(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    peak: float,
    final: float = 0.0,
    decay: Literal["cosine", "linear", "constant"] = "cosine",
) -> float:
    """Linear warm-up from 0 to ``peak``, then a decay to ``final * peak`` (Goyal et al. 2017; Loshchilov & Hutter 2017).

    Args:
        step: optimizer step, counted from 0. The first step of a warm-up already moves: it has ``peak / warmup_steps``.
        total_steps: steps of the whole run.
        warmup_steps: steps of the warm-up, at most ``total_steps``.
        peak: the highest learning rate.
        final: learning rate at ``total_steps`` as a share of ``peak``.
        decay: shape after the warm-up.

    >>> [round(learning_rate(s, total_steps=6, warmup_steps=2, peak=1.0), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if decay == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if decay == "cosine" else 1 - progress
    return peak * (final + (1 - final) * shape)


def set_learning_rate(
    optimizer: torch.optim.Optimizer,
    schedule: ScheduleConfig,
    step: int,
    *,
    steps_per_epoch: int,
    total_steps: int,
    peak: float,
) -> float:
    """Give ``optimizer`` the learning rate of ``step``, each of its groups at its own ``lr_scale``; returns the rate.

    While the head learns alone (``schedule.head_epochs``) it does so at ``peak``; the schedule begins behind that.
    """
    alone = schedule.head_epochs * steps_per_epoch
    rate = peak
    if step >= alone:
        rate = learning_rate(
            step - alone,
            total_steps=total_steps - alone,
            warmup_steps=round(schedule.warmup_epochs * steps_per_epoch),
            peak=peak,
            final=schedule.final,
            decay=schedule.decay,
        )
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    return rate
