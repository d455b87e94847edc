"""MoCo v3 in full, as presets: the recipe of its authors for a ResNet-50, and solo-learn's for CIFAR-10."""

from dataclasses import replace

from augment import AugmentConfig
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.objectives import MoCoConfig

__all__ = ["cifar10_moco", "moco_v3"]


def moco_v3() -> TrainConfig:
    """MoCo v3 on your own pictures: a ResNet-50 at 224 px as its authors train it for 100 epochs. Give --data.path DIR.

    Source: Chen, Xie, He 2021 (arXiv 2104.02057) and their code's command for ResNet-50, of batch 4096 (68.9 linear on ImageNet,
    reported there), whose learning rate the batch of one GPU scales; docs/losses.md, "MoCo v3, line by line", says what differs.
    Expected score and cost: not measured by this project.
    Command: accelerate launch scripts/pretrain.py moco-v3 --data.path DIR --name NAME
    """
    return TrainConfig(
        name="moco-v3",
        data=DataConfig(source="folder", size=256, workers=8),
        augment=AugmentConfig(
            size=224,
            crop_scale=(0.2, 1.0),
            saturation=0.2,
            blur=(1.0, 0.1),
            solarize=(0.0, 0.2),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        encoder=EncoderConfig(name="resnet50"),
        head=HeadConfig(layers=2, hidden_dim=4096, out_dim=256, predictor_dim=4096, predictor_norm=False),
        objective=MoCoConfig(temperature=1.0, momentum=0.99, momentum_schedule="cosine", negatives="other"),
        optim=OptimConfig(name="lars", learning_rate=0.45, scaling="linear", weight_decay=1e-6),
        schedule=ScheduleConfig(warmup_epochs=10),
        train=LoopConfig(epochs=100, batch_size=256, log_every=20, checkpoint_every=500, knn_every=5),
    )


def cifar10_moco() -> TrainConfig:
    """CIFAR-10 as in the best public figure of a ResNet-18 without labels: MoCo v3 as solo-learn trains it, 1000 epochs.

    Source: solo-learn, scripts/pretrain/cifar/mocov3.yaml and augmentations/asymmetric.yaml, and its README (93.10 linear, an
    online probe, reported there): LARS whose rate of 0.3 is the highest a tensor may have, batch 256, momentum 0.99 to 1,
    solarize in the second view alone. docs/losses.md, "MoCo v3, line by line", says what differs.
    Expected score and cost: not measured by this project.
    Command: accelerate launch scripts/pretrain.py cifar10-moco
    """
    full = moco_v3()
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of each channel over the training images
    return replace(
        full,
        name="cifar10-moco",
        data=DataConfig(source="cifar10", size=32),
        augment=AugmentConfig(size=32, saturation=0.2, solarize=(0.0, 0.2), mean=mean, std=std),
        encoder=EncoderConfig(name="resnet18", stem="small"),
        objective=MoCoConfig(temperature=0.2, momentum=0.99, momentum_schedule="cosine", negatives="other"),
        optim=OptimConfig(name="lars", learning_rate=0.3, weight_decay=1e-6, trust=0.02, trust_clip=True),
        train=LoopConfig(epochs=1000, batch_size=256, log_every=50, checkpoint_every=1950, knn_every=20),
    )
