"""What shards or tables held when a run began, in ``runs/NAME/packed.json``: a run that goes on, and its scores, expect the same.

Their division into parts is drawn anew from what is there. With an image more or less it would be another, and test on what was
trained on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simclr.config.data import DataConfig
from simclr.config.sources import PACKED
from simclr.data.packed.sources import packed_table
from simclr.errors import CheckpointError, DataError
from simclr.files import write_json

__all__ = ["FILE", "PackedList", "expect_packed", "packed_list", "same_packed", "write_packed"]

FILE = "packed.json"


@dataclass(frozen=True, kw_only=True)
class PackedList:
    """A set in few words."""

    images: int

    files: Mapping[str, int]
    """Images by the name of their shard, or of their split."""

    sha256: str
    """Digest of how long every image is, of its label, group and part."""


def packed_list(config: DataConfig) -> PackedList:
    """What ``config`` names.

    Raises:
        DataError, ConfigError: as ``packed_parts``.
    """
    table = packed_table(config)
    digest = hashlib.sha256(repr((len(table.store), table.labels and table.labels[1])).encode())
    columns: list[Any] = [table.lengths(), table.labels and table.labels[0], table.values, table.groups]
    columns.append(table.splits and table.splits[0])
    for column in columns:
        digest.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
    return PackedList(images=len(table.store), files=table.files, sha256=digest.hexdigest())


def write_packed(folder: Path, listed: PackedList) -> None:
    """Write it to a run's folder, atomically; raises WriteError."""
    write_json(folder / FILE, asdict(listed))


def expect_packed(run_dir: Path, config: DataConfig) -> PackedList | None:
    """What is to be written down for a run that begins; None where the run has begun, with the same images, or on a folder.

    Raises:
        DataError: it has begun with others.
        CheckpointError: what it wrote down is damaged.
    """
    if config.source not in PACKED:
        return None
    kept, found = _read(run_dir), packed_list(config)
    if kept is None:
        return found
    if kept.sha256 == found.sha256:
        return None
    changed = [
        f"{name} had {kept.files.get(name, 0)} images and has {found.files.get(name, 0)}"
        for name in sorted({*kept.files, *found.files})
        if kept.files.get(name) != found.files.get(name)
    ]
    said = "; ".join(changed[:5]) + ("; ..." if len(changed) > 5 else "")
    raise DataError(
        f"{config.path} is not what this run began with: {said or 'other images, labels or groups'}. Put it back, or begin a run "
        f"of another --name on what is there now; {run_dir / FILE} says what it began with"
    )


def same_packed(run_dir: Path, config: DataConfig) -> bool:
    """Whether ``config`` names the images that a run began with, by whatever path."""
    kept = _read(run_dir) if config.source in PACKED else None
    return kept is not None and kept.sha256 == packed_list(config).sha256


def _read(run_dir: Path) -> PackedList | None:
    file = run_dir / FILE
    try:
        return PackedList(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); it says which images the run began with. Put a whole one back, or remove it to go on "
            "with those that are there"
        ) from error
