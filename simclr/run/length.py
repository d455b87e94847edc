"""Whether a run is long enough to beat raw pixels, as far as this project has seen: said before a short one begins."""

import math

from simclr.config import TrainConfig

__all__ = ["ENOUGH", "too_short", "wanted_steps"]

ENOUGH = 1000
"""Steps below which a run that did not win was too short to say why."""

_MUON = 200
_OTHERS = 600
"""Steps at which runs from nothing had passed raw pixels by every score, by their optimizer: docs/choosing.md, "Length"."""


def wanted_steps(config: TrainConfig) -> int:
    """Steps that a run from nothing should have at least, of a network that learns from views alone; 0 for any other.

    >>> wanted_steps(TrainConfig())
    600
    """
    if config.starts_from_weights or config.objective.needs_labels:
        return 0
    return _MUON if config.optim.name == "muon" else _OTHERS


def too_short(config: TrainConfig, steps_per_epoch: int) -> list[str]:
    """A sentence where the run that ``config`` says has fewer steps than are wanted, and how many epochs have them; else none."""
    epochs, wanted = config.train.epochs, wanted_steps(config)
    if (steps := epochs * steps_per_epoch) >= wanted:
        return []
    enough, said = math.ceil(wanted / steps_per_epoch), "epoch is" if epochs == 1 else "epochs are"
    return [
        f"{epochs} {said} {steps:,} {'step' if steps == 1 else 'steps'}, too few to beat raw pixels: at least {wanted:,} are "
        f"wanted here, which --train.epochs {enough} has, or a smaller --train.batch-size"
    ]
