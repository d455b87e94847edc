"""Any set of images as shards or as parquet: in parallel, shuffled once, and going on where it was stopped."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from simclr.cores import share_of_cores
from simclr.data.decode_all import workers_fork
from simclr.data.packed.index import FILE, Index, Shard, write_index
from simclr.data.packed.plan import PLAN, Job, MakeOptions, Plan
from simclr.data.workers import read_by_workers
from simclr.errors import ConfigError, DataError
from simclr.files import atomically, free_space, is_leftover, write_json
from simclr.progress import progress

__all__ = ["MadeShards", "MakeOptions", "make_shards"]


@dataclass(frozen=True, kw_only=True)
class MadeShards:
    """What ``make_shards`` wrote."""

    out: Path
    kind: str
    parts: dict[str, int]
    """Images of each part."""

    shards: int
    bytes: int
    before: int
    """Shards that were there already."""

    left_out: tuple[str, ...]
    """Why images that cannot be read are not in them."""

    notes: tuple[str, ...]

    def lines(self, most: int = 20) -> list[str]:
        """What was done, in words."""
        parts = ", ".join(f"{count} {part}" for part, count in self.parts.items())
        lines = [*self.notes]
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)} images that cannot be read:")
            lines += [f"  {reason}" for reason in self.left_out[:most]]
            lines += [f"  and {len(self.left_out) - most} more"] if len(self.left_out) > most else []
        what = "files of parquet" if self.kind == "parquet" else "shards"
        before = f", {self.before} of which were there" if self.before else ""
        lines.append(
            f"{sum(self.parts.values())} images ({parts}) in {self.shards} {what}{before}, "
            f"{self.bytes / 1e6:.1f} MB: {self.out}"
        )
        lines.append(
            f"read them with --data.source {self.kind} --data.path {self.out}; SHA256SUMS has their check sums"
        )
        return lines


def make_shards(options: MakeOptions, kind: Literal["shards", "parquet"]) -> MadeShards:
    """Write every image of ``options.data``, in the parts that it is divided into, to shards or parquet files in ``options.out``.

    A shard is written beside its place, synced and renamed; the same command again writes those that are not there yet. What
    makes a run see fewer images (``data.limit``, ``label_fraction``, ``validation``, ``held_out_classes``) is not looked at.

    Raises:
        ConfigError: the folder holds something else, or settings that shards cannot keep.
        DataError: as ``load_source``; an image that cannot be read, unless ``data.broken`` is ``skip``; too little space.
        WriteError: the disk refuses.
    """
    plan = Plan.of(options, kind)
    images = sum(len(part) for part in plan.parts.values())
    state = options.out / PLAN
    finished = _begin(plan, options, state)
    before = [job for job in plan.jobs if finished or plan.done(job) is not None]
    done = sum(len(plan.rows(job)) for job in before)
    todo = [] if finished else [job for job in plan.jobs if job not in set(before)]
    _expect_space(plan, todo)
    processes = min(share_of_cores(), len(todo)) if workers_fork() else 0
    with progress("writing", images, done=done) as tell:
        for job in read_by_workers(plan, todo, workers=processes if processes > 1 else 0):
            tell(done := done + len(plan.rows(job)))
    left_out = () if finished else _finish(plan, options, state)
    parts = _written(plan, options)
    written = [options.out / plan.name(job) for job in plan.jobs]
    return MadeShards(
        out=options.out,
        kind=kind,
        parts=parts,
        shards=len(written),
        bytes=sum(file.stat().st_size for file in written),
        before=len(before),
        left_out=left_out,
        notes=tuple(dict.fromkeys(note for part in plan.parts.values() for note in part.notes)),
    )


def _begin(plan: Plan, options: MakeOptions, state: Path) -> bool:
    """Whether everything is there already; refuse a folder that holds something else."""
    out = options.out
    marker = out / "SHA256SUMS"
    record = state / "plan.json" if state.exists() else out / ".plan.json"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out names a folder for the shards")
    there = [path for path in out.iterdir() if not path.name.endswith(".partial")] if out.exists() else []
    if there:
        try:
            said = json.loads(record.read_text())["digest"]
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{out} holds files, but no shards of this command; choose another --out") from error
        if said != plan.digest:
            raise ConfigError(
                f"{out} holds shards of other images or with other settings; choose another --out, or remove that folder"
            )
    if there and marker.exists():
        return all((out / plan.name(job)).exists() for job in plan.jobs)
    state.mkdir(parents=True, exist_ok=True)
    write_json(state / "plan.json", {"digest": plan.digest})
    return False


def _expect_space(plan: Plan, todo: list[Job]) -> None:
    wanted = sum(len(plan.rows(job)) for job in todo) * plan.each if plan.options.size is None else 0
    free = free_space(plan.options.out)
    if free is not None and wanted > free:
        raise DataError(
            f"{plan.options.out} has room for {free / 1e9:.1f} GB, and what is left to write takes about {wanted / 1e9:.1f} GB; "
            f"free some space or choose another --out"
        )


def _finish(plan: Plan, options: MakeOptions, state: Path) -> tuple[str, ...]:
    """Write the list of all shards and their check sums; what is left out, and why."""
    shards, tables, left_out, sums = list[Shard](), list[pa.Table](), list[str](), list[str]()
    parts = dict.fromkeys(plan.parts, 0)
    for number, job in enumerate(plan.jobs):
        said = plan.done(job)
        assert said is not None
        name = plan.name(job)
        shards.append(Shard(name=name, bytes=said["bytes"], images=said["images"], sha256=said["sha256"]))
        left_out += said["left_out"]
        parts[job[0]] += said["images"]
        sums.append(f"{said['sha256']}  {name}\n")
        if plan.kind == "shards":
            table = plan.table(job)
            tables.append(table.add_column(0, "shard", pa.array(np.full(len(table), number, dtype=np.int32))))
    if tables:
        write_index(options.out / FILE, Index(tuple(shards), pa.concat_tables(tables), plan.classes))
    write_json(options.out / ".plan.json", {"digest": plan.digest, "parts": parts})
    atomically(options.out / "SHA256SUMS", lambda file: file.write("".join(sums).encode()))
    for path in (*state.iterdir(), *filter(is_leftover, options.out.iterdir())):
        path.unlink(missing_ok=True)
    state.rmdir()
    return tuple(left_out)


def _written(plan: Plan, options: MakeOptions) -> dict[str, int]:
    """Images of each part that were written: those that are left out are in no shard."""
    planned = {str(name): len(part) for name, part in plan.parts.items()}
    said: dict[str, int] = json.loads((options.out / ".plan.json").read_text()).get("parts", planned)
    return said
