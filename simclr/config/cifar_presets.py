"""The presets of CIFAR-10, CIFAR-100 and STL-10, see `simclr.config.presets`."""

from dataclasses import replace

from augment import AugmentConfig
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.objectives import NTXentConfig

__all__ = [
    "cifar10",
    "cifar10_cpu",
    "cifar10_cpu_hour",
    "cifar10_fast",
    "cifar10_lars",
    "cifar10_resnet50",
    "cifar100",
    "stl10",
]


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
        train=replace(
            config.train, epochs=200, compile="default", compile_augment=True, checkpoint_every=1940
        ),  # a checkpoint every 20 epochs
    )


def cifar10_resnet50() -> TrainConfig:
    """CIFAR-10 with the paper's ResNet-50 in the small-image form, batch 1024, 1000 epochs.

    Source: Chen et al. 2020, appendix B.9: 94.0 linear at this batch, length and temperature, reported there; the learning
    rate and weight decay are those of google-research/simclr's README for CIFAR-10. The best reproduction known to this
    project reports 93.7 in 10.3 hours of one A100 (dkobak/simclr-cifar10, July 2025).
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
    """CIFAR-10 on a laptop in a quarter of an hour: a ResNet of three blocks behind a stem of patches, 1.2M parameters.

    Source: the recipe of `cifar10-lars` with Muon, smaller views first, larger crops and a lower temperature, each chosen on
    images held out of the training set (docs/decisions.md, "ideas for CIFAR-10 in little time" and "the ladder on two cores").
    Expected score and cost: see docs/benchmarks.md, "CIFAR-10 on two CPU cores".
    Command: accelerate launch scripts/pretrain.py cifar10-cpu
    From an image folder (train/CLASS/*, test/CLASS/*): add --data.source folder --data.path DIR
    """
    config = cifar10_lars()
    return replace(
        config,
        name="cifar10-cpu",
        augment=replace(config.augment, crop_scale=(0.2, 1.0)),
        encoder=EncoderConfig(name="resnetaa34d", stem="patch", layers=(1, 1, 1, 0), channels=(64, 128, 256, 256)),
        objective=NTXentConfig(temperature=0.1),
        optim=OptimConfig(name="muon", learning_rate=0.05, momentum=0.95, scaling="sqrt", weight_decay=1e-2),
        schedule=ScheduleConfig(warmup_epochs=1, view_sizes=((0.8, 16), (1, 24))),
        train=LoopConfig(epochs=28, batch_size=512, log_every=25, checkpoint_every=194, knn_every=10),
    )


def cifar10_cpu_hour() -> TrainConfig:
    """`cifar10-cpu` for an hour: half as wide again, for twice the epochs.

    Source: `cifar10-cpu`. Expected score and cost: see docs/benchmarks.md, "CIFAR-10 on two CPU cores".
    Command: accelerate launch scripts/pretrain.py cifar10-cpu-hour
    """
    config = cifar10_cpu()
    return replace(
        config,
        name="cifar10-cpu-hour",
        encoder=replace(config.encoder, channels=(96, 192, 384, 384)),
        train=replace(config.train, epochs=56),
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
