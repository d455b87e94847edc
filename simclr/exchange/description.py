"""``encoder.json``: how to build an encoder's backbone, and how to prepare an image for it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from augment import AugmentConfig
from simclr.config import EncoderConfig
from simclr.config.yaml import from_dict, to_dict
from simclr.data.decode import Fit, Reader
from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.sealed import file_sha256, read_sealed, sealed
from simclr.exchange.values import Values
from simclr.files import write_json
from simclr.paths import expanded
from simclr.plugins import recall_plugins

__all__ = ["EncoderDescription", "find_encoder", "read_description", "write_description"]

FORMATS = (1, 2)
"""1: images of three channels, 8 bits deep, cropped to a square: all there was. 2: anything else, which a version that knows
only the first would read wrongly."""

_LARGEST = 1e30
"""Of a mean, a deviation and a range: what is taken times it has to fit float32."""

_LARGEST_SIDE = 1 << 16
"""Pixels of a side, and channels: more is no image, but a damaged number."""


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

    digests: Mapping[str, str] | None = None
    """SHA-256 of the files beside it, None for an encoder of an earlier version."""

    plugin: tuple[str, ...] = ()
    """Modules of the user's own that it needs; imported by now."""

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
    plugin: Sequence[str] = (),
) -> None:
    """Write ``folder/encoder.json``, of the earliest format that says it all, for the ``encoder.safetensors`` beside it.

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
        **({"plugin": list(plugin)} if plugin else {}),
    }
    digests = {"encoder.safetensors": file_sha256(folder / "encoder.safetensors")}
    write_json(folder / "encoder.json", sealed(description, "encoder.json", digests))


def read_description(folder: Path) -> EncoderDescription:
    """Read ``folder/encoder.json``.

    Raises:
        CheckpointError: it is not there, was changed since it was written, is of a format that another version writes, or
            holds a value that cannot be; the message names the key and what was expected. It needs a plugin that is missing,
            or that this user has never given.
    """
    file = folder / "encoder.json"
    content, digests = read_sealed(file, FORMATS)
    values = Values(file, content)
    plugin = values.texts("plugin") if "plugin" in content else ()
    try:
        recall_plugins(plugin, str(folder))
        config = from_dict(EncoderConfig, values.inner("encoder").content, where=f"{file}: encoder")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    reader = _reader(values)
    counts = {1, reader.channels}
    mean, std = (
        values.numbers("mean", counts, -_LARGEST, _LARGEST),
        values.numbers("std", counts, 1 / _LARGEST, _LARGEST),
    )
    if (None if mean is None else len(mean)) != (None if std is None else len(std)):
        raise values.fault("std", "as many numbers as mean has, or null where that is null")
    values.inner("training", {})
    return EncoderDescription(
        config=config,
        size=values.whole("size", 2, _LARGEST_SIDE),
        mean=mean,
        std=std,
        features=values.whole("features", 1, _LARGEST_SIDE**2),
        init_seed=values.whole("init_seed", 0, 2**64 - 1),
        reader=reader,
        digests=digests,
        plugin=plugin,
    )


def _reader(values: Values) -> Reader:
    """How files became pixels; what an earlier version did not know was the only way there was."""
    size = values.whole("size", 2, _LARGEST_SIDE)
    pair = values.numbers("value_range", (2,), -_LARGEST, _LARGEST)
    if pair is not None and not pair[0] < pair[1]:
        raise values.fault("value_range", "two numbers, the lower first")
    deep_only = values.choice("deep_only", (False, True), False)
    if deep_only and pair is None:
        raise values.fault("deep_only", "false without a value_range")
    return Reader(
        size=values.whole("read_size", 2, _LARGEST_SIDE, size),
        channels=values.whole("channels", 1, _LARGEST_SIDE, 3),
        fit=values.choice("fit", get_args(Fit), "crop"),
        value_range=None if pair is None else (pair[0], pair[1]),
        deep_only=deep_only,
    )


def find_encoder(path: Path) -> Path:
    """The folder that holds ``encoder.json``, from a run directory, that folder, or a file in it."""
    path = expanded(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run directory or an encoder folder")
    for folder in (path, path / "encoder", path.parent if path.is_file() else path):
        if (folder / "encoder.json").is_file():
            return folder
    hint = "expected encoder.json and encoder.safetensors"
    if (path / "config.yaml").exists():
        hint = "training has not finished there: run the same training command again"
        if steps := sorted(str(one) for one in (path / "checkpoints").glob("step-*")):
            hint += f", or give a checkpoint of it, {steps[-1]}"
    elif (path / "model.safetensors").is_file():
        hint = f"as timm writes one; its weights are a file, {path / 'model.safetensors'}"
    elif runs := sorted(str(one.parent.parent) for one in path.glob("*/encoder/encoder.json")):
        hint = f"but runs that do: {', '.join(runs[:3])}{', ...' if len(runs) > 3 else ''}"
    raise CheckpointError(f"{path} holds no encoder ({hint})")
