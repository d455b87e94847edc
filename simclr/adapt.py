"""Adapting: self-supervised pretraining that goes on from weights that are there, on images of one's own.

The preset ``adapt`` says how; what the weights say of themselves (network, image size, normalisation, and of a run how its
views were made) goes before it, and what the user says before both.
"""

from dataclasses import replace
from typing import Any

from augment import AugmentConfig
from simclr.config import TrainConfig
from simclr.errors import ConfigError, shown
from simclr.exchange.of_others import published_weights
from simclr.exchange.starting_point import StartingPoint, published, starting_point
from simclr.flags import Words
from simclr.model.encoder import SMALL_IMAGE

__all__ = ["adapt_config", "adapted"]


def adapt_config(recipe: TrainConfig, init: str | None = None, name: str | None = None) -> TrainConfig:
    """``recipe`` for the weights ``init``: its images' size and normalisation, and its network, are theirs.

    Args:
        recipe: such as the preset ``adapt``.
        init: a run, an encoder folder, a file of weights, or the name of a timm model; None is timm's weights of ``name``.
        name: the timm model that a file is of, or whose published weights are meant; None leaves that of ``recipe``.

    Raises:
        ConfigError: nothing of that name; or no weights are published.
        CheckpointError: a folder without an encoder, or with a damaged one.
    """
    point = published(name or recipe.encoder.name) if init is None else starting_point(init)
    if point.data is None:  # a file says nothing; timm knows what the weights that it has for such a network take
        point = _of_a_file(point, recipe, name or recipe.encoder.name)
    data, augment = point.data, point.augment
    assert data is not None and augment is not None
    if augment.views < recipe.augment.views or not point.is_run:
        # Chen et al. 2020 neither blur images of CIFAR's size nor change their colours as much as those of ImageNet.
        views = recipe.augment if augment.size > SMALL_IMAGE else AugmentConfig()
        augment = replace(views, size=augment.size, mean=augment.mean, std=augment.std)
    if not point.is_run:
        data = replace(data, workers=recipe.data.workers)
    run_name = f"{point.name.replace('.', '-')}-adapted"
    return replace(recipe, name=run_name, data=data, augment=augment, encoder=point.encoder)


def adapted(recipe: TrainConfig, words: Words, told: dict[str, Any]) -> tuple[TrainConfig, Words]:
    """What the flags ``words`` override for ``recipe``, and those that are left: a timm model is no file to start from.

    Args:
        recipe: such as the preset ``adapt``.
        words: of a command line.
        told: what a config file says of the encoder.

    Raises:
        ConfigError: no weights to start from; else as ``adapt_config``.
    """
    init, name = (words.value(f"--encoder.{key}") or told.get(key) for key in ("init", "name"))
    for key, value in (("init", init), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"encoder.{key} is {shown(value)}; expected text")
    if init is None and "--encoder.no-pretrained" in words.flags:
        raise ConfigError(
            "adapt needs weights to start from: --encoder.init with a run, an encoder folder or a file of weights, or "
            "--encoder.name with the name of a timm model"
        )
    config = adapt_config(recipe, init, name)
    size = words.value("--augment.size")
    if size is not None and size.isdecimal() and int(size) > 1 and config.data.size is not None:
        # What is stored follows the views.
        stored = round(config.data.size * int(size) / config.augment.size)
        config = replace(config, data=replace(config.data, size=stored))
    if "--data.path" in words.flags and "--data.source" not in words.flags:
        config = replace(
            config, data=replace(config.data, source="folder", labels="auto", limit=None, device_resident="auto")
        )
    return config, words.without("--encoder.init") if config.encoder.init is None else words


def _of_a_file(point: StartingPoint, recipe: TrainConfig, name: str) -> StartingPoint:
    known = published_weights(name) or recipe
    data, augment = known.data, known.augment
    return point._replace(encoder=replace(point.encoder, name=name), data=data, augment=augment)
