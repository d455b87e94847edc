"""The same images under every checkpoint of a run, as TensorBoard's projector shows them: ``--tensorboard``.

tensorboard --logdir RUN/projector        then open the "Projector" tab
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.environment import default_device
from linear_eval.features import Features, extract_features
from linear_eval.progress import Progress
from linear_eval.projector import Snapshot, write_projector
from simclr.data import ImageSet
from simclr.errors import CheckpointError
from simclr.export import Encoder, load_encoder, match_tensors

__all__ = ["checkpoint_encoders", "write_run_projector"]

BACKBONE = "model.backbone."
ROWS = 2000


def write_run_projector(
    encoder_folder: Path, images: ImageSet, folder: Path, config: EvalConfig, progress: Progress
) -> Path:
    """Write ``folder/projector``: up to 2,000 of ``images``, labelled, under the encoder untrained (step 0), under
    every checkpoint that is on the disk, and under the finished encoder. What was there is replaced.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """
    kept = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))[:ROWS].sort().values
    shown = images.subset(kept).resident(torch.device("cpu"))
    device = default_device()
    snapshots: list[Snapshot] = []
    for step, encoder in checkpoint_encoders(encoder_folder, progress):
        progress(f"projector: {len(shown)} images at step {step}")
        features = extract_features(encoder, shown, config.batch_size, device, autocast=AUTOCAST[config.precision])
        snapshots.append((step, Features(features.x, features.y, kept[features.index]), shown.pixels))
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / "projector"
    # TensorBoard's writer adds to what it finds: a second run would show every step twice.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".projector.") as scratch:
        partial = Path(scratch) / "projector"
        write_projector(partial, snapshots, class_names=images.classes, max_rows=ROWS, seed=config.seed)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    return final


def checkpoint_encoders(encoder_folder: Path, progress: Progress) -> list[tuple[int, Encoder]]:
    """(step, encoder) of the untrained encoder, of every whole checkpoint of its run, and of the finished one.

    A checkpoint that is damaged, or holds another backbone, is said and passed over.
    """
    finished = load_encoder(encoder_folder)
    found = [(0, load_encoder(encoder_folder, untrained=True))]
    for path in sorted((encoder_folder.parent / "checkpoints").glob("step-*")):
        encoder = load_encoder(encoder_folder, untrained=True)
        try:
            step = int(json.loads((path / "progress.json").read_text())["step"])
            tensors = _backbone(path)
            match_tensors(encoder.backbone, tensors, what=f"{path} holds another backbone")
        except (OSError, ValueError, KeyError, SafetensorError, CheckpointError) as error:
            progress(f"projector: {path} is passed over ({str(error).splitlines()[0]})")
            continue
        encoder.backbone.load_state_dict(tensors)
        if step:
            found.append((step, encoder))
    if len(found) == 1 or not _same_weights(found[-1][1], finished):
        found.append((max(found[-1][0] + 1, _last_step(encoder_folder.parent)), finished))
    return found


def _backbone(checkpoint: Path) -> dict[str, Tensor]:
    if not (checkpoint / "manifest.json").exists():  # it is written last
        raise CheckpointError("it is not whole")
    tensors = load_file(checkpoint / "model.safetensors")
    # With an average of the weights there are two backbones; the average is what becomes the finished encoder.
    group = max((name.partition(BACKBONE)[0] for name in tensors if BACKBONE in name), key=len, default="") + BACKBONE
    return {name.removeprefix(group): tensor for name, tensor in tensors.items() if name.startswith(group)}


def _same_weights(a: Encoder, b: Encoder) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


def _last_step(run_folder: Path) -> int:
    """The step of the last line of the run's metrics, 0 where there are none."""
    try:
        lines = (run_folder / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return 0
