"""The encoder of a run that has not finished, or as it was at an earlier step: from one of the run's checkpoints."""

import json
import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from simclr.config import TrainConfig
from simclr.config.sources import PACKED
from simclr.config.yaml import load_config
from simclr.data.decode import Reader
from simclr.data.parts_list import FILE, read_parts
from simclr.distributed import derive_seed
from simclr.errors import CheckpointError, DataError
from simclr.exchange.description import EncoderDescription
from simclr.exchange.encoder import read_tensors
from simclr.exchange.sealed import file_sha256
from simclr.model.encoder import build_backbone, feature_width, without_weights

__all__ = ["NEWEST", "checkpoint_backbone", "choose_checkpoint", "describe_run", "is_checkpoint"]

NEWEST = "newest"
"""What names a run's last whole checkpoint."""

_NAME = re.compile(r"step-(\d{8,})")

_BACKBONE = "model.backbone."


def is_checkpoint(path: Path) -> int | None:
    """The step of the checkpoint at ``path``, by the names of the folder and of its run's; None where it is something else."""
    step = _NAME.fullmatch(path.name)
    if step is None or path.parent.name != "checkpoints" or not (path.parent.parent / "config.yaml").is_file():
        return None
    return int(step[1])


def choose_checkpoint(run: Path, which: str) -> tuple[Path, list[str]]:
    """The checkpoint of a run's folder that ``which`` names, ``newest`` or a step, and a line for each that is passed over.

    Raises:
        CheckpointError: neither, none there, or none that is whole; it names the steps that there are.
    """
    steps = {step: path for path in (run / "checkpoints").glob("step-*") if (step := is_checkpoint(path)) is not None}
    if not steps:
        raise CheckpointError(f"{run} has no checkpoint yet; train it on, or score another run")
    there = ", ".join(map(str, sorted(steps)))
    if which != NEWEST:
        if not which.isdigit() or int(which) not in steps:
            raise CheckpointError(f"--checkpoint is {which!r}; {run} has those of steps {there}; {NEWEST} is the last")
        return steps[int(which)], []
    said: list[str] = []
    for _, path in sorted(steps.items(), reverse=True):
        fault = _fault(path)
        if fault is None:
            return path, said
        said.append(f"{path} is damaged ({fault}); it is passed over")
    raise CheckpointError(f"no whole checkpoint in {run / 'checkpoints'}: {'; '.join(said)}")


def checkpoint_backbone(path: Path) -> dict[str, Tensor]:
    """The tensors of the backbone in a checkpoint; of a run that averages its weights those of the average, which it exports.

    Raises:
        CheckpointError: it is not whole, or holds no backbone.
    """
    fault = _fault(path)
    if fault is not None:
        raise CheckpointError(f"{path} is damaged ({fault}); take another one of that run")
    tensors = read_tensors(path / "model.safetensors")
    groups = {name.partition(_BACKBONE)[0] for name in tensors if _BACKBONE in name}
    if not groups:
        raise CheckpointError(f"{path} holds no backbone: its tensors are {', '.join(list(tensors)[:3])}, ...")
    group = max(groups, key=len) + _BACKBONE
    return {name.removeprefix(group): tensor for name, tensor in tensors.items() if name.startswith(group)}


def describe_run(run: Path) -> tuple[EncoderDescription, list[str]]:
    """What ``encoder.json`` will say of the run in ``run`` when it has finished, and a line where that cannot be told.

    Raises:
        ConfigError: a ``config.yaml`` that this version cannot read.
    """
    config = load_config(run / "config.yaml")
    reader, said = _reader(config, run)
    network, seed = without_weights(config.encoder), derive_seed(config.seed, "init")
    backbone = build_backbone(network, config.augment.size, seed, reader.channels)
    return (
        EncoderDescription(
            config=network,
            size=config.augment.size,
            mean=config.augment.mean,
            std=config.augment.std,
            features=feature_width(backbone, config.augment.size, reader.channels),
            init_seed=seed,
            reader=reader,
            plugin=config.plugin,
        ),
        said,
    )


def _reader(config: TrainConfig, run: Path) -> tuple[Reader, list[str]]:
    """How the run's files become pixels: its images say it, where they are files of more than 8 bits."""
    from simclr.data import load_source  # it brings scikit-learn, which loading an encoder does not need

    data = config.data
    plain = Reader(size=data.size, channels=data.channels)
    if data.source not in ("folder", *PACKED):
        return plain, []
    try:
        return load_source(replace(data, validation=0.0), "train", read_parts(run / FILE)).reader, []
    except DataError as error:
        values = data.value_range if isinstance(data.value_range, tuple) else None
        said = f"the run's images cannot be read ({error}); deep files are taken at the full range of their type"
        return replace(plain, fit=data.fit, value_range=values), [] if values else [said]


def _fault(path: Path) -> str | None:
    """Why a checkpoint's tensors are not as they were written, or None; the manifest is written last."""
    try:
        wanted = json.loads((path / "manifest.json").read_text())["model.safetensors"]
        return (
            None if file_sha256(path / "model.safetensors") == wanted else "model.safetensors is not as it was written"
        )
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except (ValueError, RecursionError, KeyError, TypeError):
        return "manifest.json does not name model.safetensors"
