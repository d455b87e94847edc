"""What metadata files and the setting ``data.group`` say of a folder's images: the one call that a source makes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr.config import DataConfig
from simclr.data.file_list import backing
from simclr.data.metadata import Metadata, find_metadata, read_metadata
from simclr.errors import ConfigError

__all__ = ["metadata_of_set"]


def metadata_of_set(config: DataConfig, paths: Sequence[Path]) -> Metadata:
    """What is said of ``paths``, images below ``config.path``, besides their folders.

    With ``data.labels FILE`` that file speaks, with ``auto`` the one that the folder brings along. With any other setting
    only groups are taken, and only where ``data.group`` asks for them.

    Raises:
        ConfigError: ``data.group`` is no column, and as a pattern fits no path.
        DataError: as `simclr.data.metadata.read_metadata`.
    """
    assert config.path is not None
    named = isinstance(config.labels, Path)
    files: tuple[Path, ...] = (config.labels,) if isinstance(config.labels, Path) else ()
    if not named and (config.labels == "auto" or config.group is not None):
        files = find_metadata(config.path)
    groups_alone = not named and config.labels != "auto"
    said = Metadata()
    if files:
        said = read_metadata(files, config.path, paths, group=config.group, found=not named, only_groups=groups_alone)
    if groups_alone:
        said = replace(
            said, notes=tuple(note.partition("; columns not used")[0] for note in said.notes[: said.groups is not None])
        )
    if config.group is None or said.groups is not None:
        return said
    groups = _by_pattern(config.group, config.path, paths)
    if groups is None:
        columns = f"; the columns of {', '.join(map(str, files[:3]))} are {', '.join(said.columns)}" if files else ""
        raise ConfigError(
            f"data.group is {config.group!r}, which is no column of a metadata file and, as a pattern, fits no path below "
            f"{config.path}{columns}"
        )
    number, alone = int(groups.max()) + 1, int((groups < 0).sum())
    note = f"{number} groups by the pattern {config.group} on the path" + (
        f"; {alone} images fit none" if alone else ""
    )
    return replace(said, groups=groups, notes=(*said.notes, note))


def _by_pattern(pattern: str, root: Path, paths: Sequence[Path]) -> Tensor | None:
    """The group of each path by the first group of ``pattern``, or all that fits it: int64 (N,); None if none fits."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"data.group is {pattern!r}, which is no column and no regular expression: {error}"
        ) from error
    number: dict[str, int] = {}

    def group(name: str) -> int:
        fits = compiled.search(name)
        named = None if fits is None else fits[1] if compiled.groups else fits[0]
        return -1 if named is None else number.setdefault(named, len(number))

    files, rows = backing(paths, root)
    groups = np.fromiter(map(group, files.each_name(rows)), dtype=np.int64, count=len(rows))
    return torch.from_numpy(groups) if number else None
