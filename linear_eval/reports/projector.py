"""A run's images under every checkpoint, with thumbnails, for TensorBoard's projector."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features, extract_features
from linear_eval.progress import Progress, default_device
from linear_eval.scored_run import ScoredRun
from simclr.data import ImageSet
from simclr.data.channels import shown_bands
from simclr.errors import CheckpointError, DataError, MissingExtraError
from simclr.exchange.encoder import Encoder, match_tensors
from simclr.exchange.stopped_run import checkpoint_backbone
from simclr.files import AGAIN, refused
from simclr.names import printable

__all__ = ["Snapshot", "check_tensorboard", "checkpoint_encoders", "write_projector", "write_run_projector"]

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


Snapshot = tuple[int, Features, Tensor | None]
"""Step, the features at that step, and uint8 thumbnails (N, C, H, W) or None."""


SPRITE_SIDE = 8192  # the largest picture TensorBoard takes for all thumbnails together


THUMBNAIL_SIDE = 64


def write_projector(
    folder: str | os.PathLike[str],
    snapshots: Sequence[Snapshot],
    *,
    class_names: Sequence[str] | None = None,
    max_rows: int = 2000,
    seed: int = 0,
) -> Path:
    """Write the ``snapshots`` for TensorBoard's projector into ``folder``; returns it.

    At most ``max_rows`` rows, drawn under ``seed``, are written. Thumbnails are shrunk to at most 64 pixels.

    Raises:
        MissingExtraError: tensorboard is not installed.
        CheckpointError: the disk refuses.
        DataError: no snapshot, one of other images than the first, steps that repeat, or thumbnails that do not fit.
    """
    writer_class = _summary_writer()
    folder = Path(folder)
    _check(snapshots)
    _, first, _ = snapshots[0]
    kept = torch.randperm(len(first.y), generator=torch.Generator().manual_seed(seed))[:max_rows].sort().values
    labels = [_class_name(label, class_names) for label in first.y.cpu()[kept].tolist()]
    metadata = [[name, str(index)] for name, index in zip(labels, first.index.cpu()[kept].tolist(), strict=True)]
    with refused(folder, AGAIN), writer_class(str(folder)) as writer:
        for step, features, thumbnails in snapshots:
            writer.add_embedding(
                features.x.cpu()[kept],
                metadata=metadata,
                metadata_header=["class", "image"],
                label_img=None if thumbnails is None else _sprites(thumbnails.cpu()[kept]),
                global_step=step,
                tag="embeddings",
            )
    return folder


def check_tensorboard() -> None:
    """Raise MissingExtraError if tensorboard is not installed; for those who have long work to do before they write."""
    _summary_writer()


def _summary_writer() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "the projector needs tensorboard, which is not installed; pip install 'simclr-pipeline[tensorboard]'"
        ) from error
    return SummaryWriter


def _check(snapshots: Sequence[Snapshot]) -> None:
    if not snapshots:
        raise DataError("the projector needs at least one snapshot (step, features, thumbnails), got none")
    _, first, _ = snapshots[0]
    if len({step for step, _, _ in snapshots}) < len(snapshots):
        raise DataError(f"steps repeat: {[step for step, _, _ in snapshots]}; a later snapshot would overwrite another")
    for step, features, thumbnails in snapshots:
        if not torch.equal(features.index, first.index):
            raise DataError(f"step {step} embeds other images than step {snapshots[0][0]}; embed one set at every step")
        if thumbnails is not None and (
            thumbnails.dtype != torch.uint8 or thumbnails.ndim != 4 or len(thumbnails) != len(features.y)
        ):
            raise DataError(
                f"thumbnails of step {step} must be uint8 (N, C, H, W) with N = {len(features.y)}, "
                f"got {tuple(thumbnails.shape)} {thumbnails.dtype}"
            )


def _sprites(thumbnails: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float (N, 3, S, S) in [0, 1], square and small enough that all fit into one picture.

    Of more than three bands the first three are shown, of two the first.
    """
    thumbnails = shown_bands(thumbnails)
    across = max(1, int(len(thumbnails) ** 0.5 + 0.999999))
    side = max(1, min(THUMBNAIL_SIDE, max(thumbnails.shape[2:]), SPRITE_SIDE // across))
    pictures = interpolate(thumbnails.float() / 255, size=(side, side), mode="bilinear", antialias=True)
    return pictures.clamp(0, 1)


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    name = class_names[label] if class_names is not None and 0 <= label < len(class_names) else str(label)
    return printable(name)  # TensorBoard writes a line an image, in UTF-8


ROWS = 2000


def write_run_projector(run: ScoredRun, images: ImageSet, folder: Path, config: EvalConfig, progress: Progress) -> Path:
    """Write ``folder/projector``: up to 2,000 of ``images``, labelled, under the encoder untrained (step 0), under
    every checkpoint that is on the disk, and under the finished encoder. What was there is replaced.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """
    kept = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))[:ROWS].sort().values
    shown = images.subset(kept).resident(torch.device("cpu"))
    device = default_device()
    snapshots: list[Snapshot] = []
    for step, encoder in checkpoint_encoders(run, progress):
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


def checkpoint_encoders(run: ScoredRun, progress: Progress) -> list[tuple[int, Encoder]]:
    """(step, encoder) of the untrained encoder, of every whole checkpoint of its run, and of the finished one.

    A checkpoint that is damaged, or holds another backbone, is named and passed over.
    """
    finished = run.encoder()
    found = [(0, run.untrained())]
    for path in sorted((run.run_dir / "checkpoints").glob("step-*")):
        encoder = run.untrained()
        try:
            step = int(json.loads((path / "progress.json").read_text())["step"])
            tensors = checkpoint_backbone(path)
            match_tensors(encoder.backbone, tensors, what=f"{path} holds another backbone")
        except (OSError, ValueError, KeyError, CheckpointError) as error:
            progress(f"projector: {path} is passed over ({str(error).splitlines()[0]})")
            continue
        encoder.backbone.load_state_dict(tensors)
        if step:
            found.append((step, encoder))
    if len(found) == 1 or not _same_weights(found[-1][1], finished):
        found.append((max(found[-1][0] + 1, _last_step(run.run_dir)), finished))
    return found


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
