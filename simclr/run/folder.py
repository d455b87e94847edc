"""A run's folder: who may write there, where the run stands, and what it left behind."""

from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from simclr.config import DataConfig, TrainConfig
from simclr.config.optim import STEADY
from simclr.config.yaml import differences, load_config, save_config, to_dict
from simclr.config.yaml_text import read_yaml
from simclr.data import ImageSet
from simclr.data.packed.kept import PackedList, write_packed
from simclr.data.parts_list import FILE, PartsList, write_parts
from simclr.distributed import derive_seed
from simclr.errors import ConfigError
from simclr.exchange.classifier import export_head
from simclr.exchange.encoder import export_encoder
from simclr.files import AGAIN, is_leftover, refused
from simclr.model.contrastive import ContrastiveModel
from simclr.model.encoder import without_weights
from simclr.names import printable
from simclr.objectives import Objective, ObjectiveConfig
from simclr.run.checkpoint import Checkpoint, forget_decay, newest_checkpoint
from simclr.run.checkpoint_content import RUN_PROGRESS, RUN_STATE
from simclr.run.lock import take

__all__ = ["RunResult", "claim", "export_run", "find_run"]


_OF_THE_MACHINE = {"images_per_second", "data_wait", "seconds_left", "learning_rate", "gradient_norm"}
"""Figures that say nothing of what was learned."""


@dataclass(frozen=True)
class RunResult:
    """What ``simclr.pretrain`` returns."""

    run_dir: Path
    """The run's folder."""

    finished: bool
    """False when the run was asked to stop before its end; the same call again continues it."""

    steps: int
    """Optimizer steps done."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """The last figures of ``metrics.jsonl``: loss, diagnostics, online kNN."""

    main: bool = True
    """Whether this process speaks for all of them: it is the first."""

    scorable: bool = False
    """Whether this process should score the encoder: it is the main one, the run is finished, and there are labels."""

    def _lines(self) -> list[tuple[str, str]]:
        state = f"finished after {self.steps:,} steps" if self.finished else f"stopped at step {self.steps:,}"
        said = [("run", str(self.run_dir)), ("state", state)]
        numbers = (
            (name, v) for name, v in self.metrics.items() if isinstance(v, float) and name not in _OF_THE_MACHINE
        )
        said += [(name.replace("_", " "), f"{value:.4g}") for name, value in numbers]
        return [*said, *([("encoder", str(self.encoder))] if self.finished else [])]

    def __str__(self) -> str:
        """A table of it for people, a line a figure."""
        wide = max(len(name) for name, _ in self._lines())
        return "\n".join(f"{name:{wide}}  {printable(words)}" for name, words in self._lines())

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        cells = ((escape(name), escape(printable(words))) for name, words in self._lines())
        return "<table>" + "".join(f"<tr><th>{name}</th><td>{words}</td></tr>" for name, words in cells) + "</table>"

    @property
    def encoder(self) -> Path:
        """The exported encoder's folder, to be given to ``simclr.load_encoder``."""
        return self.run_dir / "encoder"


