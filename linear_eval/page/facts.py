"""What was trained on what, in short lines: of a run's config, its log and its encoder."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from linear_eval.comparison.runs import RunRecord, training_cost
from linear_eval.results import ClosedResult
from linear_eval.results_numbers import NumbersResult
from simclr.commands import as_called
from simclr.config.sources import GIVEN, PACKED

__all__ = ["Fact", "config_rows", "reproduced", "trained_on_what", "versions"]

Fact = tuple[str, str]
"""A term and what is said of it."""


def trained_on_what(run: RunRecord) -> list[Fact]:
    """The images, the network, the views and the training, as far as the run's files tell."""
    config = run.config
    if not config:
        return []
    facts = [("images", _images(run)), ("network", _network(run)), ("objective", _objective(config))]
    facts.append(("views", f"{config.get('augment.views')} of every image, {config.get('augment.size')} px"))
    facts.append(("training", _training(run)))
    cost = training_cost(run)
    if cost is not None:
        facts.append(("time", f"{_duration(cost[0])} inside the loop, {cost[1]:,.0f} images a second"))
    scored = run.results[0] if run.results else None
    if scored is not None and scored.hardware is not None:
        ran = scored.hardware
        facts.append(
            ("scored on", f"{ran.device}{f' ({ran.processor})' if ran.processor else ''}, {ran.threads} threads")
        )
    return facts


def _images(run: RunRecord) -> str:
    config = run.config
    source = config.get("data.source")
    said = f"{source}"
    if source in ("folder", *PACKED) and config.get("data.path"):
        said = f"{PurePath(str(config['data.path'])).name} ({source})"
    elif source == GIVEN:
        said = "a set that was handed over in Python"
    parts = []
    for result in run.results[:1]:
        data = result.data
        for name in ("train", "test"):
            part = getattr(data, name, None)
            count = part if isinstance(part, int) else getattr(part, "images", None)
            if count:
                parts.append(f"{count:,} {'training' if name == 'train' else 'test'} images")
        if classes := getattr(data, "classes", ()):
            parts.append(f"{len(classes):,} classes")
    if config.get("data.limit"):
        parts.append(f"training limited to {_told(config, 'data.limit', ',')}")
    if config.get("data.label_fraction", 1.0) != 1.0:
        parts.append(f"{_told(config, 'data.label_fraction', 'g')} of the labels")
    return ", ".join([said, *parts])


def _network(run: RunRecord) -> str:
    config = run.config
    said = _told(config, "encoder.name")
    layers, channels = config.get("encoder.layers"), config.get("encoder.channels")
    if isinstance(layers, list | tuple) and isinstance(channels, list | tuple) and channels:
        said += f" of {'-'.join(map(str, layers))} blocks, {channels[-1]} channels"
    known = [r.encoder for r in run.results if isinstance(r, ClosedResult | NumbersResult) and r.encoder is not None]
    if known:
        if known[0].parameters:
            said += f", {_short(known[0].parameters)} parameters"
        said += f", {known[0].features:,} features"
    if config.get("encoder.pretrained"):
        said += ", begun with timm's weights"
    elif config.get("encoder.init"):
        said += f", begun with {PurePath(str(config['encoder.init'])).name}"
    return said


def _objective(config: Mapping[str, Any]) -> str:
    said = _told(config, "objective.name")
    if config.get("objective.temperature") is not None:
        said += f", temperature {_told(config, 'objective.temperature', 'g')}"
    return said


def _training(run: RunRecord) -> str:
    config = run.config
    done = max((line["step"] for line in run.metrics if line["kind"] == "step"), default=0)
    at = f"{_told(config, 'train.epochs')} epochs" + (f", {done:,} steps" if done else "")
    return (
        f"{at} of {_told(config, 'train.batch_size', ',')} images, {_told(config, 'optim.name')} at "
        f"{_told(config, 'optim.learning_rate', 'g')}, {_told(config, 'schedule.decay')} decay, seed {_told(config, 'seed')}"
    )


def _told(config: Mapping[str, Any], key: str, form: str = "") -> str:
    """A field as words; another version may have had none of that name, or something else in it."""
    value = config.get(key, "?")
    return format(value, form) if form and isinstance(value, int | float) else str(value)


def _short(count: int) -> str:
    """
    >>> _short(914_000), _short(11_170_000), _short(123)
    ('0.914M', '11.2M', '123')
    """
    return f"{count / 1e6:.3g}M" if count >= 1e5 else f"{count:,}"


def _duration(seconds: float) -> str:
    """
    >>> _duration(41.4), _duration(754), _duration(7500)
    ('41 s', '12 min 34 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def config_rows(run: RunRecord) -> list[Fact]:
    """Every field of the config by its path."""
    return [(key, "none" if value is None else str(value)) for key, value in run.config.items()]


def versions(run: RunRecord) -> list[Fact]:
    """Of what the run was scored with, where it was."""
    return list(run.results[0].versions.items()) if run.results else []


def reproduced(run: RunRecord) -> str:
    """The command that trains and scores it again."""
    name = f"{run.config.get('name', run.name)}-again"
    return as_called(f"accelerate launch scripts/pretrain.py {run.folder / 'config.yaml'} --name {name}")
