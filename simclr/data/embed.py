"""Images of a set through a module, as they are: no augmentation, in order, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor

from augment import AugmentConfig, preprocess
from simclr.cores import share_of_cores
from simclr.data import ImageSet
from simclr.data.left_out import LeftOut
from simclr.distributed import gather_rare, rank, world_size
from simclr.errors import DataError, PipelineError

__all__ = ["embed_images"]


@torch.no_grad()
def embed_images(
    images: ImageSet,
    module: Callable[[Tensor], Tensor],
    augment: AugmentConfig,
    device: torch.device,
    left_out: LeftOut | None = None,
    batch: int = 512,
) -> tuple[Tensor, Tensor]:
    """Outputs of ``module`` for ``images``, prepared at the size of ``augment``, and which of them were embedded.

    Where there are several processes all must call; each embeds every so many of the batches, and all get the whole. The
    batches are those of one process, so the outputs are too.

    Args:
        images: N of them, decoded by as many threads as this process has cores where they are files.
        module: images (B, C, S, S) -> (B, F), for one process alone: no collective is called in it.
        augment: size and normalisation.
        device: where ``module`` is.
        left_out: told of files that do not decode, with ``images.broken="skip"``.
        batch: images a call.

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
        for pixels, part in _read(images, parts, broken):
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


def _read(images: ImageSet, parts: Sequence[Tensor], broken: dict[str, str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels of each of ``parts`` and the numbers of the images; the next part is decoded while one is embedded."""
    if images.pixels is not None:
        for part in parts:
            yield images.pixels[part.to(images.pixels.device)], part
        return

    def decoded(index: int) -> Tensor | None:
        try:
            return images[index][0]
        except DataError as error:
            if images.broken == "refuse":
                raise
            broken[images.describe(index)] = str(error)
            return None

    with ThreadPoolExecutor(share_of_cores()) as pool:
        try:
            ahead = [pool.map(decoded, part.tolist()) for part in parts[:1]]
            for number, part in enumerate(parts, start=1):
                items = list(ahead.pop())
                ahead += [pool.map(decoded, following.tolist()) for following in parts[number : number + 1]]
                kept = [item for item in items if item is not None]
                if kept:
                    yield torch.stack(kept), part[[item is not None for item in items]]
        finally:
            pool.shutdown(cancel_futures=True)


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