def find_run(config: TrainConfig) -> tuple[TrainConfig, Checkpoint | None, list[str]]:
    """Check that ``config.run_dir`` is free or this very run, and find its newest whole checkpoint. Writes nothing.

    The config that is given back goes on as the run was begun, where an earlier version began it.

    Raises:
        ConfigError: another process writes there; or it holds a run with another config (the differences are named), or
            something else.
        CheckpointError: it holds checkpoints, but none that is whole.
    """
    folder = config.run_dir
    written = folder / "config.yaml"
    if not folder.exists():
        return config, None, []
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose another --name or --out")
    take(folder)
    if not written.exists():
        if not all(is_leftover(path) for path in folder.iterdir()):
            raise ConfigError(f"{folder} holds files, but is no run of this program; choose another --name or --out")
        return config, None, []
    mend = (
        f"If that file was cut short, put a whole one in its place, as this command writes it under another --name (give "
        f"{config.name!r} for its key name); otherwise give this run a name of its own with --name, or remove that folder"
    )
    try:
        found, _ = _as_begun(load_config(written), written)
    except ConfigError as error:
        raise ConfigError(f"{error}. {mend}") from error
    config, begun = _as_begun(config, written)
    config = _as_placed(config, found)
    changed = differences(found, config)
    if config.data.source != "folder" or (folder / FILE).exists():
        changed = [
            text for text in changed if not _is_a_path(text, found, config)
        ]  # the list tells whether it is the set
    longer = _is_longer(found, config, changed)
    if longer:
        _refuse_to_go_on(found, folder)
        changed = []
    if changed and _is_cut(written, config):
        raise ConfigError(f"{written} ends too early, and differs from this config: {'; '.join(changed)}. {mend}")
    if changed:
        raise ConfigError(
            f"{folder} holds a run with another config: {'; '.join(changed)}. "
            f"Give this run a name of its own with --name, or remove that folder"
        )
    steady = longer and found.schedule.decay == "wsd"
    checkpoint, notes = newest_checkpoint(folder / "checkpoints", RUN_PROGRESS, RUN_STATE, steady)
    if longer:
        notes.append(_going_on(folder, found.train.epochs, config.train.epochs, checkpoint))
    return config, checkpoint, [*begun, *notes]


def _is_longer(found: TrainConfig, config: TrainConfig, changed: list[str]) -> bool:
    """Whether ``config`` is the run that was ``found`` with more epochs, and nothing else has ``changed``."""
    return len(changed) == 1 and changed[0].startswith("train.epochs:") and config.train.epochs > found.train.epochs


def _refuse_to_go_on(found: TrainConfig, folder: Path) -> None:
    """Raise ConfigError where more epochs would have made another run of the one that was ``found`` from its start."""
    schedule, rises = found.schedule, found.objective.average_rises
    if schedule.decay in STEADY and not schedule.view_sizes and not rises:
        return
    shaped = "the sizes of its views go" if schedule.view_sizes else f"its learning rate ({schedule.decay}) goes"
    shaped = "the decay of its average (objective.momentum_schedule) goes" if rises else shaped
    without = " and with objective.momentum_schedule constant" if rises else ""
    raise ConfigError(
        f"{folder} holds a run of {found.train.epochs} epochs, and {shaped} by their number: a longer one would be "
        f"another run from its start. Begin one from this encoder with --encoder.init {folder} and a --name of its own; "
        f"under --schedule.decay wsd (warm-up, stable, decay), without schedule.view_sizes{without}, more epochs would go on here"
    )


def _going_on(folder: Path, epochs: int, more: int, checkpoint: Checkpoint | None) -> str:
    """What going on with more epochs means, in words.

    Raises:
        ConfigError: all that is left of the run is of its decay.
    """
    longer = f"from {epochs} epochs to {more}"
    if checkpoint is None and any((folder / "checkpoints").glob("step-*")):
        raise ConfigError(
            f"{folder} goes on {longer} from the checkpoint at which its decay began, and that is not there any more; begin a "
            f"new run from its encoder with --encoder.init {folder} and a --name of its own"
        )
    step = 0 if checkpoint is None else checkpoint.progress["step"]
    return f"the run is made longer, {longer}: it goes on from step {step}, which is before any decay"


def _as_begun(config: TrainConfig, written: Path) -> tuple[TrainConfig, list[str]]:
    """``config`` with what an earlier version did that had no such choice, where it began the run of ``written``; and words."""
    content = read_yaml(written).get("data")
    if config.data.source != "folder" or not isinstance(content, dict):
        return config, []
    kept: dict[str, Any] = {
        name: value
        for name, value in DataConfig.before.items()
        if name not in content and getattr(config.data, name) != value
    }
    said = [f"data.{name} is {value}, as in the earlier version that began this run" for name, value in kept.items()]
    return replace(config, data=replace(config.data, **kept)), said


