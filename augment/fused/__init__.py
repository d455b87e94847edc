"""The fused augmentation: the whole of SimCLR's chain on the device, by groups of rows or without a branch."""

from augment.fused.module import FusedAugmentation

__all__ = ["FusedAugmentation"]
