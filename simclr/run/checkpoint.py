"""The training state on disk, as a transaction: a checkpoint is either whole and proven, or it is not there.

A checkpoint is a folder ``checkpoints/step-00001200/`` of ``model.safetensors``, ``state.pt``, ``progress.json`` and,
written last, ``manifest.json`` with every file's SHA-256. It is filled under another name and renamed when it is on
the disk. Loading takes the newest one whose manifest holds; older ones are removed only after that. ``gather_state`` and
``restore_state`` say what of a run goes into it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from simclr.data import MinedSampler, Sampler
from simclr.errors import CheckpointError
from simclr.exchange.encoder import match_tensors, read_tensors
from simclr.files import AGAIN, refused, sync, write_json, write_state, write_tensors
from simclr.run.checkpoint_content import content_fault, read_progress, read_state, refuse_misfit
from simclr.sharding import fill, is_sharded, sharded_like

__all__ = [
    "STEADY",
    "Checkpoint",
    "best_checkpoint",
    "forget_decay",
    "gather_state",
    "newest_checkpoint",
    "restore_state",
    "save_checkpoint",
]

STEADY = "steady"
"""What ``progress.json`` notes, with true, of a state that a longer run would have had too."""

_NAME = re.compile(r"step-(\d{8,})")


_FILES = ("model.safetensors", "state.pt", "progress.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was found to be as written, and whose content can be."""

    path: Path
    """Its folder."""

    progress: dict[str, Any]
    """What the loop noted: the step and what it had seen."""

    def model(self) -> dict[str, Tensor]:
        """The model's state by name, on the CPU."""
        return read_tensors(self.path / "model.safetensors")

    def state(self) -> dict[str, Any]:
        """The optimizer's (and scaler's) state, on the CPU."""
        return read_state(self.path)


def save_checkpoint(
    folder: Path,
    step: int,
    model: dict[str, Tensor],
    state: dict[str, Any],
    progress: dict[str, Any],
    keep: int = 2,
    every: int | None = None,
) -> Path:
    """Write ``folder/step-XXXXXXXX`` and then remove all but the newest ``keep`` whole checkpoints up to this one.

    Those whose step ``every`` divides stay as well, the one whose ``progress["score"]`` is the highest, and the newest whose
    ``progress`` notes ``STEADY``.

    Those of later steps go first: the run was continued from an earlier one, since they were damaged. To know that the
    others are whole they are read, which takes a fraction of the time that writing does.

    Args:
        folder: the run's ``checkpoints`` folder; made where missing.
        step: steps done.
        model: tensors by name.
        state: whatever else, as ``torch.save`` of plain containers and tensors.
        progress: JSON-able notes; ``step`` is added.
        keep: how many stay.
        every: steps between those that stay for good; None is none.

    Raises:
        CheckpointError: the disk refused; the checkpoints before this one are untouched.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-{final.name}"
    with refused(f"the checkpoint {final}", f"earlier ones are untouched; {AGAIN}"):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".partial-*"):
            shutil.rmtree(leftover)
        partial.mkdir()
        try:
            write_tensors(partial / "model.safetensors", model)
            write_state(partial / "state.pt", state)
            write_json(partial / "progress.json", {**progress, "step": step})
            write_json(partial / "manifest.json", {name: _sha256(partial / name) for name in _FILES})
            sync(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            raise
        if final.exists():
            shutil.rmtree(final)  # the same step again, after a resume from an older checkpoint
        partial.rename(final)
        sync(folder)
    _prune(folder, step, keep, every)
    return final


def newest_checkpoint(
    folder: Path, progress: Collection[str] = (), state: Collection[str] = (), steady: bool = False
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for every newer one that is not.

    Whole is one whose bytes are as written and whose content can be: the step of its name, tensors that are finite.

    Args:
        folder: the run's ``checkpoints`` folder.
        progress: keys that ``progress.json`` must have beside the step; a run needs ``RUN_PROGRESS``.
        state: keys that ``state.pt`` must have; a run needs ``RUN_STATE``.
        steady: pass over, in silence, those that do not note ``STEADY``.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
    """
    said: list[str] = []
    for step, path in reversed(_steps(folder)):
        if steady and _noted(path).get(STEADY) is not True:
            continue
        fault = _fault(path) or content_fault(path, step, progress, state)
        if fault is None:
            return Checkpoint(path, read_progress(path, step, progress)), said
        said.append(f"{path} is damaged ({fault}); it is passed over")
    if said:
        raise CheckpointError(f"no whole checkpoint in {folder}: {'; '.join(said)}. Remove that folder to start again")
    return None, said


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """The whole checkpoint whose score is the highest, of equal ones the earliest; None where none has a score."""
    found = _best(folder, max((step for step, _ in _steps(folder)), default=0))
    return None if found is None else Checkpoint(found, _noted(found))


