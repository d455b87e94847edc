"""Fine-tuning: where a run starts from decides its defaults; ``scripts/finetune.py`` trains it by the same loop."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from augment import AugmentConfig
from simclr.command_line import own_or_other_data, parse_flags
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.config.yaml import load_config
from simclr.data import ImageSet, load_source, with_targets
from simclr.data.sources import has_validation
from simclr.data.splits import keep_validation
from simclr.errors import ConfigError, DataError
from simclr.exchange.description import find_encoder, read_description
from simclr.exchange.starting_point import is_encoder_folder, starting_point, with_its_stem
from simclr.flags import HELP, Words, read_words
from simclr.losses import CrossEntropyConfig
from simclr.model.encoder import without_weights
from simclr.objectives import build_objective, fit_objective
from simclr.paths import given_path

__all__ = ["finetune_config", "from_scratch", "parse_finetuning"]


def finetune_config(init: str) -> TrainConfig:
    """The recipe to start from for weights ``init``: a run, an encoder folder, a checkpoint file, or a timm model's name.

    A run brings its images, its network and its image size; published weights of timm bring their network, size and
    normalisation; a checkpoint file brings nothing: name its network with ``encoder.name``. Views are one an image,
    cropped, and flipped where pretraining flipped, without colours changed.

    Raises:
        ConfigError: neither a file, nor a folder, nor the name of a timm model with published weights.
        CheckpointError: a folder without an encoder, or with a damaged one.
    """
    point = starting_point(init)
    data = DataConfig(source="folder") if point.data is None else point.data
    return _recipe(point.name, data, point.encoder, point.augment or AugmentConfig(size=32))


def parse_finetuning(arguments: Sequence[str], command: str, about: str) -> TrainConfig:
    """``[FILE.yaml] --encoder.init RUN_OR_FILE [--overrides]`` as a TrainConfig.

    Raises:
        ConfigError: no ``--encoder.init``, an unknown flag, or a wrong value.
        CheckpointError: a folder without an encoder.
    """
    words = list(arguments)
    if asked := [word for word in words if word in HELP]:
        parse_flags(TrainConfig, asked[-1:], command, about, default=TrainConfig())
    if words and words[0].endswith((".yaml", ".yml")):
        return _checked(
            parse_flags(
                TrainConfig, words[1:], command, about, default=load_config(given_path(words[0], "the config"))
            ),
            command,
        )
    given = read_words(words)
    init = given.value("--encoder.init")
    if init is None:
        raise _no_start(command)
    default = finetune_config(init)
    default = replace(default, data=own_or_other_data(default.data, words))
    if default.encoder.init is None:  # published weights: timm fetches them by the model's name
        given = given.without("--encoder.init")
    config = _checked(parse_flags(TrainConfig, given.typed(), command, about, default=default), command)
    return _for_its_images(with_its_stem(config), given)


def _for_its_images(config: TrainConfig, given: Words) -> TrainConfig:
    """``config`` with what depends on the training images, where the flags that are ``given`` do not say it."""
    if "--data.value-range" not in given.flags and _found_in_deep_files(config.encoder.init):
        auto = replace(config, data=replace(config.data, value_range="auto"))
        if load_source(replace(auto.data, validation=0.0), "train").reader.value_range is None:
            config = auto  # these are files of 8 bits, which such a range leaves alone
    own = replace(config.data, validation=0.0)
    from simclr.run.division import kept_parts  # which brings the trainer: help and most mistakes do not wait for it

    images = load_source(own, "train", kept_parts(config))
    try:
        if not has_validation(own):  # else the share is not drawn
            images = keep_validation(images, config.data, "train")
    except DataError:
        if "--data.validation" in given.flags:
            raise
        # One image a class, perhaps, and none of them to spare for validation.
        config = replace(config, data=own)
    images = with_targets(images, config.objective)
    if images.labels is not None and len(images.classes) < 2:
        raise DataError(
            f"{images.name} has the class {images.classes[0]} alone; to tell classes apart takes at least two"
        )
    schedule, train = config.schedule, config.train
    if "--train.batch-size" not in given.flags:
        train = replace(train, batch_size=_small_enough(len(images)))
    epochs = min(max(30, math.ceil(1000 / max(1, len(images) // train.batch_size))), 300)  # a thousand steps
    if "--train.epochs" not in given.flags:
        train = replace(train, epochs=epochs)
    # Of a run that was shortened they take their share: else it would end at its highest rate.
    if "--schedule.head-epochs" not in given.flags:
        head_epochs = min(schedule.head_epochs, train.epochs // 5) if _head_learns(config, images) else 0
        schedule = replace(schedule, head_epochs=head_epochs)
    if "--schedule.warmup-epochs" not in given.flags:
        schedule = replace(schedule, warmup_epochs=min(schedule.warmup_epochs, train.epochs / 10))
    if "--train.knn-every" not in given.flags:
        train = replace(train, knn_every=max(1, train.epochs // 6))
    return replace(config, schedule=schedule, train=train)


def _found_in_deep_files(init: str | None) -> bool:
    """Whether ``init`` is an encoder whose value range is that of deep files alone."""
    if init is None or not is_encoder_folder(init):
        return False
    return read_description(find_encoder(Path(init))).reader.deep_only


def _checked(config: TrainConfig, command: str) -> TrainConfig:
    if config.encoder.init is None and not config.encoder.pretrained:
        raise _no_start(command)
    if not config.objective.needs_labels:
        raise ConfigError(f"{command} learns from labels; the objective {config.objective.name} has no use for them")
    return config


def _no_start(command: str) -> ConfigError:
    return ConfigError(
        f"{command} needs weights to start from: --encoder.init with a run, an encoder folder, a checkpoint file or the "
        f"name of a timm model"
    )


def _head_learns(config: TrainConfig, images: ImageSet) -> bool:
    """Whether anything but the backbone has weights: a loss on embeddings alone has no head to train first."""
    if config.head.layers:
        return True
    classes, targets = len(images.classes), images.values if images.labels is None else images.labels
    fitted = fit_objective(config.objective, targets, classes)
    objective = build_objective(fitted, classes=classes, dim=2, samples=len(images), seed=0)
    return any(p.requires_grad for p in objective.parameters())


def _small_enough(images: int) -> int:
    """A batch of an eighth of the labelled ``images``; not below 16, but for as many of them as make a power of two."""
    eighth = next((size for size in (128, 64, 32) if size <= images / 8), None)
    return eighth or next((size for size in (16, 8, 4) if size <= images), 2)


def from_scratch(config: TrainConfig) -> TrainConfig:
    """The same network on the same images from random weights: all of it learns, at one rate, from the first step."""
    return replace(
        config,
        name="scratch",
        out=config.run_dir,
        encoder=without_weights(config.encoder),
        optim=replace(config.optim, layer_decay=1.0),
        schedule=replace(config.schedule, head_epochs=0),
    )


def _recipe(name: str, data: DataConfig, encoder: EncoderConfig, augment: AugmentConfig) -> TrainConfig:
    weak = replace(
        augment,
        views=1,
        crop_scale=(0.5, 1.0),
        jitter=0.0,
        gray=0.0,
        blur=0.0,
        solarize=0.0,
        extra=(),
    )
    return TrainConfig(
        name=f"{name.replace('.', '-')}-finetuned",
        data=replace(data, limit=None, validation=0.1, held_out_classes=0.0),
        augment=weak,
        encoder=encoder,
        head=HeadConfig(layers=0),
        objective=CrossEntropyConfig(lr_multiplier=10.0),  # the head starts from nothing
        optim=OptimConfig(name="adamw", learning_rate=1e-3, scaling="none", weight_decay=0.05, layer_decay=0.8),
        schedule=ScheduleConfig(warmup_epochs=1, head_epochs=2),
        train=LoopConfig(epochs=30, batch_size=128, log_every=50, checkpoint_every=500, knn_every=5),
    )
