"""Which image goes into which shard, and the writing of one: a function of the images and the options, so that it can go on."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from simclr.config import DataConfig
from simclr.data.image_set import ImageSet
from simclr.data.packed.originals import Original, original, smaller
from simclr.data.packed.write import Sample, write_parquet, write_tar
from simclr.data.sources import has_validation, load_source
from simclr.distributed import derive_seed
from simclr.errors import ConfigError, DataError, require
from simclr.files import atomically, write_json
from simclr.paths import expand_fields

__all__ = ["PLAN", "Job", "MakeOptions", "Plan"]

PLAN = ".making"
"""What a stopped command leaves of the shards that are done: it goes when all are."""

_LOOKED_AT = 1_000
"""Images whose size says how many go into a shard."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """What making shards can be told."""

    out: Path
    """The folder to write them to; it must not hold anything else."""

    shard_mb: int = 256
    """Size of a shard in megabytes, about."""

    size: int | None = None
    """Store JPEGs whose shorter side is at most so many pixels; without it every file is kept byte for byte."""

    seed: int = 0
    """Seed of the one shuffle, so that every shard is a sample of the whole."""

    data: DataConfig = field(default_factory=lambda: DataConfig(source="folder"))
    """The images."""

    def __post_init__(self) -> None:
        expand_fields(self, "out")
        require(self.shard_mb >= 1, "shard_mb", self.shard_mb, "at least 1 megabyte")
        require(self.size is None or self.size >= 8, "size", self.size, "at least 8 pixels")


Job = tuple[Split, int]
"""A part and the number of a shard of it."""


class Plan:
    """Which image goes where; called with a job it writes that shard."""

    def __init__(self, options: MakeOptions, kind: str, parts: dict[Split, ImageSet], each: float) -> None:
        self.options, self.kind, self.parts, self.each = options, kind, parts, each
        self.order: dict[Split, Tensor] = {}
        self.counts: dict[Split, int] = {}
        for name, part in parts.items():
            generator = torch.Generator().manual_seed(derive_seed(options.seed, "shards", name))
            self.order[name] = torch.randperm(len(part), generator=generator)
            self.counts[name] = self.shards_of(len(part))
        self.jobs: list[Job] = [(name, number) for name, count in self.counts.items() for number in range(count)]
        self.classes = max((part.classes for part in parts.values()), key=len)
        valued = any(part.values is not None and bool(part.values.isfinite().any()) for part in parts.values())
        grouped = any(part.groups is not None and bool((part.groups >= 0).any()) for part in parts.values())
        value: tuple[str, ...] = ("quality" if self.classes else "value",) if valued else ()
        self.others = (*value, "group") if grouped else value
        """What is said of images beside their labels."""

    def shards_of(self, images: int) -> int:
        """How many shards so many images make."""
        return max(1, min(images, math.ceil(images * self.each / (self.options.shard_mb * 1e6))))

    @classmethod
    def of(cls, options: MakeOptions, kind: str) -> "Plan":
        data = replace(options.data, limit=None, label_fraction=1.0, validation=0.0, held_out_classes=0.0)
        if data.pages == "all":
            raise ConfigError("data.pages=all makes several images of a file, and shards keep files: leave it out")
        if data.keeps_classes_apart:
            raise ConfigError(
                f"{data.source} keeps classes apart for scoring, which shards do not tell; make them of a folder"
            )
        names: tuple[Split, ...] = ("train", "validation", "test") if has_validation(data) else ("train", "test")
        parts: dict[Split, ImageSet] = {name: load_source(data, name) for name in names}
        return cls(options, kind, parts, _mean_bytes(parts["train"]))

    @property
    def digest(self) -> str:
        """What the same command has again: settings, images, labels."""
        found = hashlib.sha256(
            repr((self.kind, self.options.size, self.options.seed, self.options.shard_mb, self.classes)).encode()
        )
        for name, part in self.parts.items():
            found.update(f"{name} {len(part)} {part.name}".encode(errors="backslashreplace"))
            for column in (part.labels, part.values, part.groups):
                found.update(b"-" if column is None else column.numpy().tobytes())
            step = max(1, len(part) // _LOOKED_AT)
            for index in range(0, len(part), step):
                found.update(part.describe(index).encode(errors="backslashreplace"))
        return found.hexdigest()

    def name(self, job: Job) -> str:
        """The file of a shard."""
        part, number = job
        if self.kind == "parquet":
            return f"{part}-{number:05d}-of-{self.counts[part]:05d}.parquet"
        return f"{part}-{number:06d}.tar"

    def rows(self, job: Job) -> Tensor:
        """The numbers of a shard's images in its part, int64 (M,)."""
        part, number = job
        return self.order[part].tensor_split(self.counts[part])[number]

    def done(self, job: Job) -> dict[str, Any] | None:
        """What was written down of a shard that is whole, or None."""
        file = self.options.out / self.name(job)
        try:
            said: dict[str, Any] = json.loads((self.options.out / PLAN / f"{file.name}.json").read_text())
            return said if file.stat().st_size == said["bytes"] else None
        except (OSError, ValueError, KeyError):
            return None

    def table(self, job: Job) -> pa.Table:
        """The rows of a shard's list."""
        return read_table(self.options.out / PLAN / f"{self.name(job)}.arrow")

    def __call__(self, job: Job) -> Job:
        left_out: list[str] = []
        file = self.options.out / self.name(job)
        write = write_parquet if self.kind == "parquet" else write_tar
        written = write(file, self._samples(job, left_out), self.classes, self.others)
        beside = self.options.out / PLAN / file.name
        if written.table is not None:
            write_table(beside.with_name(f"{file.name}.arrow"), written.table)
        write_json(
            beside.with_name(f"{file.name}.json"),
            {"bytes": written.bytes, "sha256": written.sha256, "images": written.images, "left_out": left_out},
        )
        return job

    def _samples(self, job: Job, left_out: list[str]) -> Iterator[Sample]:
        name, number = job
        part, rows = self.parts[name], self.rows(job)
        first = sum(len(one) for one in self.order[name].tensor_split(self.counts[name])[:number])
        for place, index in enumerate(rows.tolist()):
            try:
                found = self._file(part, index)
            except DataError as error:
                if self.options.data.broken == "refuse":
                    raise DataError(
                        f"{error}. Mend or remove it, or leave such files out: --data.broken skip"
                    ) from error
                left_out.append(str(error))
                continue
            label = None if part.labels is None or part.labels[index] < 0 else int(part.labels[index])
            value = None if part.values is None or not part.values[index].isfinite() else float(part.values[index])
            group = None if part.groups is None or part.groups[index] < 0 else int(part.groups[index])
            yield Sample(
                key=f"{first + place:09d}",
                file=found,
                split=name,
                label=label,
                word=None if label is None else part.classes[label],
                value=value,
                group=group,
                quality=part.labels is not None,
            )

    def _file(self, part: ImageSet, index: int) -> Original:
        found = original(part, index, self.options.data.path)
        if not found.content:
            raise DataError(f"{part.describe(index)}: the file is empty")
        return found if self.options.size is None else smaller(found, part, index, self.options.size)


def write_table(file: Path, table: pa.Table) -> None:
    """Write an Arrow file, atomically."""

    def write(out: Any) -> None:
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)

    atomically(file, write)


def read_table(file: Path) -> pa.Table:
    """Read what ``write_table`` wrote."""
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _mean_bytes(images: ImageSet) -> float:
    step = max(1, len(images) // _LOOKED_AT)
    lengths = []
    for index in range(0, len(images), step):
        try:
            lengths.append(len(original(images, index).content))
        except DataError:
            continue
    return 3 * 512 + float(np.mean(lengths)) if lengths else 1.0
