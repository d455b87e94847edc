"""What the processes of a run must find alike, each on its machine: the images, and the checkpoint to go on from."""

import hashlib

from simclr.config import TrainConfig
from simclr.data import ImageSet
from simclr.distributed import world_size
from simclr.errors import ConfigError
from simclr.processes import agree
from simclr.run.checkpoint import Checkpoint

__all__ = ["expect_alike"]

_LOOKED_AT = 1000
"""Images whose names are compared, spread over the set: where files differ their number mostly does, too."""


def expect_alike(config: TrainConfig, images: ImageSet, checkpoint: Checkpoint | None) -> None:
    """Refuse processes that do not see the same; all of them must call it.

    Raises:
        ConfigError: in all of them: one sees other images or another checkpoint than the first; or a batch that does not
            divide among them.
    """
    world = world_size()
    if config.train.batch_size % (2 * world if config.mix.active else world):
        pairs = " in whole pairs of mixed images" if config.mix.active else ""
        raise ConfigError(f"train.batch_size={config.train.batch_size} does not divide among {world} processes{pairs}")
    if world == 1:
        return
    step = "no checkpoint" if checkpoint is None else f"a checkpoint of step {checkpoint.progress.get('step', 0)}"
    folder = config.run_dir.absolute()
    agree({"the run at": step}, f"{folder} must be on a disk that all machines share, and seen there by all of them")
    agree(
        {"a number of images of": len(images), "classes of": len(images.classes), "images (digest) of": _digest(config, images)},
        f"every machine needs the same images of {images.name}, on a shared disk or as copies of one another",
    )  # fmt: skip


def _digest(config: TrainConfig, images: ImageSet) -> str:
    digest = hashlib.sha256("\0".join(images.classes).encode(errors="surrogateescape"))
    root = "" if config.data.path is None else str(config.data.path)
    for index in range(0, len(images), max(1, len(images) // _LOOKED_AT)):
        digest.update(images.describe(index).removeprefix(root).encode(errors="surrogateescape"))
    for part in (images.labels, images.values, images.groups):
        if part is not None:
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:12]
