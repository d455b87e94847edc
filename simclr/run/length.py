"""Whether a run is long enough to beat raw pixels, as far as this project has seen: said before a short one begins."""

import math

from simclr.config import TrainConfig

__all__ = ["too_short", "wanted_steps"]

_WANTED = {"muon": 100}
_OTHERS = 600
"""Steps at which runs from nothing had passed raw pixels: docs/choosing.md, "How long"."""


def wanted_steps(config: TrainConfig) -> int:
    """Steps that a run from nothing should have at least, of a network that learns from views alone; 0 for any other.

    >>> wanted_steps(TrainConfig())
    600
    """
    learns_from_labels = config.objective.needs_labels
    if config.starts_from_weights or learns_from_labels:
        return 0
    return _WANTED.get(config.optim.name, _OTHERS)


def too_short(config: TrainConfig, steps_per_epoch: int) -> list[str]:
    """A sentence where the run that ``config`` says has fewer steps than are wanted, and how many epochs have them; else none."""
    epochs, wanted = config.train.epochs, wanted_steps(config)
    if (steps := epochs * steps_per_epoch) >= wanted:
        return []
    enough = math.ceil(wanted / steps_per_epoch)
    return [
        f"{epochs} {'epoch is' if epochs == 1 else 'epochs are'} {steps:,} {'step' if steps == 1 else 'steps'}, too few to "
        f"beat raw pixels: at least {wanted:,} are wanted here, which --train.epochs {enough:,} has, or a smaller --train.batch-size"
    ]
