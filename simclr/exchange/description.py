"""``encoder.json``: how to build an encoder's backbone, and how to prepare an image for it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from augment import AugmentConfig
from simclr.config import EncoderConfig
from simclr.config.yaml import from_dict, to_dict
from simclr.data.decode import Fit, Reader
from simclr.errors import CheckpointError
from simclr.files import write_json
from simclr.paths import expanded

__all__ = ["EncoderDescription", "check_format", "find_encoder", "read_description", "write_description"]

FORMATS = (1, 2)
"""1: images of three channels, 8 bits deep, cropped to a square: all there was. 2: anything else, which a version that knows
only the first would read wrongly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """What ``encoder.json`` says: how to build the backbone, and how to prepare an image for it."""

    config: EncoderConfig
    """What ``build_backbone`` is given."""

    size: int
    """Height and width in pixels."""

    mean: tuple[float, ...] | None
    """Of the channels, None where they are not normalised."""

    std: tuple[float, ...] | None
    """Of the channels."""

    features: int
    """Width F of the features."""

    init_seed: int
    """Seed of the initial weights."""

    reader: Reader
    """How files became pixels in training, where their size may be another one than that of the views."""

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.reader.channels

    @property
    def fit(self) -> Fit:
        """How an image becomes a square."""
        return self.reader.fit

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Values of files that were 0 and 255 in training, None for the full range of each kind of file."""
        return self.reader.value_range


def write_description(
    folder: Path,
    *,
    config: EncoderConfig,
    augment: AugmentConfig,
    features: int,
    seed: int,
    training: dict[str, Any],
    reader: Reader,
) -> None:
    """Write ``folder/encoder.json``, of the earliest format that says it all.

    Raises:
        CheckpointError: the disk refuses.
    """
    how = {
        "channels": reader.channels,
        "fit": reader.fit,
        "value_range": None if reader.value_range is None else list(reader.value_range),
        "deep_only": reader.value_range is not None and reader.deep_only,  # a range of files above 8 bits alone
    }
    plain = {"channels": 3, "fit": "crop", "value_range": None, "deep_only": False}
    description = {
        "format": 1 if how == plain else 2,
        "encoder": to_dict(config),
        "size": augment.size,
        "mean": augment.mean,
        "std": augment.std,
        **how,
        "read_size": reader.size,
        "features": features,
        "init_seed": seed,
        "training": training,
    }
    write_json(folder / "encoder.json", description)


def read_description(folder: Path) -> EncoderDescription:
    """Read ``folder/encoder.json``.

    Raises:
        CheckpointError: it is not there, not as ``export_encoder`` writes it, or of a format that another version writes.
    """
    file = folder / "encoder.json"
    try:
        described = json.loads(file.read_text())
        check_format(described, FORMATS, file)
        mean, std = described["mean"], described["std"]
        return EncoderDescription(
            config=from_dict(EncoderConfig, described["encoder"], where=f"{file}: encoder"),
            size=described["size"],
            mean=mean and tuple(mean),
            std=std and tuple(std),
            features=described["features"],
            init_seed=described["init_seed"],
            reader=_reader(described),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {type(error).__name__} {error}") from error


def _reader(described: dict[str, Any]) -> Reader:
    fit, values = described.get("fit", "crop"), described.get("value_range")
    if fit not in get_args(Fit):
        raise ValueError(f"fit is {fit!r}")
    if values is not None:
        low, high = values
        values = (float(low), float(high))
        if not low < high:
            raise ValueError(f"value_range is {values}")
    size, channels = int(described.get("read_size", described["size"])), int(described.get("channels", 3))
    if channels < 1:
        raise ValueError(f"channels is {channels}")
    deep_only = bool(described.get("deep_only", False))
    return Reader(size=size, channels=channels, fit=fit, value_range=values, deep_only=deep_only)


def find_encoder(path: Path) -> Path:
    """The folder that holds ``encoder.json``, from a run directory, that folder, or a file in it."""
    path = expanded(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run directory or an encoder folder")
    for folder in (path, path / "encoder", path.parent if path.is_file() else path):
        if (folder / "encoder.json").is_file():
            return folder
    hint = (
        "training has not finished there: run the same training command again"
        if (path / "config.yaml").exists()
        else ("expected encoder.json and encoder.safetensors")
    )
    raise CheckpointError(f"{path} holds no encoder ({hint})")


def check_format(described: dict[str, Any], known: Sequence[int], file: Path) -> None:
    """Raise CheckpointError unless the ``format`` that ``file`` gives itself is a ``known`` one; KeyError without any."""
    if described["format"] not in known:
        versions = " and ".join(map(str, known))
        raise CheckpointError(
            f"{file} is of format {described['format']!r}, this version reads {versions}; install the version of "
            "simclr-pipeline that wrote it, or export it again with this one"
        )
