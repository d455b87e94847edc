"""Fine-tuning: where a run starts from decides its defaults; ``scripts/finetune.py`` trains it by the same loop.

accelerate launch scripts/finetune.py --encoder.init runs/birds --data.label-fraction 0.1
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import timm

from augment import AugmentConfig
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.config_io import from_dict, load_config, parse_flags
from simclr.data import load_source, with_targets
from simclr.errors import ConfigError
from simclr.export import find_encoder
from simclr.losses import CrossEntropyConfig

__all__ = ["finetune_config", "from_scratch", "parse_finetuning"]


def finetune_config(init: str) -> TrainConfig:
    """The recipe to start from for weights ``init``: a run, an encoder folder, a checkpoint file, or a timm model's name.

    A run brings its images, its network and its image size; published weights of timm bring their network, size and
    normalisation; a checkpoint file brings nothing: name its network with ``encoder.name``. Views are one an image,
    cropped, and flipped where pretraining flipped, without colours changed.
    """
    path = Path(init)
    if not path.exists() and timm.is_model(init.split(".")[0]):
        return _recipe(init, *_published(init))
    if path.is_dir() or path.name in ("encoder.json", "encoder.safetensors"):
        return _recipe(find_encoder(path).parent.resolve().name, *_own(find_encoder(path), init))
    return _recipe(path.stem, DataConfig(source="folder"), EncoderConfig(init=init), AugmentConfig(size=32))


def parse_finetuning(arguments: Sequence[str], command: str, about: str) -> TrainConfig:
    """``[FILE.yaml] --encoder.init RUN_OR_FILE [--overrides]`` as a TrainConfig.

    Raises:
        ConfigError: no ``--encoder.init``, an unknown flag, or a wrong value.
        CheckpointError: a folder without an encoder.
    """
    words = list(arguments)
    if "--help" in words or "-h" in words:
        parse_flags(TrainConfig, ["--help"], command, about, default=TrainConfig())
    if words and words[0].endswith((".yaml", ".yml")):
        return parse_flags(TrainConfig, words[1:], command, about, default=load_config(Path(words[0])))
    init = _value_of("--encoder.init", words)
    if init is None:
        raise ConfigError(
            f"{command} needs weights to start from: --encoder.init with a run, an encoder folder, a checkpoint file or the "
            f"name of a timm model"
        )
    default = finetune_config(init)
    if default.encoder.init is None:  # published weights: timm fetches them by the model's name
        words = _without("--encoder.init", words)
    config = parse_flags(TrainConfig, words, command, about, default=default)
    given = [flag for flag in ("--train.epochs", "--train.batch-size") if _value_of(flag, words) is not None]
    if given:
        return config
    return parse_flags(TrainConfig, words, command, about, default=_long_enough(default, config))


def _long_enough(default: TrainConfig, config: TrainConfig) -> TrainConfig:
    """``default`` with batches of an eighth of the labelled images at most, and epochs for a thousand steps at least."""
    images = len(with_targets(load_source(config.data, "train"), config.objective))
    batch = next((size for size in (128, 64, 32) if size <= images / 8), 16)
    epochs = min(max(30, math.ceil(1000 / max(1, images // batch))), 300)
    return replace(default, train=replace(default.train, batch_size=batch, epochs=epochs, knn_every=epochs // 6))


def from_scratch(config: TrainConfig) -> TrainConfig:
    """The same network on the same images from random weights: all of it learns, at one rate, from the first step."""
    return replace(
        config,
        name="scratch",
        out=config.run_dir,
        encoder=replace(config.encoder, init=None, init_partial=False, pretrained=False, frozen_layers=0),
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


def _own(folder: Path, init: str) -> tuple[DataConfig, EncoderConfig, AugmentConfig]:
    described = json.loads((folder / "encoder.json").read_text())
    where = f"{folder / 'encoder.json'}: encoder"
    encoder = replace(from_dict(EncoderConfig, described["encoder"], where=where), init=init)
    written = folder.parent / "config.yaml"
    if written.exists():
        run = load_config(written)
        return run.data, encoder, run.augment
    mean, std = (described[key] and tuple(described[key]) for key in ("mean", "std"))
    return DataConfig(size=described["size"]), encoder, AugmentConfig(size=described["size"], mean=mean, std=std)


def _published(name: str) -> tuple[DataConfig, EncoderConfig, AugmentConfig]:
    weights = timm.get_pretrained_cfg(name)
    if weights is None or not weights.has_weights:
        raise ConfigError(f"timm has no published weights for {name}; timm.list_pretrained() lists those it has")
    size = weights.input_size[-1]
    data = DataConfig(source="folder", size=round(size / (weights.crop_pct or 1.0)))
    augment = AugmentConfig(size=size, mean=tuple(weights.mean), std=tuple(weights.std))
    return data, EncoderConfig(name=name, pretrained=True), augment


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for i, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
        if word == flag and i + 1 < len(words):
            return words[i + 1]
    return None


def _without(flag: str, words: Sequence[str]) -> list[str]:
    kept = [word for word in words if not word.startswith(f"{flag}=")]
    if flag in kept:
        at = kept.index(flag)
        del kept[at : at + 2]
    return kept
