"""A run's folder: who may write there, where the run stands, and what it left behind."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simclr.checkpoint import Checkpoint, newest_checkpoint
from simclr.classifier import export_head
from simclr.config import TrainConfig
from simclr.config_io import differences, load_config, save_config
from simclr.distributed import derive_seed
from simclr.encoder import without_weights
from simclr.errors import CheckpointError, ConfigError
from simclr.export import export_encoder
from simclr.model import ContrastiveModel
from simclr.objectives import Objective, ObjectiveConfig

__all__ = ["RunResult", "claim", "export_run", "open_run"]


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

    @property
    def encoder(self) -> Path:
        """The exported encoder's folder, to be given to ``simclr.load_encoder``."""
        return self.run_dir / "encoder"


def open_run(config: TrainConfig) -> tuple[Checkpoint | None, list[str]]:
    """Check that ``config.run_dir`` is free or this very run, and find its newest whole checkpoint. Writes nothing.

    Raises:
        ConfigError: the folder holds a run with another config (the differences are named), or something else.
        CheckpointError: it holds checkpoints, but none that is whole.
    """
    folder = config.run_dir
    written = folder / "config.yaml"
    if not folder.exists():
        return None, []
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose another --name or --out")
    if not written.exists():
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files, but is no run of this program; choose another --name or --out")
        return None, []
    changed = differences(load_config(written), config)
    if changed:
        raise ConfigError(
            f"{folder} holds a run with another config: {'; '.join(changed)}. "
            f"Give this run a name of its own with --name, or remove that folder"
        )
    return newest_checkpoint(folder / "checkpoints")


def claim(config: TrainConfig) -> None:
    """Make the run's folder and write its config there. Call it on one process only."""
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        if not (config.run_dir / "config.yaml").exists():
            save_config(config, config.run_dir / "config.yaml")
    except OSError as error:
        raise CheckpointError(f"{config.run_dir} cannot be written ({error.strerror}); choose another --out") from error


def export_run(
    config: TrainConfig,
    model: ContrastiveModel,
    objective: Objective,
    objective_config: ObjectiveConfig,
    classes: tuple[str, ...],
    sizes: dict[str, int],
) -> None:
    """Write the finished run's encoder, and with labels its head, to ``config.run_dir / "encoder"``."""
    folder = config.run_dir / "encoder"
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
            "started_from": config.encoder.init or ("timm's weights" if config.encoder.pretrained else None),
        },
    )
    if config.objective.needs_labels:
        export_head(
            folder,
            model.head,
            objective,
            head_config=config.head,
            objective_config=objective_config,
            classes=classes,
            sizes=sizes,
        )