def _as_placed(config: TrainConfig, found: TrainConfig) -> TrainConfig:
    """``config`` with its images where the run that was ``found`` has them, where its crops depend on that."""
    kept, asked = found.data.device_resident, config.data.device_resident
    if kept == "auto" or kept == asked or "square" in (config.data.crops, found.data.crops):
        return config
    if asked != "auto":
        lies = {"yes": "of images kept in memory, scaled to data.size", "no": "of the files' own pixels"}
        raise ConfigError(
            f"{found.run_dir} has cut its crops {lies[kept]}, and data.device_resident={asked} would cut them "
            f"{lies[asked]}: leave it out, or give this run a name of its own with --name"
        )
    return replace(config, data=replace(config.data, device_resident=kept))


def _is_cut(written: Path, config: TrainConfig) -> bool:
    """Whether ``written`` lacks the last line of a config, which a file that was cut loses before any other."""
    wanted, found = to_dict(config), read_yaml(written)
    while isinstance(wanted, dict):
        last = list(wanted)[-1]
        if not isinstance(found, dict) or last not in found:
            return True
        wanted, found = wanted[last], found[last]
    return False


def _is_a_path(changed: str, found: TrainConfig, config: TrainConfig) -> bool:
    """Whether ``changed`` is that the same images, or a file of labels, may be found by another path."""
    if found.data.source != config.data.source:
        return False
    both_files = isinstance(found.data.labels, Path) and isinstance(config.data.labels, Path)
    return changed.startswith("data.path:") or (both_files and changed.startswith("data.labels:"))


def claim(config: TrainConfig, listed: PartsList | PackedList | None = None) -> None:
    """Make the run's folder and write its config there, and the list of its images. Call it on one process only.

    Images that were found by another path than the run's are found by that one from now on; a run that is made longer loses its
    decay. What a killed process was in the
    midst of writing goes.
    """
    written = config.run_dir / "config.yaml"
    with refused(config.run_dir):
        config.run_dir.mkdir(parents=True, exist_ok=True)
        take(config.run_dir)
        for path in config.run_dir.rglob(".*.partial"):
            if is_leftover(path) and path.is_file():
                path.unlink(missing_ok=True)
        if isinstance(listed, PackedList):
            write_packed(config.run_dir, listed)
        elif listed is not None:  # before the config: a run without a list would be one of an earlier version
            write_parts(config.run_dir / FILE, listed)
        if not written.exists():
            save_config(config, written)
        else:
            found = load_config(written)
            if found.train.epochs != config.train.epochs:
                if found.schedule.decay == "wsd":  # first, or its state would be taken for the newest of the longer run
                    forget_decay(config.run_dir / "checkpoints")
                found = replace(found, train=replace(found.train, epochs=config.train.epochs))
                save_config(found, written)
            if found.data.path != config.data.path or found.data.labels != config.data.labels:
                moved = replace(found.data, path=config.data.path, labels=config.data.labels)
                save_config(replace(found, data=moved), written)


def export_run(
    config: TrainConfig,
    model: ContrastiveModel,
    objective: Objective,
    objective_config: ObjectiveConfig,
    images: ImageSet,
    sizes: dict[str, int],
    step: int,
) -> None:
    """Write the finished run's encoder, and with labels its head, to ``config.run_dir / "encoder"``.

    Raises:
        CheckpointError: the disk refuses; the same command writes them from the last checkpoint.
    """
    folder = config.run_dir / "encoder"
    with refused(folder, f"the last checkpoint is there; {AGAIN}"):
        export_encoder(
            model.backbone,
            folder,
            config=without_weights(config.encoder),  # what comes out is whole: nothing has to be fetched to load it
            augment=config.augment,
            seed=derive_seed(config.seed, "init"),
            training={
                "run": config.name,
                "objective": config.objective.name,
                "epochs": config.train.epochs,
                "step": step,
                "started_from": config.encoder.started_from,
                **({"not_rebuildable": given} if (given := config.given.words()) else {}),
            },
            reader=images.reader,
            plugin=config.plugin,
        )
        if config.objective.needs_labels and config.given.objective is None:
            export_head(
                folder,
                model.head,
                objective,
                head_config=config.head,
                objective_config=objective_config,
                classes=images.classes,
                sizes=sizes,
            )
