"""Tried configs by name. Each docstring gives the source, the expected score, the cost, and the command."""

import difflib
from collections.abc import Callable
from dataclasses import replace

from augment import AugmentConfig
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.config.moco_v3 import moco_v3
from simclr.errors import ConfigError
from simclr.objectives import NTXentConfig

__all__ = ["PRESETS", "describe_presets", "preset", "register_preset"]


def preset(name: str) -> TrainConfig:
    """The config that ``name`` stands for.

    Raises:
        ConfigError: there is none of that name; the message suggests the closest and lists all.

    >>> preset("cifar10").encoder.name
    'resnet18'
    """
    if name not in PRESETS:
        hint = "".join(f", did you mean {close}" for close in difflib.get_close_matches(name, PRESETS, n=1))
        raise ConfigError(
            f"unknown preset {name!r}{hint}? There are {', '.join(PRESETS)}; or give a file ending in .yaml, or with --plugin "
            "MODULE one of your own"
        )
    if isinstance(made := PRESETS[name](), TrainConfig):
        return made
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


def cifar10() -> TrainConfig:
    """CIFAR-10 as in the best public SimCLR of a ResNet-18: SGD, batch 512, 1000 epochs, larger crops, a plain head.

    Source: dkobak/simclr-cifar10, its README of July 2025 (91.9 +- 0.1 linear, 91.4 kNN, reported there). A head of two layers,
    512-1024-128, without BatchNorm; plain SGD with decay on every parameter and no warm-up; crops of 20 % of the area and
    more, gray for one in ten, no blur. Here bf16 where the device multiplies it, the rate falls by step and not by epoch, the two
    views go through one pass, so that BatchNorm sees 1024 images and not twice 512, and the last BatchNorm of a
    block begins at zero, as timm has it.
    Expected score and cost: docs/benchmarks.md, "CIFAR-10 at full size on a GPU".
    Command: accelerate launch scripts/pretrain.py cifar10
    """
    config = cifar10_lars()
    return replace(
        config,
        name="cifar10",
        augment=replace(config.augment, crop_scale=(0.2, 1.0), gray=0.1),
        head=HeadConfig(layers=2, hidden_dim=1024, out_dim=128, batch_norm=False),
        optim=OptimConfig(name="sgd", learning_rate=0.03, nesterov=False, weight_decay=5e-4, decay_all=True),
        schedule=ScheduleConfig(warmup_epochs=0),
    )


def cifar10_lars() -> TrainConfig:
    """CIFAR-10 as in the paper: ResNet-18 with the small-image stem, LARS, batch 512, temperature 0.5.

    Source: Chen et al. 2020, appendix B.9, and google-research/simclr's README (ResNet-18, 1000 epochs, batch 512:
    about 91 linear, reported there).
    Expected score and cost: not measured by this project yet; docs/benchmarks.md says what is.
    Command: accelerate launch scripts/pretrain.py cifar10-lars
    """
    return TrainConfig(
        name="cifar10-lars",
        data=DataConfig(source="cifar10", size=32),
        augment=AugmentConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="small"),
        head=HeadConfig(layers=2, out_dim=128),
        objective=NTXentConfig(temperature=0.5),
        optim=OptimConfig(name="lars", learning_rate=1.0, scaling="linear", weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=10),
        train=LoopConfig(epochs=1000, batch_size=512, log_every=50, checkpoint_every=970, knn_every=20),
    )


def cifar10_fast() -> TrainConfig:
    """CIFAR-10 on one GPU in minutes: `cifar10` with Muon for its SGD, 200 epochs, compiled.

    Source: `cifar10`; Muon's decay such that a step turns the weights as far as SGD's does there (Kosson et al. 2023), twice
    Muon's usual rate for the root of the batch, one epoch of warm-up (docs/decisions.md, 2026-11-26). bf16 where the device
    multiplies it, channels last, torch.compile of encoder and augmentation, a step as a CUDA graph: speed alone.
    Expected score and cost: docs/benchmarks.md, "CIFAR-10 at full size on a GPU".
    Command: python benchmarks/cifar10/run.py --data DIR, or accelerate launch scripts/pretrain.py cifar10-fast
    """
    config = cifar10()
    return replace(
        config,
        name="cifar10-fast",
        optim=OptimConfig(name="muon", learning_rate=0.05, momentum=0.95, scaling="sqrt", weight_decay=1e-2),
        schedule=ScheduleConfig(warmup_epochs=1),
        train=replace(config.train, epochs=200, compile="default", compile_augment=True, checkpoint_every=1940),
    )


