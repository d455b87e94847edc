"""The parts of a set that ``data.source`` calls ``shards`` or ``parquet``."""

import hashlib
from dataclasses import replace
from pathlib import Path

from simclr.config.data import DataConfig
from simclr.data.image_set import ImageSet
from simclr.data.packed.parquet import load_parquet
from simclr.data.packed.parts import parts_of_table
from simclr.data.packed.shards import load_shards
from simclr.data.packed.table import Table
from simclr.data.part_names import PartName
from simclr.errors import ConfigError

__all__ = ["damaged_files", "packed_parts", "packed_table"]


def packed_parts(config: DataConfig) -> dict[PartName, ImageSet]:
    """``train`` always; ``validation``, ``test`` and ``unlabeled`` where the set has them.

    Raises:
        ConfigError: no ``data.path``, or settings that name what is not there.
        DataError: nothing there, or shards and tables that are damaged.
        MissingExtraError: a library that is not installed.
    """
    return parts_of_table(config, packed_table(config))


def packed_table(config: DataConfig) -> Table:
    """All images, undivided, and what is said of each; raises as ``packed_parts``."""
    if config.path is None:
        what = (
            "the shards: --data.path 'DIR/train-*.tar'" if config.source == "shards" else "the files: --data.path DIR"
        )
        raise ConfigError(f"data.source is {config.source} but data.path is not set; give {what}")
    return load_shards(config) if config.source == "shards" else load_parquet(config)


def damaged_files(config: DataConfig) -> dict[Path, str]:
    """The shards or files of parquet that are missing, cut off, or not what their check sums say: each with what is wrong."""
    table = packed_table(replace(config, broken="skip"))
    found = {Path(name): words for name, words in table.faults.items()}
    for name, wanted in table.sums.items():
        if Path(name) not in found and _sha256(name) != wanted:
            found[Path(name)] = (
                f"{name}: its bytes are not those that its check sum (SHA-256) is of; it was changed or damaged"
            )
    return found


def _sha256(name: str) -> str:
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
