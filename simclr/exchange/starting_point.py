"""What weights to start from say of themselves: their network, the size and the normalisation of its images."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from augment import AugmentConfig
from simclr.config import DataConfig, EncoderConfig, TrainConfig
from simclr.config.yaml import load_config
from simclr.errors import ConfigError, PipelineError
from simclr.exchange.description import EncoderDescription, find_encoder, read_description
from simclr.exchange.given import WEIGHTS, none_of_these
from simclr.exchange.of_others import expect_published
from simclr.exchange.stopped_run import describe_run, is_checkpoint
from simclr.model.encoder import SMALL_IMAGE, is_network
from simclr.paths import given_path

__all__ = ["StartingPoint", "is_encoder_folder", "published", "starting_point", "with_its_stem"]


class StartingPoint(NamedTuple):
    """Weights, and what is known of them."""

    name: str
    """What a run that starts from them may be called after."""

    encoder: EncoderConfig
    """Which loads them."""

    data: DataConfig | None = None
    """Their images: those of a run, or how those of an encoder folder and of published weights are read; None for a file."""

    augment: AugmentConfig | None = None
    """Size and normalisation; of a run how its views were made, too. None for a file, which says nothing."""

    is_run: bool = False
    """Whether they are a run's, so that ``data`` are images and ``augment`` is whole."""


def starting_point(init: str) -> StartingPoint:
    """What ``init`` is: a run, an encoder folder or a file in it, a run's checkpoint, a timm model's name, or a file of others.

    Raises:
        ConfigError: neither a file, nor a folder, nor the name of a timm model with published weights.
        CheckpointError: a folder without an encoder, or with a damaged one.
    """
    if "$" in init or init.startswith("~"):
        init = str(given_path(init, "encoder.init"))
    path = Path(init)
    if not path.exists():
        if path.suffix not in WEIGHTS and is_network(init):
            return published(init)
        raise ConfigError(none_of_these("encoder.init", path))
    if is_checkpoint(path) is not None:
        run = path.parent.parent
        return _own(run, describe_run(run)[0], init)
    if is_encoder_folder(init):
        folder = find_encoder(path)
        return _own(folder.parent, read_description(folder), init)
    return StartingPoint(path.stem, EncoderConfig(init=init))


def is_encoder_folder(init: str | None) -> bool:
    """Whether ``init`` is a run, an encoder folder or a file in it, rather than a checkpoint, a file or a model's name."""
    if init is None or is_checkpoint(Path(init)) is not None:
        return False
    return Path(init).is_dir() or Path(init).name in ("encoder.json", "encoder.safetensors")


def published(name: str) -> StartingPoint:
    """timm's published weights of ``name``.

    Raises:
        ConfigError: there are none.
    """
    found = expect_published(name)
    return StartingPoint(name, EncoderConfig(name=name, pretrained=True), found.data, found.augment)


def with_its_stem(config: TrainConfig) -> TrainConfig:
    """``config`` with the stem that its encoder had, where it starts from one of ours and ``stem="auto"`` would now mean another.

    It means one of two by the size of the images, and the weights are of the one that they were trained with.
    """
    init, encoder = config.encoder.init, config.encoder
    if init is None or not is_encoder_folder(init) or encoder.stem != "auto" or encoder.init_partial:
        return config
    try:
        folder = find_encoder(Path(init))
        described = read_description(folder)
    except PipelineError:
        return config  # who loads it says so
    small = described.size <= SMALL_IMAGE
    if described.config.stem != "auto" or small == (config.augment.size <= SMALL_IMAGE) or not _is_resnet(folder):
        return config
    return replace(config, encoder=replace(encoder, stem="small" if small else "imagenet"))


def _is_resnet(folder: Path) -> bool:
    """Whether the weights are of a network that has two stems."""
    try:
        with safe_open(folder / "encoder.safetensors", "pt") as tensors:
            names: Any = tensors.keys()
            return any(name.startswith("conv1.") for name in names) and any(
                name.startswith("layer1.") for name in names
            )
    except (OSError, SafetensorError):
        return False  # who loads it says so


def _own(home: Path, described: EncoderDescription, init: str) -> StartingPoint:
    name, encoder = home.resolve().name, replace(described.config, init=init)
    written = home / "config.yaml"
    if written.exists():
        run = load_config(written)
        return StartingPoint(name, encoder, _read_alike(run.data, described), run.augment, True)
    augment = AugmentConfig(size=described.size, mean=described.mean, std=described.std)
    return StartingPoint(name, encoder, _read_alike(DataConfig(size=described.reader.size), described), augment)


def _read_alike(data: DataConfig, described: EncoderDescription) -> DataConfig:
    """``data`` whose images are read as those were that the encoder was trained on."""
    values = data.value_range if described.value_range is None else described.value_range
    return replace(data, channels=described.channels, fit=described.fit, value_range=values)
