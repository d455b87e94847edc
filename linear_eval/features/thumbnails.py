"""Small pictures of a set's images, as the bytes of JPEG files."""

import io
from collections.abc import Callable

from torch.nn.functional import interpolate
from torchvision.transforms.functional import to_pil_image

from simclr.data import ImageSet
from simclr.data.channels import shown_bands

__all__ = ["thumbnails_of"]


def thumbnails_of(images: ImageSet, side: int) -> Callable[[int], bytes]:
    """A function: number of an image -> the square that its features are of, at most ``side`` pixels wide, as a JPEG.

    Each is decoded when it is asked for, and none is kept. Of more than three bands the first three are shown, of two the
    first.
    """

    def thumbnail(index: int) -> bytes:
        pixels = shown_bands(images[index][0].cpu())  # (3, S, S) uint8
        if pixels.shape[-1] > side:
            smaller = interpolate(pixels[None].float(), size=(side, side), mode="bilinear", antialias=True)
            pixels = smaller[0].round().clamp(0, 255).byte()
        file = io.BytesIO()
        to_pil_image(pixels).save(file, "JPEG", quality=90)
        return file.getvalue()

    return thumbnail
