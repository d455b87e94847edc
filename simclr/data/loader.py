"""Batches of uint8 images on the device, in the sampler's order: from one resident tensor, or decoded by workers."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augment import soft_targets
from simclr.config import TrainConfig
from simclr.data.class_sampler import ClassSampler
from simclr.data.device_decode import decode_batch, read_for_device
from simclr.data.image_set import ImageSet
from simclr.data.mined_sampler import MinedSampler
from simclr.data.sampler import EpochSampler
from simclr.errors import ConfigError, DataError

__all__ = ["Batch", "Batches", "Sampler", "fits_on", "make_sampler", "place"]


Sampler = EpochSampler | ClassSampler | MinedSampler


@dataclass(frozen=True)
class Batch:
    """One step's images on this rank."""

    images: Tensor
    """uint8 (B, 3, size, size) on the device."""

    labels: Tensor
    """int64 (B,) on the device, -1 where there is no label."""

    indices: Tensor
    """int64 (B,) on the device: the images' numbers in the set."""

    values: Tensor | None = None
    """float32 (B,) on the device, where the set has them: qualities of the labels, or numbers to predict."""

    def targets(self, classes: int, soft: bool = False) -> Tensor:
        """What an objective learns: labels int64 (B,); if ``soft``, shares of classes (B, C); numbers (B,) without classes."""
        if self.values is not None and not classes:
            return self.values
        return soft_targets(self.labels, classes, self.values) if soft else self.labels


def fits_on(device: torch.device, nbytes: int) -> bool:
    """Whether ``nbytes`` take under a quarter of the memory that is free on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = _available_ram()
    return nbytes < free / 4


def place(
    images: ImageSet,
    device: torch.device,
    resident: Literal["auto", "yes", "no"] = "auto",
    say: Callable[[str], object] = lambda _: None,
) -> ImageSet:
    """Decide where a set lives: decoded on ``device``, or left as it is for workers to decode batch by batch.

    Files that do not decode are dealt with here (``images.broken``), before anything depends on how many there are; those
    that are skipped are named to ``say``.
    """
    if resident == "yes" or (resident == "auto" and fits_on(device, images.nbytes)):
        placed = images.resident(device)
    else:
        placed = images.intact() if images.broken == "skip" else images
    if len(placed) < len(images):
        kept = set(placed.paths or ())
        skipped = [str(path) for path in images.paths or () if path not in kept]
        named = ", ".join(skipped[:12]) + (", ..." if len(skipped) > 12 else "")
        say(f"left out {len(skipped)} of {len(images)} files of {images.name}, which do not decode: {named}")
    return placed


def make_sampler(config: TrainConfig, images: ImageSet) -> Sampler:
    """The sampler that ``config.sampler`` names, over ``images``.

    Raises:
        DataError: fewer images than a batch, or labels that the sampler needs and the set has not.
    """
    batch, chosen = config.train.batch_size, config.sampler
    if chosen.name == "shuffle":
        return EpochSampler(images=len(images), batch_size=batch, seed=config.seed)
    if images.labels is None:
        raise DataError(f"sampler.name={chosen.name} needs labels, and {images.name} has none")
    if chosen.name == "mined":
        return MinedSampler(images=len(images), batch_size=batch, mine_every=chosen.mine_every)
    return ClassSampler(
        labels=images.labels, batch_size=batch, classes=chosen.classes, per_class=chosen.per_class, seed=config.seed
    )


def _available_ram() -> int:
    try:
        with open("/proc/meminfo") as meminfo:  # noqa: PTH123 - a kernel file, not a path of ours
            return next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 8 << 30


class Batches:
    """The batches of the steps ``start .. stop`` for one rank; ``waited`` counts the seconds spent waiting for them."""

    def __init__(
        self,
        images: ImageSet,
        sampler: Sampler,
        device: torch.device,
        *,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        decode: Literal["cpu", "gpu"] = "cpu",
    ) -> None:
        self.on_device = decode == "gpu"
        if self.on_device and images.pixels is None and device.type != "cuda":
            raise ConfigError(
                f"data.decode=gpu needs a CUDA device, this run is on {device.type}; set --data.decode cpu"
            )
        self.refresh: Callable[[int], None] | None = None
        self.refresh_every = 0
        self.images, self.sampler, self.device = images, sampler, device
        self.start, self.stop, self.rank, self.world, self.workers = start, stop, rank, world, workers
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        begin = self.start
        while begin < self.stop:
            end = self.stop
            if self.refresh is not None:
                if begin % self.refresh_every == 0:
                    self.refresh(begin)
                end = min(end, begin - begin % self.refresh_every + self.refresh_every)
            steps = range(begin, end)
            source = self._resident(steps) if self.images.pixels is not None else self._decoded(steps)
            while True:
                began = time.perf_counter()
                batch = next(source, None)
                self.waited += time.perf_counter() - began
                if batch is None:
                    break
                yield batch
            begin = end

    def call_every(self, steps: int, refresh: Callable[[int], None]) -> None:
        """Call ``refresh(step)`` before every step that ``steps`` divides: after the step before it is done, and before
        anything of the steps behind it is read."""
        self.refresh_every, self.refresh = steps, refresh

    def lists(self, steps: range) -> Iterator[Tensor]:
        """The image indices of each step on this rank."""
        return (self.sampler.indices(step, self.rank, self.world) for step in steps)

    def _resident(self, steps: range) -> Iterator[Batch]:
        pixels = self.images.pixels
        assert pixels is not None
        labels = self._labels().to(self.device)
        values = None if self.images.values is None else self.images.values.to(self.device)
        for indices in self.lists(steps):
            here = indices.to(self.device, non_blocking=True)
            images = pixels[here.to(pixels.device)].to(self.device, non_blocking=True)
            yield Batch(images, labels[here], here, None if values is None else values[here])

    def _decoded(self, steps: range) -> Iterator[Batch]:
        labels, values = self._labels(), self.images.values
        on_device = self.on_device
        loader: DataLoader[Any] = DataLoader(
            _Read(self.images) if on_device else _Decoded(self.images),
            collate_fn=_listed if on_device else None,
            # One loader for all these steps: no pause between epochs while workers start again.
            batch_sampler=_Lists(self, steps),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if self.workers else None,
        )
        for images, indices in loader:
            if on_device:
                assert self.images.paths is not None
                paths = [self.images.paths[i] for i in indices.tolist()]
                pixels = decode_batch(images, paths, self.images.size, self.device)
            else:
                pixels = images.to(self.device, non_blocking=True)
            yield Batch(
                pixels,
                labels[indices].to(self.device, non_blocking=True),
                indices.to(self.device, non_blocking=True),
                None if values is None else values[indices].to(self.device, non_blocking=True),
            )

    def _labels(self) -> Tensor:
        labels = self.images.labels
        return torch.full((len(self.images),), -1) if labels is None else labels


class _Decoded(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index][0], index


class _Read(_Decoded):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert self.images.paths is not None
        return read_for_device(self.images.paths[index], self.images.size), index


def _listed(items: list[tuple[Tensor, int]]) -> tuple[list[Tensor], Tensor]:
    return [item for item, _ in items], torch.tensor([index for _, index in items])


class _Lists:
    """The index lists that DataLoader's ``batch_sampler`` wants."""

    def __init__(self, batches: Batches, steps: range) -> None:
        self.batches, self.steps = batches, steps

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self.batches.lists(self.steps))

    def __len__(self) -> int:
        return len(self.steps)
