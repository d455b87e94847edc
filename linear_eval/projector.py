"""TensorBoard's projector over a run's checkpoints: the same images, embedded again at every step.

    tensorboard --logdir RUN/projector        then open the "Projector" tab

The rows shown are drawn once and are the same in every snapshot, so one image can be followed through training.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from linear_eval.features import Features
from simclr.errors import DataError, MissingExtraError
from simclr.files import AGAIN, refused

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Snapshot", "check_tensorboard", "write_projector"]

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
    """uint8 (N, C, H, W) -> float (N, 3, S, S) in [0, 1], square and small enough that all fit into one picture."""
    across = max(1, int(len(thumbnails) ** 0.5 + 0.999999))
    side = max(1, min(THUMBNAIL_SIDE, max(thumbnails.shape[2:]), SPRITE_SIDE // across))
    pictures = interpolate(thumbnails.float() / 255, size=(side, side), mode="bilinear", antialias=True)
    return pictures.clamp(0, 1).expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures.clamp(0, 1)


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    name = class_names[label] if class_names is not None and 0 <= label < len(class_names) else str(label)
    # TensorBoard writes UTF-8, which a folder's name need not be.
    return name.encode(errors="backslashreplace").decode()
