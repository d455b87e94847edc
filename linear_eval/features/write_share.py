"""Images through an encoder and straight into a parquet file, or by several processes into parts of a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from linear_eval.features.encode import Encoding
from linear_eval.features.naming import Naming
from linear_eval.features.parquet import ParquetRows, PartsFolder
from linear_eval.features.thumbnails import thumbnails_of
from linear_eval.sharing import Share, team
from simclr.data import ImageSet

__all__ = ["WriteShare", "Written", "write_parquet"]


class Written(NamedTuple):
    """What was written: images, features of each, and how many have a label."""

    images: int
    width: int
    labelled: int


@dataclass(frozen=True, kw_only=True)
class WriteShare(Encoding):
    """What each process does: its part. Memory holds a thousand rows or a batch, whichever is more."""

    naming: Naming
    out: Path
    classes: tuple[str, ...]
    thumbnails: int | None

    def __call__(self, share: Share, beat: Callable[[int], None]) -> tuple[Written, None]:
        """Write the part of this process."""
        return self.write(PartsFolder(self.out).part(share.number), share, beat), None

    def write(self, path: Path, share: Share, beat: Callable[[int], None] | None) -> Written:
        """Write all of ``share`` to ``path``."""
        if not len(share.images):
            return Written(0, 0, 0)
        file, labelled, images = ParquetRows(path, self.classes, self.thumbnails is not None, self.out), 0, share.images

        def take(pixels: Tensor, z: Tensor, labels: Tensor, rows: Tensor) -> None:
            nonlocal labelled
            names = [self.naming(images, row, share.first) for row in rows.tolist()]
            file.append(names, z, labels, () if self.thumbnails is None else thumbnails_of(pixels, self.thumbnails))
            labelled += int((labels >= 0).sum())

        try:
            self.encode(images, torch.arange(len(images)), take, beat, share.first)
            file.close()
        finally:
            file.abandon()
        return Written(file.count, file.width, labelled)


def write_parquet(job: WriteShare, images: ImageSet, progress: Callable[[int, int], None] | None = None) -> Written:
    """Write the embeddings of ``images`` to ``job.out``: a file, or where several processes share the command a folder of parts.

    Either is whole or not there, and replaces what stood there.

    Raises:
        CheckpointError: the disk refuses, or processes that write to different disks.
        DataError: images that do not decode, or features that are not finite.
    """
    led = team()
    if led is not None:
        job.encoder.cpu()  # it is sent
        folder = PartsFolder(job.out)
        folder.begin()
        try:
            found = led.run(job, images, job.batch_size, progress)
            if found is not None:
                parts: list[Written] = found[0]
                folder.finish([part.images for part in parts])
                counts, widths, labelled = zip(*parts, strict=True)
                return Written(sum(counts), max(widths), sum(labelled))
        finally:
            folder.abandon()
    shown = None if progress is None else lambda done: progress(done, len(images))
    return job.write(job.out, Share(images, 0, 0), shown)
