"""Pixels to views: SimCLR's augmentation, sampling apart from applying, and the deterministic evaluation transform."""

from typing import TYPE_CHECKING

from augment.lazy import lazy_face

if TYPE_CHECKING:
    from augment.config import AugmentConfig
    from augment.evaluation import preprocess
    from augment.fused.module import FusedAugmentation
    from augment.mix import Mix, MixConfig, soft_targets
    from augment.own import After, Before
    from augment.parameters import ViewParameters
    from augment.views import ViewGenerator

__all__ = [
    "After",
    "AugmentConfig",
    "Before",
    "FusedAugmentation",
    "Mix",
    "MixConfig",
    "ViewGenerator",
    "ViewParameters",
    "preprocess",
    "soft_targets",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "augment.config": ("AugmentConfig",),
            "augment.evaluation": ("preprocess",),
            "augment.fused.module": ("FusedAugmentation",),
            "augment.mix": (
                "Mix",
                "MixConfig",
                "soft_targets",
            ),
            "augment.own": (
                "After",
                "Before",
            ),
            "augment.parameters": ("ViewParameters",),
            "augment.views": ("ViewGenerator",),
        },
    )
