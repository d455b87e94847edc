"""Pixels to views: SimCLR's augmentation, sampling apart from applying, and the deterministic evaluation transform."""

from augment.config import AugmentConfig
from augment.evaluation import preprocess
from augment.fused.module import FusedAugmentation
from augment.mix import Mix, MixConfig, soft_targets
from augment.parameters import ViewParameters
from augment.views import ViewGenerator

__all__ = [
    "AugmentConfig",
    "FusedAugmentation",
    "Mix",
    "MixConfig",
    "ViewGenerator",
    "ViewParameters",
    "preprocess",
    "soft_targets",
]
