"""What is said and kept of a step that was skipped, and whether the weights are to blame for it.

The first of each row of bad steps leaves ``skipped/step-XXXXXXXX`` in the run's folder: ``step.json`` says which images it was
and what was not finite, ``weights.safetensors`` are the weights and buffers; ``scripts/replay.py`` takes the step again.
"""

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from simclr.commands import as_called
from simclr.data.embed import embed_images
from simclr.errors import CheckpointError
from simclr.files import WriteError, write_json, write_tensors
from simclr.run.log import RunLog
from simclr.run.nan_guard import PATIENCE, FiniteGuard, NotFiniteError, Skip, refuse_weights
from simclr.run.parts import Learner, Run
from simclr.run.sharded import whole_model
from simclr.sharding import whole

__all__ = ["SkippedStep", "guard_of", "read_skipped"]

_ASKED = 64
"""Images that the weights are asked about."""

_KEPT = 3
"""Skipped steps whose weights stay on disk."""

_LARGEST = 2 << 30
"""Weights of more bytes are not written for a skipped step."""


@dataclass(frozen=True)
class SkippedStep:
    """What was kept of a skipped step."""

    step: int
    """Counted from 0."""
    processes: int
    """That shared the batch."""
    images: tuple[int, ...]
    """The batch in its order, by numbers in the set."""
    names: tuple[str, ...]
    """The same by what they are called."""
    what: tuple[str, ...]
    """What was not finite."""
    note: str
    """What the weights are, or why there are none."""
    weights: dict[str, Tensor] | None


def guard_of(run: Run, learner: Learner, log: RunLog) -> FiniteGuard:
    """The guard of a run's steps: each one that was skipped is said, logged and kept; where the weights are to blame, it ends."""
    latest = -2

    def told(skips: Sequence[Skip]) -> None:
        nonlocal latest
        first, latest = skips[0].step != latest + 1, skips[-1].step
        if first:
            _refuse_to_go_on(run, learner, skips[0])
        for number, skip in enumerate(skips):
            again = _keep(run, learner, skip, log) if first and number == 0 else ""
            words = f"{skip.what(run.images)}: the step is skipped, all weights are as before it{again}"
            names = [run.images.describe(i) for i in skip.rows]
            log.skipped(skip.step, skip.step // run.steps_per_epoch + 1, skip.parts, names, words)

    return FiniteGuard(
        run.local,
        run.accelerator.device,
        run.images,
        told,
        patience=min(PATIENCE, run.total_steps),  # a run that skipped all of its steps is none
        scaled=run.accelerator.scaler is not None,
    )


def read_skipped(folder: Path) -> SkippedStep:
    """What was kept in ``folder``.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    expected = f"expected a folder like runs/NAME/skipped/step-00000042, got {folder}"
    try:
        found: dict[str, Any] = json.loads((folder / "step.json").read_text())
        weights = folder / "weights.safetensors"
        kept = SkippedStep(
            step=int(found["step"]),
            processes=int(found["processes"]),
            images=tuple(int(one["number"]) for one in found["images"]),
            names=tuple(str(one["name"]) for one in found["images"]),
            what=tuple(str(one) for one in found["what"]),
            note=str(found["weights"]),
            weights=load_file(weights) if weights.exists() else None,
        )
    except OSError as error:
        raise CheckpointError(f"{folder / 'step.json'} cannot be read ({error.strerror}); {expected}") from error
    except Exception as error:  # JSON and safetensors have exceptions of their own for damage
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}: {reason}); {expected}") from error
    if kept.step < 0 or kept.processes < 1 or not kept.images or min(kept.images) < 0:
        raise CheckpointError(f"{folder / 'step.json'} is damaged: it names no step or no images; {expected}")
    return kept


def _keep(run: Run, learner: Learner, skip: Skip, log: RunLog) -> str:
    """Write the step down on the main process; the end of the sentence that says so."""
    tensors = learner.weights.state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size <= _LARGEST:
        tensors = {name: whole(tensor) for name, tensor in tensors.items()}  # of shards, with all processes
    if not run.accelerator.is_main_process:
        return ""
    folder = run.config.run_dir / "skipped" / f"step-{skip.step:08d}"
    note = "as they were at this step"
    if run.accelerator.device.type != "cpu":
        note = "as they were when this step was read from the device, a few steps later perhaps"
    if size > _LARGEST:
        note = f"not written: they take {size / 2**30:.1f} GiB; the newest checkpoint's are near them"
    content = {
        "step": skip.step,
        "what": skip.parts,
        "processes": run.accelerator.num_processes,
        "weights": note,
        "images": [
            {"number": i, "name": run.images.describe(i), "finite": i not in set(skip.rows)} for i in skip.batch
        ],
    }
    try:
        if size <= _LARGEST:
            write_tensors(folder / "weights.safetensors", tensors)
        write_json(folder / "step.json", content)
    except WriteError as error:
        return f" (what it was is not kept: {error})"
    others = [path for path in folder.parent.iterdir() if re.fullmatch(r"step-\d{8,}", path.name) and path != folder]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: -_KEPT + 1]:
        shutil.rmtree(path, ignore_errors=True)
    return f". To see where it began: {as_called('python scripts/replay.py')} {shlex.quote(str(folder))}"


@torch.no_grad()
def _refuse_to_go_on(run: Run, learner: Learner, skip: Skip) -> None:
    """Raise NotFiniteError, on every process alike, where no batch will be better than that of ``skip``.

    An update before it may have overflowed, or left weights of 1e30 that are finite themselves: its own loss did not show that.
    """
    refuse_weights(learner.weights, learner.optimizer, skip.step - 1)
    model, training = whole_model(learner.model), learner.model.training
    some = run.images.subset(torch.tensor(skip.batch[:_ASKED]))
    model.eval()  # each image by itself, where statistics of the batch would spread what is wrong with one
    try:
        z, _ = embed_images(
            some, lambda x: model(x[None])[0], run.config.augment, run.accelerator.device, run.left_out, batch=8
        )
    finally:
        model.train(training)
    if not z.isfinite().all(dim=1).any():
        raise NotFiniteError(f"{skip.what(run.images)}, and the weights give no image a finite embedding", skip.step)