def forget_decay(folder: Path) -> None:
    """Remove the checkpoints that do not note ``STEADY``: a longer run would not have had them."""
    for _, path in reversed(_steps(folder)):
        if _noted(path).get(STEADY) is not True:
            shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, written: int, keep: int, every: int | None) -> None:
    """Leave the checkpoint of the step just ``written``, the newest whole ones before it, ``keep`` in all, and those for good."""
    kept = 0
    stay = (_best(folder, written), _newest_steady(folder, written))
    for step, path in reversed(_steps(folder)):
        if step == written or (step < written and kept < keep and _fault(path) is None):
            kept += 1
        elif step > written or not (path in stay or (every is not None and step % every == 0)):
            shutil.rmtree(path, ignore_errors=True)


def _best(folder: Path, last: int) -> Path | None:
    """The whole checkpoint of a step up to ``last`` whose score is the highest; of equal ones the earliest."""
    scored = []
    for step, path in _steps(folder):
        score = _noted(path).get("score")
        if step <= last and isinstance(score, float):
            scored.append((-score, step, path))
    return next((path for _, _, path in sorted(scored) if _fault(path) is None), None)


def _newest_steady(folder: Path, last: int) -> Path | None:
    """The newest whole checkpoint of a step up to ``last`` that notes ``STEADY``."""
    found = (path for step, path in reversed(_steps(folder)) if step <= last and _noted(path).get(STEADY) is True)
    return next((path for path in found if _fault(path) is None), None)


def _noted(path: Path) -> dict[str, Any]:
    """What ``progress.json`` of a checkpoint notes, unlooked at; nothing where it cannot be read."""
    try:
        content = json.loads((path / "progress.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _steps(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in found if match)


def _fault(path: Path) -> str | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if not isinstance(manifest, dict) or set(manifest) != set(_FILES):
            return f"manifest.json does not name {', '.join(_FILES)}"
        for name, digest in manifest.items():
            if _sha256(path / name) != digest:
                return f"{name} is not as it was written"
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return f"manifest.json: {error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gather_state(
    modules: nn.Module, sampler: Sampler, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors for ``model.safetensors`` and the rest for ``state.pt``; ``modules`` holds all that has weights."""
    tensors = modules.state_dict()
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    state = {"optimizer": optimizer.state_dict(), "scaler": scaler}
    if isinstance(sampler, MinedSampler):
        state["triplets"] = sampler.triplets
    return tensors, state


def restore_state(
    checkpoint: Checkpoint,
    modules: nn.Module,
    sampler: Sampler,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> int:
    """Load a checkpoint into what was just built, every tensor or none; return the steps it had done.

    Raises:
        CheckpointError: its tensors are not exactly those of ``modules``, or the rest does not fit what was built.
    """
    tensors, state = checkpoint.model(), checkpoint.state()
    match_tensors(modules, tensors, what=f"{checkpoint.path} does not fit this model")
    images = sampler.images if isinstance(sampler, MinedSampler) else None
    refuse_misfit(state, optimizer, images, what=f"{checkpoint.path / 'state.pt'}")
    if any(map(is_sharded, modules.state_dict().values())):
        for name, tensor in modules.state_dict().items():
            fill(tensor, tensors[name])
        state["optimizer"]["state"] = _in_shards(state["optimizer"], optimizer)
    else:
        modules.load_state_dict(tensors)
    for own, group in zip(optimizer.param_groups, state["optimizer"]["param_groups"], strict=True):
        group |= {form: own[form] for form in ("foreach", "fused") if form in own}  # it may be of another device
    try:
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None and state["scaler"] is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint.path / 'state.pt'} does not fit this run: {error}") from error
    if isinstance(sampler, MinedSampler):
        sampler.triplets = state["triplets"]
    return int(checkpoint.progress["step"])


def _in_shards(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[Any, dict[str, Any]]:
    """What an optimizer that was ``saved`` keeps of each parameter, of those that are sharded the rows of this process."""
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    of = {key: p for group, own in groups for key, p in zip(group["params"], own["params"], strict=True)}

    def part(key: Any, value: Any) -> Any:
        return sharded_like(value, of[key]) if isinstance(value, Tensor) and value.shape == of[key].shape else value

    return {key: {name: part(key, value) for name, value in kept.items()} for key, kept in saved["state"].items()}
