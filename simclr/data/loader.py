"""Batches of uint8 images on the device, in the sampler's order: from one resident tensor, or decoded by workers."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from augment import soft_targets
from simclr.data.cut import CropPlan, Cut
from simclr.data.decode_batch import DecodeBatch
from simclr.data.image_set import ImageSet
from simclr.data.left_out import LeftOut
from simclr.data.samplers import Sampler
from simclr.data.workers import read_by_workers
from simclr.distributed import any_rank, gather_rare
from simclr.errors import PipelineError
from simclr.granted import available_memory

__all__ = ["Batch", "Batches", "fits_on", "place", "place_and_tell", "say_left_out"]

_NAMED: set[str] = set()


@dataclass(frozen=True)
class Batch:
    """One step's images on this rank."""

    images: Tensor | Cut
    """uint8 (B, C, size, size) on the device; or their crops, cut out already, whose ``views`` are on the device."""

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
    """Whether ``nbytes`` take under a quarter of the memory that is free on ``device`` for this process."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = available_memory()
    return nbytes < free / 4


def place(
    images: ImageSet,
    device: torch.device,
    resident: Literal["auto", "yes", "no"] = "auto",
    say: Callable[[str], object] = lambda _: None,
    shapes: bool = False,
) -> ImageSet:
    """Decide where a set lives: decoded on ``device``, or left as it is for workers to decode batch by batch.

    Files that do not decode are dealt with here (``images.broken``), before anything depends on how many there are; those
    that are skipped are named to ``say``. With ``shapes`` a decoded set keeps the shapes of its images, to cut crops from.
    """
    placed, broken = place_and_tell(images, device, resident, shapes)
    say_left_out(images, broken, say)
    return placed


def place_and_tell(
    images: ImageSet,
    device: torch.device,
    resident: Literal["auto", "yes", "no"] = "auto",
    shapes: bool = False,
    look: bool = True,
) -> tuple[ImageSet, dict[int, str]]:
    """``place``, and the number of each image that is left out with the reason.

    Without ``look`` no file is decoded to find out, where the set is left as it is.
    """
    broken: dict[int, str] = {}
    if resident == "yes" or (resident == "auto" and fits_on(device, images.nbytes)):
        return images.resident(device, shapes, broken), broken
    return images.intact(broken) if images.broken == "skip" and look else images, broken


def say_left_out(images: ImageSet, broken: Mapping[int, str], say: Callable[[str], object], most: int = 100) -> None:
    """Name those of ``images`` that are left out; a process names each once, however often it reads a set."""
    if not broken:
        return
    reasons = [reason for _, reason in sorted(broken.items()) if reason not in _NAMED]
    _NAMED.update(reasons)
    known = "" if reasons else " (they are named above)"
    say(f"left out {len(broken)} of {len(images)} files of {images.name}, which do not decode{known or ':'}")
    for reason in reasons[:most]:
        say(f"  {reason}")
    if len(reasons) > most:
        say(f"  and {len(reasons) - most} more")


class Batches:
    """The batches of the steps ``start .. stop`` for one rank; ``waited`` counts the seconds spent waiting for them.

    A file that breaks, and a worker that dies, end the iteration with `DataError`: in every process at the same step, with
    the same words, whichever met it. With ``images.broken="skip"`` another image takes a broken file's place instead, see
    ``stand_ins``, and ``left_out`` says so; where it keeps a run's list, more than 1 % of the images end the iteration too.
    Where there are several processes all of them must iterate.

    With a ``plan`` the crops of images that are files, or that keep their shape, are cut out here: of each image's own pixels.
    """

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
        left_out: LeftOut | None = None,
        plan: CropPlan | None = None,
    ) -> None:
        self.plan = plan
        self.refresh: Callable[[int], None] | None = None
        self.refresh_every = 0
        self.images, self.sampler, self.device = images, sampler, device
        self.start, self.stop, self.rank, self.world, self.workers = start, stop, rank, world, workers
        self.left_out = LeftOut() if left_out is None else left_out
        self.waited = 0.0
        self._broken: dict[str, str] = {}

    def __iter__(self) -> Iterator[Batch]:
        # The memory that is free may differ among devices, and with it where the set lives.
        from_files = any_rank(self.images.pixels is None, self.device)
        begin = self.start
        while begin < self.stop:
            end = self.stop
            if self.refresh is not None:
                if begin % self.refresh_every == 0:
                    self.refresh(begin)
                end = min(end, begin - begin % self.refresh_every + self.refresh_every)
            steps = range(begin, end)
            source = self._resident(steps) if self.images.pixels is not None else self._decoded(steps)
            for step in [*steps, end]:  # the last look tells that there is no more
                self.left_out.step = step
                began = time.perf_counter()
                batch = self._agreed(source) if from_files else next(source, None)
                self.waited += time.perf_counter() - began
                if batch is None:
                    break
                self.left_out.step = step + 1  # as soon as the batch was used
                yield batch
            begin = end

    def call_every(self, steps: int, refresh: Callable[[int], None]) -> None:
        """Call ``refresh(step)`` before every step that ``steps`` divides: after the step before it is done, and before
        anything of the steps behind it is read."""
        self.refresh_every, self.refresh = steps, refresh

    def lists(self, steps: range) -> Iterator[Tensor]:
        """The image indices of each step on this rank."""
        return (self.sampler.indices(step, self.rank, self.world) for step in steps)

    def _agreed(self, source: Iterator[Batch]) -> Batch | None:
        """The next batch; or, in all processes, what one of them met in its place."""
        batch, fault = None, None
        try:
            batch = next(source, None)
        except PipelineError as error:
            fault = error
        broken = self.left_out.new(self._broken)
        self._broken = {}
        met = gather_rare((fault, broken) if fault is not None or broken else None)
        for _, files in met:
            self.left_out(files, "training")
        for first, _ in met:
            if first is not None:
                raise first
        if met:
            self.left_out.refuse_many(len(self.images))
        return batch

    def _resident(self, steps: range) -> Iterator[Batch]:
        pixels = self.images.pixels
        assert pixels is not None
        labels = self._labels().to(self.device)
        values = None if self.images.values is None else self.images.values.to(self.device)
        originals = None if self.plan is None else self.images.originals
        for step, indices in zip(steps, self.lists(steps), strict=True):
            here = indices.to(self.device, non_blocking=True)
            images: Tensor | Cut
            if self.plan is None or originals is None:
                images = pixels[here.to(pixels.device)].to(self.device, non_blocking=True)
            else:
                config = self.plan.config(step)
                places = torch.arange(len(indices)) + self.rank * len(indices)
                boxes = self.plan.boxes(step, places, originals.sizes[indices])
                images = originals.cut(indices, boxes, config.size, config.antialias)
            yield Batch(images, labels[here], here, None if values is None else values[here])

    def _decoded(self, steps: range) -> Iterator[Batch]:
        labels, values = self._labels(), self.images.values
        batches = read_by_workers(
            DecodeBatch(self.images, self.sampler.indices, self.plan, self._first_place(steps)),
            # One loader for all these steps: no pause between epochs while workers start again.
            _Keys(self, steps),
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
            prefetch=4,
        )
        for images, indices, broken in batches:
            self._broken |= broken
            yield Batch(
                _moved(images, self.device),
                labels[indices].to(self.device, non_blocking=True),
                indices.to(self.device, non_blocking=True),
                None if values is None else values[indices].to(self.device, non_blocking=True),
            )

    def _first_place(self, steps: range) -> int:
        """Where this rank's images begin in the batch of all processes."""
        return self.rank * len(self.sampler.indices(steps[0], self.rank, self.world)) if self.rank and len(steps) else 0

    def _labels(self) -> Tensor:
        labels = self.images.labels
        return torch.full((len(self.images),), -1) if labels is None else labels


def _moved(images: Tensor | Cut, device: torch.device) -> Tensor | Cut:
    if isinstance(images, Tensor):
        return images.to(device, non_blocking=True)
    return replace(images, views=images.views.to(device, non_blocking=True))


class _Keys:
    """What the workers are asked for: each step and the indices of its images."""

    def __init__(self, batches: Batches, steps: range) -> None:
        self.batches, self.steps = batches, steps

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        lists = self.batches.lists(self.steps)
        return ((step, indices.tolist()) for step, indices in zip(self.steps, lists, strict=True))
