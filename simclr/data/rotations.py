"""Rotations as classes: a turned character is another character (Santoro et al. 2016, section 4.1, arXiv 1605.06065)."""

from dataclasses import replace

import torch

from simclr.data.image_set import ImageSet
from simclr.errors import ConfigError

__all__ = ["with_rotations"]


def with_rotations(images: ImageSet) -> ImageSet:
    """``images``, decoded, and behind them the same turned by 90, 180 and 270 degrees, as classes behind theirs.

    Raises:
        ConfigError: the images are not in memory.

    >>> pixels = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).view(1, 1, 2, 2)
    >>> four = with_rotations(ImageSet.from_pixels(pixels, labels=torch.tensor([0]), classes=("b",), name="b"))
    >>> four.labels.tolist(), four.classes[1], four.pixels[1].tolist()
    ([0, 1, 2, 3], 'b, turned 90 degrees', [[[1, 3], [0, 2]]])
    """
    if images.pixels is None:
        raise ConfigError(
            "data.rotations turns images that are in memory, and these are decoded batch by batch; add --data.device-resident "
            "yes, or a smaller --data.size"
        )
    turned = images
    for quarter in (1, 2, 3):
        labels = None if images.labels is None else _behind(images.labels, quarter * len(images.classes))
        turned = turned.joined(replace(images, pixels=images.pixels.rot90(quarter, (-2, -1)), labels=labels))
    further = (f"{name}, turned {90 * quarter} degrees" for quarter in (1, 2, 3) for name in images.classes)
    return replace(turned, classes=(*images.classes, *further))


def _behind(labels: torch.Tensor, first: int) -> torch.Tensor:
    return torch.where(labels >= 0, labels + first, labels)
