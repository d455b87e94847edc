"""Encoders that others trained: published weights of timm, and files of weights, with how their images are prepared.

A file is loaded whole or refused, as fine-tuning does. Which network it is of it says itself, or its user; size and normalisation
are those that timm publishes for that network.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from augment import AugmentConfig
from simclr.config import DataConfig, EncoderConfig
from simclr.config.normalisation import normalised_for
from simclr.data.decode import Reader
from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.description import EncoderDescription
from simclr.exchange.imported import position_patches, start_from
from simclr.exchange.weights_file import named_network
from simclr.model.encoder import STEMS, build_backbone, feature_width, is_network, without_weights

__all__ = ["Imported", "PublishedWeights", "expect_published", "from_file", "published", "published_weights"]

_TORCHVISION = {f"vit_{a}_{p}": f"vit_{b}_patch{p}_224" for a, b in (("b", "base"), ("l", "large")) for p in (16, 32)}
"""What torchvision calls networks that timm has under another name."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An encoder that was trained elsewhere."""

    name: str
    """What a table calls it."""

    description: EncoderDescription
    """How it is built, and how it prepares an image."""

    tensors: dict[str, Tensor]
    """Its weights."""

    said: tuple[str, ...]
    """What was found and assumed, a line each."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """How the weights that timm has under a name want their images."""

    augment: AugmentConfig
    """Size, mean and standard deviation."""

    data: DataConfig
    """The stored size, of which the centre is cropped."""


PLAIN = PublishedWeights(augment=AugmentConfig(size=224), data=DataConfig(source="folder", size=256))
"""What is taken where nobody says how images are to be prepared."""


def published_weights(name: str) -> PublishedWeights | None:
    """What timm says of the weights that it publishes under ``name``, or None where there are none."""
    weights = _of_timm(name)
    return None if weights is None or not weights.has_weights else _wanted(weights.to_dict())


def expect_published(name: str) -> PublishedWeights:
    """What timm says of the weights that it publishes under ``name``.

    Raises:
        ConfigError: there are none.
    """
    weights = published_weights(name)
    if weights is None:
        raise ConfigError(f"timm has no published weights for {name}; timm.list_pretrained() lists those it has")
    return weights


def _of_timm(name: str) -> Any:
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag behind the dot that timm does not know
        return None


def _wanted(said: Mapping[str, Any]) -> PublishedWeights:
    """How images are to be prepared, by a ``pretrained_cfg`` of timm."""
    size = said["input_size"][-1]
    return PublishedWeights(
        augment=AugmentConfig(size=size, mean=tuple(said["mean"]), std=tuple(said["std"])),
        data=DataConfig(source="folder", size=round(size / (said.get("crop_pct") or 1.0))),
    )


def _of_folder(file: Path) -> tuple[dict[str, Any], PublishedWeights | None]:
    """What ``config.json`` beside ``file`` says, as timm writes it for a hub: about the network, and about its images."""
    try:
        said = json.loads((file.parent / "config.json").read_text())
        arguments = said.get("model_args") or {}
        network = {
            key: arguments[key] for key in ("layers", "channels", "patch_size") if arguments.get(key) is not None
        }
        network |= {"stem": said.get("stem") or "small"} if said.get("small_stem") else {}
        own = said.get("pretrained_cfg", said)
        return {k: tuple(v) if isinstance(v, list) else v for k, v in network.items()}, _wanted(own)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, None


def published(name: str, channels: int) -> Imported:
    """The weights that timm publishes under ``name``, for images of ``channels``.

    Raises:
        ConfigError: there are none, or they cannot be fetched.
    """
    weights = expect_published(name)
    config = EncoderConfig(name=name, pretrained=True)
    augment = normalised_for(channels, weights.augment)
    try:
        backbone = build_backbone(config, augment.size, 0, channels)
    except ConfigError as error:  # which is worded for training
        raise ConfigError(str(error).replace("--encoder.init FILE", f"{name}=FILE")) from error
    described = _described(
        without_weights(config), augment, weights.data.size, feature_width(backbone, augment.size, channels), channels
    )
    return Imported(
        name=name,
        description=described,
        tensors=backbone.state_dict(),
        said=(f"timm's published weights of {name}; {_prepared(described)}, as timm has it",),
    )


def from_file(file: Path, network: str | None, channels: int) -> Imported:
    """The weights in ``file``, of timm's ``network`` or the one that the file names, for images of ``channels``.

    A transformer is fed images of the size that its positions are for; a ResNet whose first convolution is 3 x 3 has the
    stem that SimCLR gives it on CIFAR-10, and is fed 32 x 32 pixels.

    Raises:
        CheckpointError: no such file, not a file of weights, no name of a network, or not every tensor of that network.
    """
    name = network or _network_of(file)
    if not file.exists():
        raise CheckpointError(f"{file.parent} holds no encoder (expected encoder.json and encoder.safetensors)")
    network_said, wanted = _of_folder(file)
    whose = "as its config.json says"
    if wanted is None:
        of_timm = _of_timm(name)
        wanted = PLAIN if of_timm is None else _wanted(of_timm.to_dict())
        whose = "by default: nothing is known of it" if of_timm is None else "as timm has it for this network"
    stored, augment = wanted.data.size, normalised_for(channels, wanted.augment)
    config = EncoderConfig(**{"name": name, "init": str(file), "stem": "imagenet", **network_said})
    backbone = build_backbone(config, augment.size, 0, channels)
    patches = position_patches(file, backbone)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if patches is not None and grid is not None and tuple(grid) != (patches, patches):
        size = augment.size * patches // grid[0]  # what these weights were trained at
        stored, augment = stored * size // augment.size, replace(augment, size=size)
        backbone = build_backbone(config, size, 0, channels)
    said = ""
    try:
        said = start_from(backbone, config, channels)
    except CheckpointError:
        if not hasattr(backbone, "maxpool") or config.stem in STEMS:
            raise
        small = replace(config, stem="small")  # a ResNet as it is trained on CIFAR-10
        backbone = build_backbone(small, 32, 0, channels)
        with suppress(CheckpointError):
            said = start_from(backbone, small, channels)
        if not said:
            raise
        config, stored, augment = small, 32, replace(augment, size=32)
    described = _described(
        without_weights(config), augment, stored, feature_width(backbone, augment.size, channels), channels
    )
    return Imported(
        name=file.parent.resolve().name
        if file.name == "model.safetensors"
        else file.name.removesuffix(".tar").rpartition(".")[0],
        description=described,
        tensors=backbone.state_dict(),
        said=(f"{name}, {said.removeprefix('started from ')}", f"{_prepared(described)}, {whose}"),
    )


def _described(
    config: EncoderConfig, augment: AugmentConfig, stored: int, features: int, channels: int
) -> EncoderDescription:
    return EncoderDescription(
        config=config,
        size=augment.size,
        mean=augment.mean,
        std=augment.std,
        features=features,
        init_seed=0,
        reader=Reader(size=stored, channels=channels),
    )


def _prepared(described: EncoderDescription) -> str:
    size = f"images of {described.size} x {described.size} px"
    if described.mean is None or described.std is None:
        return f"{size}, not normalised"
    mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (described.mean, described.std))
    return f"{size}, mean {mean}, deviation {std}"


def _network_of(file: Path) -> str:
    """timm's name of the network whose weights are in ``file``, as the file says it.

    Raises:
        CheckpointError: it does not, or names what timm does not have.
    """
    import timm

    told: list[str] = []
    for said, notes in named_network(file):
        told.append(said)
        plain = said.replace("resnet-", "resnet")
        patch = notes.get("patch_size")
        names = (plain, _TORCHVISION.get(said, ""), f"{said}_patch{patch if isinstance(patch, int) else 16}_224")
        for name in names:
            if name and is_network(name):
                return name
    guesses = [name for name in timm.list_models() if file.stem.startswith(name)]
    guess = max(guesses, key=len) if guesses else "resnet50"
    named = f"names {told[0]!r}, which timm does not have" if told else "does not say which network its weights are of"
    raise CheckpointError(f"{file} {named}; give timm's name of it, such as --encoder.name {guess} (or {guess}={file})")