def cifar10_resnet50() -> TrainConfig:
    """CIFAR-10 with the paper's ResNet-50 in the small-image form, batch 1024, 1000 epochs.

    Source: Chen et al. 2020, appendix B.9: 94.0 linear at this batch, length and temperature, reported there; the learning
    rate and weight decay are those of google-research/simclr's README for CIFAR-10. The best reproduction known to this
    project reports 93.4, 13 hours on two V100.
    Expected score and cost: not measured by this project.
    Command: accelerate launch scripts/pretrain.py cifar10-resnet50
    """
    config = cifar10_lars()
    return replace(
        config,
        name="cifar10-resnet50",
        encoder=replace(config.encoder, name="resnet50"),
        train=replace(config.train, batch_size=1024, compile="default", checkpoint_every=480),
    )


def cifar10_cpu() -> TrainConfig:
    """CIFAR-10 on a laptop: a ResNet of one block a stage, about 1M parameters, at the full 32x32 resolution.

    Source: the recipe of `cifar10-lars` with Muon, smaller views first, larger crops and a lower temperature, each chosen on
    images held out of the training set (docs/decisions.md, "ideas for CIFAR-10 in little time").
    Expected score and cost: see docs/benchmarks.md, "CIFAR-10 on two CPU cores".
    Command: accelerate launch scripts/pretrain.py cifar10-cpu
    From an image folder (train/CLASS/*, test/CLASS/*): add --data.source folder --data.path DIR
    """
    config = cifar10_lars()
    return replace(
        config,
        name="cifar10-cpu",
        augment=replace(config.augment, crop_scale=(0.2, 1.0)),
        encoder=EncoderConfig(name="resnet18", stem="small", layers=(1, 1, 1, 1), channels=(16, 32, 64, 256)),
        objective=NTXentConfig(temperature=0.1),
        optim=OptimConfig(name="muon", learning_rate=0.05, momentum=0.95, scaling="sqrt", weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=1, view_sizes=((0.7, 16), (0.9, 24))),
        train=LoopConfig(epochs=30, batch_size=512, log_every=25, checkpoint_every=194, knn_every=3),
    )


def cifar100() -> TrainConfig:
    """CIFAR-100 with the recipe of `cifar10-lars`.

    Source: Chen et al. 2020, appendix B.9.
    Expected score and cost: not measured by this project.
    Command: accelerate launch scripts/pretrain.py cifar100
    """
    config = cifar10_lars()
    return replace(config, name="cifar100", data=replace(config.data, source="cifar100"))


def stl10() -> TrainConfig:
    """STL-10's 105,000 labelled and unlabelled images at 96 px.

    Source: Chen et al. 2020 with the ImageNet augmentation at 96 px (blur on, full colour strength).
    Expected score and cost: not measured by this project.
    Command: accelerate launch scripts/pretrain.py stl10
    """
    config = cifar10_lars()
    return replace(
        config,
        name="stl10",
        data=DataConfig(source="stl10", size=96),
        augment=AugmentConfig(size=96, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5),
        encoder=EncoderConfig(name="resnet18"),
        train=replace(config.train, epochs=200, batch_size=256, checkpoint_every=500, knn_every=10),
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
    """Your own pictures on a laptop or one small GPU: a ResNet-18 at 96 px. Give --data.path DIR.

    Source: `folder`, with AdamW and temperature 0.2, as `digits`, whose batches are small too.
    Expected score and cost: depend on the pictures.
    Command: accelerate launch scripts/pretrain.py folder-small --data.path DIR --name NAME
    """
    config = folder()
    return replace(
        config,
        name="folder-small",
        data=replace(config.data, size=112, workers=2),
        augment=replace(config.augment, size=96),
        encoder=EncoderConfig(name="resnet18"),
        objective=NTXentConfig(temperature=0.2),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, scaling="sqrt", weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=2),
        train=replace(config.train, batch_size=64, log_every=10),
    )


def adapt() -> TrainConfig:
    """Weights that are there already, ours or anybody's, adapted to your own pictures. Give --data.path DIR and the weights.

    Source: docs/finetuning.md (Clark et al. 2020; Kumar et al. 2022). Expected score and cost: docs/benchmarks.md, "Adapting".
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
    "cifar10-fast": cifar10_fast,
    "cifar10-resnet50": cifar10_resnet50,
    "cifar10-cpu": cifar10_cpu,
    "cifar100": cifar100,
    "stl10": stl10,
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
