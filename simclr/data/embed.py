"""Images of a set through a module, as they are: no augmentation, in order, batch by batch."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from augment import AugmentConfig, preprocess
from simclr.cores import share_of_cores
from simclr.data import ImageSet
from simclr.data.left_out import LeftOut
from simclr.data.worker_start import way_to_start
from simclr.data.workers import read_by_workers
from simclr.distributed import gather_rare, rank, world_size
from simclr.errors import DataError, PipelineError
from simclr.progress import each

__all__ = ["embed_images"]

_FEW = 2048
"""Images of this process that threads have decoded before workers would have begun."""

_AT_ONCE = 64
"""Images that a worker sends at a time: it has two such parts ahead, and so has every other one."""


@torch.no_grad()
def embed_images(
    images: ImageSet,
    module: Callable[[Tensor], Tensor],
    augment: AugmentConfig,
    device: torch.device,
    left_out: LeftOut | None = None,
    batch: int = 512,
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Outputs of ``module`` for ``images``, prepared at the size of ``augment``, and which of them were embedded.

    Where there are several processes all must call; each embeds every so many of the batches, and all get the whole. The
    batches are those of one process, so the outputs are too.

    Args:
        images: N of them.
        module: images (B, C, S, S) -> (B, F), for one process alone: no collective is called in it.
        augment: size and normalisation.
        device: where ``module`` is.
        left_out: told of files that do not decode, with ``images.broken="skip"``.
        batch: images a call.
        workers: processes that decode files for this one; few of them, or without any, are decoded by as many threads as this
            process has cores. Nobody is further ahead than a batch, or two parts of one.

    Returns:
        Outputs (M, F) float32 on ``device``, and the rising numbers (M,) int64 of their images, on the CPU. M is N but for
        files that were left out.

    Raises:
        DataError: a file does not decode, in every process alike, and ``images.broken`` is ``refuse``; or none does.
    """
    parts = torch.arange(len(images)).split(batch)[rank() :: world_size()]
    found: list[Tensor] = []
    rows: list[Tensor] = []
    broken: dict[str, str] = {}
    fault: PipelineError | None = None
    try:
        with closing(_read(images, parts, broken, workers)) as read:
            for pixels, part in each(read, "features for the score so far", len(parts), "batches"):
                found.append(module(preprocess(pixels.to(device), augment.size, augment.mean, augment.std)).float())
                rows.append(part)
    except PipelineError as error:
        fault = error
    met = gather_rare((fault, broken) if fault is not None or broken else None)
    for first, files in met:
        if first is not None:
            raise first
        (left_out or LeftOut())(files)
    z = torch.cat(found) if found else torch.empty(0, 0, device=device)
    numbers = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    z, numbers = _gathered(z, numbers, len(images), device)
    if not len(numbers):
        raise DataError(f"none of the {len(images)} files of {images.name} decodes; is the disk still there?")
    return z, numbers


def _read(
    images: ImageSet, parts: Sequence[Tensor], broken: dict[str, str], workers: int
) -> Generator[tuple[Tensor, Tensor]]:
    """Pixels of each of ``parts`` and the numbers of the images; the next part is decoded while one is embedded."""
    if images.pixels is not None:
        for part in parts:
            yield images.pixels[part.to(images.pixels.device)], part
        return
    by_workers = workers and sum(map(len, parts)) > _FEW
    with closing(_by_workers(images, parts, workers) if by_workers else _by_threads(images, parts)) as decoded:
        for part, items in zip(parts, decoded, strict=True):
            broken |= {
                images.describe(i): item for i, item in zip(part.tolist(), items, strict=True) if isinstance(item, str)
            }
            kept = [item for item in items if not isinstance(item, str)]
            if kept:
                yield torch.stack(kept), part[[not isinstance(item, str) for item in items]]


def _decoded(images: ImageSet, index: int) -> Tensor | str:
    """An image, or why it is left out."""
    try:
        return images[index][0]
    except DataError as error:
        if images.broken == "refuse":
            raise
        return str(error)


def _by_threads(images: ImageSet, parts: Sequence[Tensor]) -> Generator[list[Tensor | str]]:
    with ThreadPoolExecutor(share_of_cores()) as pool:
        try:
            ahead = [pool.map(partial(_decoded, images), part.tolist()) for part in parts[:1]]
            for number in range(1, len(parts) + 1):
                items = list(ahead.pop())
                ahead += [pool.map(partial(_decoded, images), part.tolist()) for part in parts[number : number + 1]]
                yield items
        finally:
            pool.shutdown(cancel_futures=True)


class _ReadPart:
    """What a worker does. Arrays go through a pipe; tensors would take /dev/shm, 64 MB in a container."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __call__(self, indices: list[int]) -> list[np.ndarray | str]:
        items = (_decoded(self.images, index) for index in indices)
        return [item if isinstance(item, str) else item.numpy() for item in items]


def _by_workers(images: ImageSet, parts: Sequence[Tensor], workers: int) -> Generator[list[Tensor | str]]:
    read = _ReadPart(images)
    source = read_by_workers(
        read,
        (some.tolist() for part in parts for some in part.split(_AT_ONCE)),
        workers=workers,
        context=way_to_start(read),
        generator=torch.Generator(),  # how images are decoded must not show in what the process draws later
    )
    with closing(source):
        for part in parts:
            items = [item for _ in part.split(_AT_ONCE) for item in next(source)]
            yield [item if isinstance(item, str) else torch.from_numpy(item) for item in items]


def _gathered(z: Tensor, rows: Tensor, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows of all processes in the order of the images, of which there are ``count``."""
    if world_size() == 1:
        return z, rows
    width = torch.tensor(z.shape[1], device=device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)  # a process without a batch knows no width
    whole = torch.zeros(count, int(width), device=device)
    there = torch.zeros(count, dtype=torch.int32, device=device)
    if len(rows):
        whole[rows.to(device)], there[rows.to(device)] = z, 1
    for part in (whole, there):
        dist.all_reduce(part)  # each row is of one process, and adding zeros changes nothing
    numbers = there.nonzero().flatten()
    return whole[numbers], numbers.cpu()
