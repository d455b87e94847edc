"""The learning rate and the size of the views as pure functions of the step, and handing the rate to the optimizer."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch

from simclr.config import ScheduleConfig

__all__ = ["decay_begins", "learning_rate", "set_learning_rate", "sizes_by_step", "steps_left"]

Decay = Literal["cosine", "linear", "constant", "wsd"]

_DECAY_SHARE = 0.2
"""Of a run of ``wsd`` that its decay takes: between 10 and 20 % is as good as a cosine (Hägele et al. 2024, section 3)."""


def learning_rate(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    peak: float,
    final: float = 0.0,
    decay: Decay = "cosine",
) -> float:
    """Linear warm-up from 0 to ``peak``, then a decay to ``final * peak`` (Goyal et al. 2017; Loshchilov & Hutter 2017).

    ``wsd`` is warm-up, stable, decay (Hu et al. 2024, MiniCPM): constant, then over the last fifth of the run down by
    1 - sqrt of the decay's progress (Hägele et al. 2024, section 3).

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
    begin = _stable_steps(total_steps, warmup_steps) if decay == "wsd" else warmup_steps
    progress = max(0.0, min(1.0, (step - begin) / max(1, total_steps - begin)))
    shapes = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "wsd": 1 - math.sqrt(progress),
    }
    return peak * (final + (1 - final) * shapes[decay])


def _stable_steps(total_steps: int, warmup_steps: int) -> int:
    """Steps before the decay of ``wsd``: at least the warm-up, and never all of a run."""
    return max(warmup_steps, total_steps - max(1, round(_DECAY_SHARE * total_steps)))


def decay_begins(schedule: ScheduleConfig, *, steps_per_epoch: int, total_steps: int) -> int | None:
    """The step at which the decay of ``wsd`` begins, up to which a longer run is this one; None where there is no such step.

    >>> decay_begins(ScheduleConfig(decay="wsd", warmup_epochs=1), steps_per_epoch=5, total_steps=50)
    40
    """
    if schedule.view_sizes or schedule.decay != "wsd":
        return None
    alone = schedule.head_epochs * steps_per_epoch
    return alone + _stable_steps(total_steps - alone, round(schedule.warmup_epochs * steps_per_epoch))


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


def sizes_by_step(view_sizes: Sequence[tuple[float, int]], size: int, total_steps: int) -> list[tuple[int, int]]:
    """The sizes of a run's views in pixels, each with the step up to which it serves; none that no step has.

    Args:
        view_sizes: as ``schedule.view_sizes``.
        size: of the views after those.
        total_steps: of the run.

    >>> sizes_by_step([(0.5, 16), (0.75, 24)], 32, total_steps=8)
    [(16, 4), (24, 6), (32, 8)]
    >>> sizes_by_step([(1, 24)], 32, total_steps=8)
    [(24, 8)]
    """
    ends = [(pixels, round(share * total_steps)) for share, pixels in [*view_sizes, (1.0, size)]]
    return [one for before, one in pairwise([(0, 0), *ends]) if one[1] > before[1]]


def steps_left(view_sizes: Sequence[tuple[float, int]], size: int, step: int, total_steps: int) -> float:
    """How many steps like the last take as long as those that are left: the time of a step goes with its views' pixels.

    Args:
        view_sizes: as ``schedule.view_sizes``.
        size: of the views after those.
        step: how many are done.
        total_steps: of the run.

    >>> steps_left([(0.5, 16)], 32, step=2, total_steps=8)  # two like it, and four of four times as many pixels
    18.0
    """
    begun, left, last = 0, 0, size
    for pixels, end in sizes_by_step(view_sizes, size, total_steps):
        if begun < max(step, 1) <= end:
            last = pixels
        left += max(0, end - max(begun, step)) * pixels**2
        begun = end
    return left / last**2
