"""What runs left in their folders, read for a comparison: config, log and scores. Nothing is written there."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linear_eval.results import ClosedResult, FinetunedClasses, FinetunedNumbers, FinetunedResult, OpenSetResult
from linear_eval.results_numbers import NumbersResult
from linear_eval.results_one_shot import OneShotScores
from simclr.commands import command
from simclr.config import RUNTIME_FIELDS
from simclr.config.yaml import flat_fields, load_config, to_dict
from simclr.config.yaml_text import read_yaml
from simclr.errors import CheckpointError, ConfigError
from simclr.run.log import figures_over, read_metrics

__all__ = [
    "RUN_FILES",
    "RunRecord",
    "SeedGroup",
    "differing_keys",
    "over_epochs",
    "read_runs",
    "seed_groups",
    "training_cost",
]

RUN_FILES = ("config.yaml", "metrics.jsonl", "result.json", "open-set.json", "one-shot.json")
"""One of these is in every run's folder; the last three are of scores."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """A run as its files tell it; what is missing there is empty here."""

    name: str
    """What the comparison calls it."""

    folder: Path
    """Where it is."""

    config: dict[str, Any]
    """Every field by its path, e.g. ``optim.learning_rate``."""

    metrics: list[dict[str, Any]]
    """The lines of ``metrics.jsonl``."""

    results: list[ClosedResult | FinetunedResult | NumbersResult]
    """``result.json`` of the run, and of its evaluations on other images."""

    open_sets: list[OpenSetResult | OneShotScores]
    """``open-set.json`` and ``one-shot.json``, likewise."""

    finished: bool
    """Whether it exported an encoder."""


@dataclass(frozen=True, eq=False)
class SeedGroup:
    """Runs that differ in nothing that matters but the seed."""

    name: str
    """What the names of the runs have in common."""

    runs: tuple[RunRecord, ...]
    """At least one."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(run.config["seed"] for run in self.runs)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs in ``folders``, each once, under the names of their folders, or their paths where two names are equal.

    Raises:
        CheckpointError: a folder that holds no run, or a damaged file in it.
    """
    folders = list(dict.fromkeys(folders))
    names = [Path(os.path.realpath(folder)).name for folder in folders]
    return [
        _read(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def _read(folder: Path, name: str) -> RunRecord:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; give run directories, e.g. runs/digits")
    scored = any(any(folder.glob(f"on-*/{file}")) for file in RUN_FILES[2:])  # weights of others have no run's files
    if not scored and not any((folder / file).exists() for file in RUN_FILES):
        raise CheckpointError(
            f"{folder} holds no run: neither config.yaml, nor metrics.jsonl, nor result.json is there"
        )
    return RunRecord(
        name=name,
        folder=folder,
        config=_config(folder / "config.yaml"),
        metrics=read_metrics(folder / "metrics.jsonl"),
        results=[
            _result(path)
            for path in (folder / "result.json", *sorted(folder.glob("on-*/result.json")))
            if path.exists()
        ],
        open_sets=[
            kind.from_dict(_json(path), str(path))
            for name, kind in (("open-set.json", OpenSetResult), ("one-shot.json", OneShotScores))
            for path in (folder / name, *sorted(folder.glob(f"on-*/{name}")))
            if path.exists()
        ],
        finished=(folder / "encoder" / "encoder.json").exists(),
    )


def _result(path: Path) -> ClosedResult | FinetunedResult | NumbersResult:
    content = _json(path)
    kind = content.get("kind")
    if kind is None:
        return ClosedResult.from_dict(content, str(path))
    if kind == "numbers":
        return NumbersResult.from_dict(content, str(path))
    schema = FinetunedNumbers if kind == "regression" else FinetunedClasses
    return schema.from_dict(content, str(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise TypeError("it holds no keys and values")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); score the run again with {command('evaluate')}"
        ) from error
    return content


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return flat_fields(to_dict(load_config(path)))  # with the defaults of fields that are newer than the run
    except ConfigError:
        # Written by another version of this project: what it says is shown as it stands.
        try:
            content = read_yaml(path)
        except ConfigError as error:
            raise CheckpointError(f"{path} cannot be read ({str(error).removeprefix(f'{path} ')})") from error
        return flat_fields(content) if isinstance(content, dict) else {}


def differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """The fields that are not equal in all ``runs`` that have a config; name and place are not among them."""
    configs = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config if key not in ("name", "out"))
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def seed_groups(runs: Sequence[RunRecord]) -> list[SeedGroup]:
    """The runs in groups that are equal but for the seed, the name and what no weight depends on.

    A run whose config is not there is alone, and so is one whose seed another run of its group has already.
    """
    groups: dict[str, list[RunRecord]] = {}
    for number, run in enumerate(runs):
        same = {key: value for key, value in run.config.items() if key not in ("name", "seed", *RUNTIME_FIELDS)}
        key = repr(sorted(same.items(), key=lambda item: item[0])) if "seed" in run.config else f"alone {number}"
        if any(run.config.get("seed") == other.config.get("seed") for other in groups.get(key, [])):
            key = f"again {number}"
        groups.setdefault(key, []).append(run)
    return [SeedGroup(_shared_name([run.name for run in group]), tuple(group)) for group in groups.values()]


def _shared_name(names: Sequence[str]) -> str:
    """
    >>> _shared_name(["birds-s0", "birds-s1"]), _shared_name(["a", "b"]), _shared_name(["birds"])
    ('birds', 'a, b', 'birds')
    """
    if len(names) == 1:
        return names[0]
    shared = names[0]
    while not all(name.startswith(shared) for name in names):
        shared = shared[:-1]
    shared = shared.removesuffix("seed").removesuffix("s").rstrip("-_. /") or shared.rstrip("-_. /")
    return shared or ", ".join(names)


def over_epochs(run: RunRecord, key: str, kind: str) -> list[tuple[float, float]]:
    """(epoch, figure) of every line of ``kind`` that has the figure ``key``. A step is a fraction of an epoch, which lets runs
    of other batches share an axis."""
    ends = [line for line in run.metrics if line["kind"] == "epoch" and line["step"]]
    steps = ends[-1]["step"] / ends[-1]["epoch"] if ends else None  # in an epoch
    return [
        (line["epoch"] if steps is None else line["step"] / steps, value)
        for line, value in figures_over(run.metrics, kind, key)
    ]


def training_cost(run: RunRecord) -> tuple[float, float] | None:
    """Seconds of training and images a second over all of them, from the run's log; None where it does not say.

    Each line of a step has the speed since the line before. Steps that a stopped run took again count once.
    """
    batch = run.config.get("train.batch_size")
    if not isinstance(batch, int):
        return None
    seconds, before = 0.0, 0
    for line, speed in figures_over(run.metrics, "step", "images_per_second"):
        if speed > 0:
            seconds += (line["step"] - before) * batch / speed
            before = line["step"]
    return (seconds, before * batch / seconds) if seconds > 0 else None
