"""Small pictures of images, as the bytes of JPEG files."""

import io

from torch import Tensor
from torch.nn.functional import interpolate

from simclr.data.channels import shown_bands

__all__ = ["thumbnails_of"]


def thumbnails_of(images: Tensor, side: int) -> list[bytes]:
    """One of each of ``images`` (B, C, S, S) uint8, at most ``side`` pixels wide.

    Of more than three bands the first three are shown, of two the first.
    """
    from torchvision.transforms.functional import to_pil_image

    pixels = shown_bands(images.cpu())
    if pixels.shape[-1] > side:
        shrunk = interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True)
        pixels = shrunk.round().clamp(0, 255).byte()
    found = []
    for image in pixels:
        file = io.BytesIO()
        to_pil_image(image).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found
