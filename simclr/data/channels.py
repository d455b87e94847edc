"""Images of other than three channels: sets of colours as gray, and what of many bands a picture shows."""

from dataclasses import replace

import torch
from torch import Tensor

from simclr.data.image_set import ImageSet
from simclr.errors import ConfigError

__all__ = ["note_on_bands", "shown_bands", "with_channels"]


def with_channels(images: ImageSet, channels: int) -> ImageSet:
    """A set of decoded colours as it is, or where one channel is wanted in gray: ITU-R BT.601's luma, rounded as Pillow does.

    Raises:
        ConfigError: any other number.
    """
    if channels == images.reader.channels:
        return images
    if channels != 1 or images.pixels is None:
        raise ConfigError(
            f"data.channels is {channels}, and the images of {images.name} have {images.reader.channels}; leave "
            "--data.channels out, or --data.channels 1 takes them as gray"
        )
    red, green, blue = images.pixels.int().unbind(1)
    gray = (19595 * red + 38470 * green + 7471 * blue + 2**15 >> 16).to(torch.uint8)[:, None]
    return replace(images, pixels=gray, reader=replace(images.reader, channels=1))


def shown_bands(images: Tensor) -> Tensor:
    """Images (..., C, H, W) as colours (..., 3, H, W): the first three bands, of one or two the first as gray.

    >>> import torch
    >>> shown_bands(torch.zeros(2, 7, 8, 8)).shape, shown_bands(torch.zeros(2, 8, 8)).shape
    (torch.Size([2, 3, 8, 8]), torch.Size([3, 8, 8]))
    """
    if images.shape[-3] >= 3:
        return images[..., :3, :, :]
    return images[..., :1, :, :].expand(*images.shape[:-3], 3, *images.shape[-2:])


def note_on_bands(channels: int) -> str:
    """What a picture's title adds, where it does not show the whole image.

    >>> note_on_bands(3), note_on_bands(4)
    ('', ' (bands 1 to 3 of 4 as red, green and blue)')
    """
    if channels in (1, 3):
        return ""
    return " (band 1 of 2 as gray)" if channels == 2 else f" (bands 1 to 3 of {channels} as red, green and blue)"
