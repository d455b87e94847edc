"""Images through an encoder, batch by batch, in this process: all of a set, or the share of it that is this process's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from linear_eval.features.disk import FeatureWriter
from linear_eval.features.frozen import encoded, frozen
from linear_eval.features.images import SizedImages, batch_and_labels, image_batches
from linear_eval.features.naming import Naming
from linear_eval.sharing import Share
from simclr.data import ImageSet
from simclr.errors import DataError
from simclr.exchange.encoder_module import Encoder

__all__ = ["EncodeShare", "Encoding", "encode_batches"]

Take = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Takes images (n, C, H, W) on the device, features (n, F) float32 and labels (n,) on the CPU, and the rows (n,) of the set."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How images go through an encoder."""

    encoder: nn.Module
    batch_size: int
    device: str
    workers: int
    autocast: torch.dtype | None
    naming: Naming | None
    """Refuses features that are not finite, by the image's name; None lets them pass."""

    def encode(
        self, dataset: SizedImages, rows: Tensor, take: Take, beat: Callable[[int], None] | None, first: int = 0
    ) -> None:
        """Give images, features, labels and rows to ``take``, batch after batch; tell ``beat`` how many are done.

        ``first`` is the number of the first image of ``dataset`` in the whole set.
        """
        done, encoder, device = 0, self.encoder.to(self.device), torch.device(self.device)
        square = encoder.square if isinstance(encoder, Encoder) else None
        naming = self.naming if isinstance(dataset, ImageSet) else None
        with frozen(encoder), torch.no_grad():
            for images, labels in image_batches(dataset, rows, self.batch_size, device, self.workers, square):
                z = encoded(encoder, images, self.autocast)
                part = rows[done : done + len(z)]
                if naming is not None:
                    assert isinstance(dataset, ImageSet)
                    naming.refuse(dataset, first, z, part)
                take(images, z, labels, part)
                done += len(z)
                if beat is not None:
                    beat(done)


def encode_batches(
    encoder: nn.Module,
    loader: "DataLoader[Any]",
    device: torch.device,
    autocast: torch.dtype | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, Tensor]:
    """Features (N, F) and labels (N,) of all that a DataLoader gives, in its order."""
    x: list[Tensor] = []
    y: list[Tensor] = []
    with frozen(encoder), torch.no_grad():
        for number, batch in enumerate(loader):
            images, labels = batch_and_labels(batch, f"batch {number} of the DataLoader")
            x.append(encoded(encoder, images.to(device), autocast))
            y.append(labels)
            if progress is not None:
                progress(sum(map(len, x)), len(loader) * len(x[0]))
    if not x:
        raise DataError("the DataLoader gives no batch: at least one image is needed")
    return torch.cat(x), torch.cat(y)


@dataclass(frozen=True, kw_only=True)
class EncodeShare(Encoding):
    """What each process does for ``extract_features``: its rows, or with ``out`` its stretch of the files there."""

    count: int
    out: Path | None

    def __call__(self, share: Share, beat: Callable[[int], None]) -> tuple[Tensor, Tensor | None]:
        """Labels (n,) and features (n, F), or None where those are written."""
        return self.of_rows(share.images, torch.arange(len(share.images)), beat, share.first)

    def of_rows(
        self, dataset: SizedImages, chosen: Tensor, beat: Callable[[int], None] | None, first: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """The same of the consecutive rows ``chosen`` (n,) of a set that begins at the ``first`` of the whole one."""
        start = int(chosen[0]) if len(chosen) else 0
        y = torch.empty(len(chosen), dtype=torch.int64)
        writer = None if self.out is None else FeatureWriter(self.out, self.count, first + start)
        x: Tensor | None = None

        def take(_: Tensor, z: Tensor, labels: Tensor, rows: Tensor) -> None:
            nonlocal x
            y[rows - start] = labels
            if writer is not None:
                writer.append(z, labels, rows + first)
                return
            x = torch.empty(len(chosen), z.shape[1]) if x is None else x
            x[rows - start] = z

        try:
            self.encode(dataset, chosen, take, beat, first)
            if writer is not None:
                writer.close()
        finally:
            if writer is not None:
                writer.abandon()
        return y, x
