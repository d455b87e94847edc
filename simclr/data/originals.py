"""Decoded images that keep their shape, on the device: what random crops are cut from where a set is resident."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from augment.views import cut_out
from simclr.data.cut import Cut

__all__ = ["LONGEST", "Originals"]

LONGEST = 2
"""The longer side is kept up to so many times the shorter; a panorama loses its ends."""


@dataclass(frozen=True, eq=False)
class Originals:
    """N images whose shorter side is S. Wide ones lie on their side, so that all fit into one tensor with little left over."""

    pixels: Tensor
    """uint8 (N, C, L, S): the longer side goes down."""

    sizes: Tensor
    """int64 (N, 2) on the CPU: height and width, as they are to be seen."""

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> "Originals":
        """Images uint8 (C, H, W) of any shapes that have their shorter side in common."""
        sizes = torch.tensor([image.shape[1:] for image in images])
        channels, shorter, longer = images[0].shape[0], int(sizes.min()), int(sizes.max())
        pixels = torch.zeros(len(images), channels, longer, shorter, dtype=torch.uint8)
        for row, image in zip(pixels, images, strict=True):
            upright = image if image.shape[1] >= image.shape[2] else image.transpose(1, 2)
            row[:, : upright.shape[1]] = upright
        return cls(pixels, sizes)

    def subset(self, index: Tensor) -> "Originals":
        """The images at ``index``, int64 (M,)."""
        return Originals(self.pixels[index.to(self.pixels.device)], self.sizes[index.cpu()])

    def to(self, device: torch.device) -> "Originals":
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device))

    def cut(self, index: Tensor, boxes: Tensor, size: int, antialias: bool = True) -> Cut:
        """The crops of the images at ``index`` (B,) at ``boxes`` (V, B, 4), as they are to be seen, ``size`` a side."""
        sizes = self.sizes[index]
        lying = sizes[:, 1] > sizes[:, 0]
        own = torch.where(lying[None, :, None], boxes[..., [1, 0, 3, 2]], boxes)
        device = self.pixels.device
        rows = self.pixels[index.to(device, non_blocking=True)]
        views = cut_out(rows, own.to(device, non_blocking=True), size, antialias)
        across = lying.to(device, non_blocking=True)[None, :, None, None, None]
        return Cut(torch.where(across, views.transpose(-1, -2), views), boxes, sizes)
