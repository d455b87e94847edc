"""Two comparisons that ``benchmarks/cifar10/run.py`` makes: ideas at equal time, and supervised objectives."""

import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table

from linear_eval import Features, extract_features, linear_probe, recall_at_k
from simclr import load_encoder
from simclr.config import OptimConfig, TrainConfig
from simclr.data import load_source, place
from simclr.data.sources import Split
from simclr.files import write_json
from slot import Slot, override, train

__all__ = ["OBJECTIVES", "compare_objectives", "idea_table", "mean_and_spread", "objective_table", "try_ideas"]

BASE = "as it is"
"""What the row of the config without an idea is called."""

OBJECTIVES = {
    "arcface": "objective=arcface",
    "triplet-semi-hard": "objective=triplet objective.mining=semi-hard",
    "triplet-distance-weighted": "objective=triplet objective.mining=distance-weighted",
    "margin": "objective=margin",
    "supcon": "objective=supcon",
}
"""Supervised objectives by what ``--objectives`` calls them, each at its defaults."""


def try_ideas(
    ideas: Sequence[str], base: TrainConfig, seeds: Sequence[int], minutes: float, slot: Slot
) -> dict[str, dict[str, Any]]:
    """Train ``base`` and each idea over it for the same time, and score them on images held out of the training set.

    A short run first finds how long an idea's step takes; its epochs are then those that fill ``minutes`` of steps
    (starts and compilation left out), and the whole schedule happens in them. A tenth of the training images is kept
    from training; a linear probe fitted on the others is scored on that tenth. The test images are not read.

    Returns:
        For each idea ``epochs``, ``minutes`` of steps, and ``validation``, the accuracy for each seed.
    """
    found: dict[str, dict[str, Any]] = {}
    for idea in (BASE, *ideas):
        config = override(base, "" if idea == BASE else idea)
        # Its name comes from what it says, so that another order of the same ideas goes on with the same runs.
        name = f"try-{hashlib.sha256(idea.encode()).hexdigest()[:8]}"
        config = replace(config, name=name, data=replace(config.data, validation=0.1))
        config = _lasting(config, minutes, slot)
        row: dict[str, Any] = {"epochs": config.train.epochs, "minutes": [], "validation": []}
        for seed in seeds:
            run = replace(config, name=f"{name}-seed-{seed}", seed=seed)
            slot.say(f"idea {idea!r}, seed {seed}: {run.train.epochs} epochs")
            row["minutes"].append(train(run, slot)["minutes_of_steps"])
            row["validation"].append(_scored(run, slot, "validation")["linear"])
        found[idea] = row
    return found


def _lasting(config: TrainConfig, minutes: float, slot: Slot) -> TrainConfig:
    """``config`` with as many epochs as ``minutes`` have room for, its warm-up at most a tenth of them."""
    short = replace(config.train, epochs=2, log_every=2, knn_every=0)
    schedule = replace(config.schedule, warmup_epochs=0.0)
    timed = train(replace(config, name=f"{config.name}-pace", train=short, schedule=schedule), slot)
    epoch_seconds = timed["step_seconds"] * timed["steps"] / timed["epochs"]
    epochs = max(1, math.floor(60 * minutes / epoch_seconds))
    schedule = replace(config.schedule, warmup_epochs=min(config.schedule.warmup_epochs, epochs / 10))
    return replace(config, train=replace(config.train, epochs=epochs), schedule=schedule)


def compare_objectives(names: Sequence[str], base: TrainConfig, epochs: int, slot: Slot) -> dict[str, dict[str, Any]]:
    """Train the encoder of ``base`` by supervised objectives and score it on the test images.

    The optimizer is AdamW for all of them: LARS does not adapt its rate for an objective's own weights (ArcFace's classes,
    the margins), so a rate for convolutions is far too high for those.

    Returns:
        For each name ``recall_at_1``, ``linear`` and ``minutes``; first ``untrained``.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in names or OBJECTIVES:
        config = replace(
            override(base, OBJECTIVES[name]),
            name=f"objective-{name}",
            optim=OptimConfig(name="adamw", learning_rate=2e-3, scaling="sqrt", weight_decay=1e-4),
            schedule=replace(base.schedule, warmup_epochs=min(base.schedule.warmup_epochs, epochs / 10)),
            train=replace(base.train, epochs=epochs, knn_every=0),
        )
        timing = train(config, slot)
        if "untrained" not in rows:
            rows["untrained"] = _scored(config, slot, "test", untrained=True)
        rows[name] = {**_scored(config, slot, "test"), "minutes": timing["minutes"]}
    return rows


def _scored(config: TrainConfig, slot: Slot, split: Split, untrained: bool = False) -> dict[str, float]:
    """Linear accuracy and Recall@1 of a finished run on ``split``, the probe fitted on its training images; once."""
    kept = config.out / f"{config.name}.{'untrained' if untrained else split}.json"
    if not kept.exists():
        slot.check()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder = load_encoder(config.run_dir, untrained=untrained)
        parts: tuple[Split, Split] = ("train", split)
        fitted, tested = (_features(encoder, config, part, device) for part in parts)
        found = {
            "linear": linear_probe(fitted, tested, device=device).accuracy,
            "recall_at_1": recall_at_k(tested.x, tested.y, ks=(1,))[1],
        }
        write_json(kept, found)
    content: dict[str, float] = json.loads(kept.read_text())
    return content


def _features(encoder: torch.nn.Module, config: TrainConfig, split: Split, device: torch.device) -> Features:
    images = place(load_source(config.data, split), torch.device("cpu"))
    return extract_features(encoder, images, 512, device)


def mean_and_spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation over seeds, as a cell of a table.

    >>> mean_and_spread([0.91, 0.92]), mean_and_spread([0.5]), mean_and_spread([])
    ('91.5 ± 0.7', '50.0', '')
    """
    if not values:
        return ""
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def idea_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Ideas, the best of them first; gains are paired over the seeds."""
    table = Table("idea", "epochs", "minutes of steps", "linear, held-out training images", "gain", title="Ideas, in %")
    base = rows[BASE]["validation"]
    for idea in sorted(rows, key=lambda idea: -statistics.fmean(rows[idea]["validation"])):
        row = rows[idea]
        gains = [mine - other for mine, other in zip(row["validation"], base, strict=True)]
        table.add_row(
            idea,
            str(row["epochs"]),
            mean_and_spread(row["minutes"], 1, 2),
            mean_and_spread(row["validation"]),
            "" if idea == BASE else mean_and_spread(gains),
        )
    return table


def objective_table(rows: dict[str, dict[str, Any]]) -> Table:
    table = Table("objective", "Recall@1", "linear", "minutes", title="Objectives on labels, test images, in %")
    for name, row in rows.items():
        minutes = f"{row['minutes']:.2f}" if "minutes" in row else ""
        table.add_row(name, f"{100 * row['recall_at_1']:.1f}", f"{100 * row['linear']:.1f}", minutes)
    return table
