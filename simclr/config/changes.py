"""What of a preset goes with its length, its network and the size of its views, and changes where these are changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simclr.config import TrainConfig
from simclr.config.optim import STEADY

__all__ = ["before_changes"]


def before_changes(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """``config``, a preset say, without what it would not mean beside ``changes``, named as its fields are and nested.

    - A run of other epochs warms up for a tenth of them at most, else a short one would end before its peak; not where it can
      be made longer later (`schedule.decay`).
    - Another network is as its authors made it: stages, channels and patches were of the one before, and smaller views at the
      start are not for every one.
    - Smaller views at the start grow to another size as they did to the one before, in multiples of 8 px.

    What ``changes`` name themselves comes over this, and stays as they say.
    """
    train, schedule, encoder, augment = (
        part if isinstance(part := changes.get(name), dict) else {}
        for name in ("train", "schedule", "encoder", "augment")
    )
    epochs, network, size = train.get("epochs"), encoder.get("name", config.encoder.name), augment.get("size")
    usual = config.schedule
    if isinstance(epochs, int) and epochs >= 1 and schedule.get("decay", usual.decay) not in STEADY:
        usual = replace(usual, warmup_epochs=min(usual.warmup_epochs, epochs / 10))
    if isinstance(size, int) and 8 <= size != config.augment.size:
        scale = size / config.augment.size / 8
        usual = replace(
            usual, view_sizes=tuple((share, 8 * max(1, round(px * scale))) for share, px in usual.view_sizes)
        )
    if network != config.encoder.name:
        stem = "auto" if config.encoder.stem == "patch" else config.encoder.stem
        whole = replace(config.encoder, layers=None, channels=None, patch_size=None, stem=stem)
        config, usual = replace(config, encoder=whole), replace(usual, view_sizes=())
    return replace(config, schedule=usual)
