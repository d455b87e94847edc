"""Tried configs by name. Each docstring gives the source, the expected score, the cost, and the command."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from augment import AugmentConfig
from simclr.config import (
    DataConfig,
    EncoderConfig,
    HeadConfig,
    LoopConfig,
    OptimConfig,
    SamplerConfig,
    ScheduleConfig,
    TrainConfig,
)
from simclr.config.cifar_presets import (
    cifar10,
    cifar10_cpu,
    cifar10_cpu_hour,
    cifar10_fast,
    cifar10_lars,
    cifar10_resnet50,
    cifar100,
    stl10,
)
from simclr.config.moco_v3 import cifar10_moco, moco_v3
from simclr.errors import ConfigError
from simclr.objectives import NTXentConfig, TripletConfig

__all__ = ["PRESETS", "describe_presets", "preset", "register_preset"]


def preset(preset_name: str, /, **changes: Any) -> TrainConfig:
    """The config of that name, with ``changes`` as for ``TrainConfig.but``.

    Raises:
        ConfigError: there is none of that name, and the message suggests the closest and lists all; or a change is wrong.

    >>> preset("cifar10").encoder.name, preset("cifar10", name="short", train={"epochs": 20}).train.epochs
    ('resnet18', 20)
    """
    name = preset_name
    if name not in PRESETS:
        hint = "".join(f", did you mean {close}" for close in difflib.get_close_matches(name, PRESETS, n=1))
        raise ConfigError(
            f"unknown preset {name!r}{hint}? There are {', '.join(PRESETS)}; or give a file ending in .yaml, or with --plugin "
            "MODULE one of your own"
        )
    if isinstance(made := PRESETS[name](), TrainConfig):
        return made.but(**changes) if changes else made
    raise ConfigError(f"the preset {name} gives {type(made).__name__}; expected a TrainConfig")


def digits() -> TrainConfig:
    """scikit-learn's 1,797 digits, embedded: the first thing to run. No network, no GPU.

    Source: SimCLR (Chen et al. 2020) scaled down; affine instead of flips, no colour operations on gray images.
    Expected score and cost: see docs/benchmarks.md, "digits".
    Command: accelerate launch scripts/pretrain.py
    """
    return TrainConfig(
        name="digits",
        data=DataConfig(source="digits", size=16),
        augment=AugmentConfig(
            size=16,
            crop_scale=(0.7, 1.0),
            horizontal_flip=0.0,
            affine=0.8,
            degrees=20.0,
            translate=(0.1, 0.1),
            scale=(0.8, 1.2),
            shear=10.0,
            brightness=0.4,
            contrast=0.4,
            saturation=0.0,
            hue=0.0,
            gray=0.0,
        ),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(16, 32, 64, 128)),
        head=HeadConfig(layers=2, out_dim=64),
        objective=NTXentConfig(temperature=0.2),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, scaling="none", weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=2),
        train=LoopConfig(epochs=60, batch_size=128, log_every=11, checkpoint_every=66, knn_every=6),
    )


def omniglot() -> TrainConfig:
    """Omniglot's 964 characters of 30 background alphabets at 28 px, turned ones as classes: for one look at a new character.

    Source: 28 px and rotations as classes as in Santoro et al. 2016 and Vinyals et al. 2016, affine distortions as in Koch et al.
    2015, 64 classes of 4 images a batch. Without a head, since what is compared is what is kept; small views first, as
    `cifar10-cpu` has them. Both were chosen on background classes that were held out (docs/decisions.md, 2026-11-26).
    Expected score and cost: docs/benchmarks.md, "Omniglot".
    Command: accelerate launch scripts/pretrain.py omniglot
    Without labels: add objective:nt-xent --objective.temperature 0.2 --sampler.name shuffle --augment.views 2 --head.layers 2
    """
    return TrainConfig(
        name="omniglot",
        data=DataConfig(source="omniglot", size=28, channels=1, test_fraction=0.05, rotations=True),
        augment=AugmentConfig(
            size=28,
            views=1,
            crop_scale=(0.8, 1.0),
            crop_ratio=(0.9, 1.1),
            horizontal_flip=0.0,
            affine=0.8,
            outside="border",
            degrees=15.0,
            scale=(0.8, 1.2),
            shear=10.0,
            jitter=0.0,
            gray=0.0,
            mean=(1.0,),
            std=(0.25,),
        ),
        encoder=EncoderConfig(name="resnet18", stem="small", layers=(1, 1, 1, 1), channels=(16, 32, 64, 128)),
        head=HeadConfig(layers=0),
        objective=TripletConfig(),
        sampler=SamplerConfig(name="classes", classes=64, per_class=4),
        optim=OptimConfig(name="muon", learning_rate=0.05, scaling="none", weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0.1, view_sizes=((0.6, 16), (0.85, 22))),
        train=LoopConfig(epochs=10, batch_size=256, log_every=50, checkpoint_every=286, knn_every=1),
    )


def omniglot_105() -> TrainConfig:
    """`omniglot` at the 105 px of its files, with a ResNet-18 as it is for photographs.

    Source: `omniglot`. Expected score and cost: not measured by this project.
    Command: accelerate launch scripts/pretrain.py omniglot-105
    """
    config = omniglot()
    return replace(
        config,
        name="omniglot-105",
        data=replace(config.data, size=105),
        augment=replace(config.augment, size=105),
        encoder=EncoderConfig(name="resnet18", stem="imagenet"),
        schedule=ScheduleConfig(warmup_epochs=0.1),
    )


def folder() -> TrainConfig:
    """Your own pictures: a ResNet-50 at 224 px with the paper's ImageNet augmentation. Give --data.path DIR.

    Source: Chen et al. 2020, section 2.2 and appendix A, with temperature 0.1 and LARS.
    Expected score and cost: depend on the pictures.
    Command: accelerate launch scripts/pretrain.py folder --data.path DIR --name NAME
    """
    return TrainConfig(
        name="folder",
        data=DataConfig(source="folder", size=256, workers=8),
        augment=AugmentConfig(
            size=224,
            brightness=0.8,
            contrast=0.8,
            saturation=0.8,
            hue=0.2,
            blur=0.5,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        encoder=EncoderConfig(name="resnet50"),
        head=HeadConfig(layers=2, out_dim=128),
        objective=NTXentConfig(temperature=0.1),
        optim=OptimConfig(name="lars", learning_rate=0.3, scaling="linear", weight_decay=1e-6),
        schedule=ScheduleConfig(warmup_epochs=10),
        train=LoopConfig(epochs=100, batch_size=256, log_every=20, checkpoint_every=500, knn_every=5),
    )


def folder_small() -> TrainConfig:
    """A few thousand pictures of your own on a laptop: a ResNet-18 of one block a stage at 64 px. Give --data.path DIR.

    Source: the recipe of `cifar10-cpu` (Muon, temperature 0.1, smaller views first), with the colour of `folder`, a fourth stage
    and crops from a quarter, chosen on photographs that no score has seen (docs/decisions.md, "3,000 photographs on two cores").
    Expected score and cost: docs/choosing.md, "Measured on 3,068 photographs".
    Command: accelerate launch scripts/pretrain.py folder-small --data.path DIR --name NAME
    """
    config = folder()
    return replace(
        config,
        name="folder-small",
        data=replace(config.data, size=80, workers=2),
        augment=replace(config.augment, size=64, crop_scale=(0.25, 1.0), blur=0.0, mean=None, std=None),
        encoder=EncoderConfig(name="resnet18d", stem="patch", layers=(1, 1, 1, 1), channels=(32, 64, 128, 256)),
        optim=OptimConfig(name="muon", learning_rate=0.05, momentum=0.95, scaling="sqrt", weight_decay=1e-2),
        schedule=ScheduleConfig(warmup_epochs=5, view_sizes=((0.73, 32), (0.93, 48))),
        train=replace(config.train, epochs=200, batch_size=128, log_every=10, checkpoint_every=230, knn_every=20),
    )


def adapt() -> TrainConfig:
    """Weights that are there already, ours or anybody's, adapted to your own pictures. Give --data.path DIR and the weights.

    Source: docs/from_weights.md (Clark et al. 2020; Kumar et al. 2022). Expected score and cost: docs/benchmarks.md, "Adapting".
    Command: accelerate launch scripts/pretrain.py adapt --data.path DIR --encoder.name vit_small_patch14_dinov2
    """
    return replace(
        folder(),
        name="adapt",
        encoder=EncoderConfig(name="resnet50", pretrained=True),
        objective=NTXentConfig(temperature=0.2),
        optim=OptimConfig(name="adamw", learning_rate=3e-4, scaling="sqrt", weight_decay=0.05, layer_decay=0.7),
        schedule=ScheduleConfig(decay="wsd", warmup_epochs=1, head_epochs=1),
        train=replace(folder().train, epochs=10, batch_size=128, ema=0.999, knn_every=1),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10-lars": cifar10_lars,
    "cifar10-moco": cifar10_moco,
    "cifar10-fast": cifar10_fast,
    "cifar10-resnet50": cifar10_resnet50,
    "cifar10-cpu": cifar10_cpu,
    "cifar10-cpu-hour": cifar10_cpu_hour,
    "cifar100": cifar100,
    "stl10": stl10,
    "omniglot": omniglot,
    "omniglot-105": omniglot_105,
    "folder": folder,
    "folder-small": folder_small,
    "adapt": adapt,
    "moco-v3": moco_v3,
}


def register_preset(build: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    """Add a preset of your own, as a decorator of the function that makes its config: ``my_birds`` becomes ``my-birds``.

    Raises:
        ConfigError: another preset has that name.
    """
    name = build.__name__.replace("_", "-")
    if PRESETS.get(name, build).__module__ != build.__module__:
        raise ConfigError(f"there is a preset called {name} already; give yours another name")
    PRESETS[name] = build
    return build


def describe_presets() -> str:
    """A line for each preset, for a command's help."""
    lines = (f"  {name}: {(build.__doc__ or 'a plugin has it').splitlines()[0]}" for name, build in PRESETS.items())
    return "Presets:\n" + "\n".join(lines)
