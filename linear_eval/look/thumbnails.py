"""Small pictures of the images of a set, decoded for that from their files."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from simclr.cores import share_of_cores
from simclr.data import ImageSet
from simclr.data.channels import shown_bands
from simclr.errors import DataError
from simclr.progress import each

__all__ = ["picture_of", "thumbnails"]


def thumbnails(images: ImageSet, rows: Sequence[int], side: int) -> dict[int, bytes]:
    """The bytes of a WebP picture by row, its longer side ``side`` pixels; smaller images keep their size.

    The picture is all of the image, in its shape. A file that does not decode any more has none.

    Args:
        images: the set.
        rows: which of them.
        side: pixels.
    """
    wanted = list(dict.fromkeys(rows))
    found: dict[int, bytes] = {}
    with ThreadPoolExecutor(share_of_cores()) as pool:
        made = pool.map(lambda row: _webp(images, row, side), wanted)
        for row, picture in each(zip(wanted, made, strict=True), "small pictures", len(wanted)):
            if picture is not None:
                found[row] = picture
    return found


def picture_of(images: ImageSet, row: int, side: int) -> Image.Image | None:
    """An image in RGB, its longer side at most ``side`` pixels; None where its file does not decode."""
    try:
        pixels = _pixels(images, row, side)
    except DataError:
        return None
    pixels = shown_bands(pixels.cpu())
    height, width = pixels.shape[1:]
    if max(height, width) > side:
        scale = side / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        small = interpolate(pixels[None].float(), size=size, mode="bilinear", antialias=True)[0]
        pixels = small.round().clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _pixels(images: ImageSet, row: int, side: int) -> Tensor:
    """uint8 (C, H, W), of any size from ``side`` up where the file has so many."""
    if not images.places:
        assert images.pixels is not None
        return images.pixels[row]
    place, page = images.places[row], images.page(row)
    pixels: Tensor = images.reader.read(place, page, lambda height, width: max(height, width) / (2 * side))[0]
    return pixels if pixels.dtype == torch.uint8 else pixels.byte()


def _webp(images: ImageSet, row: int, side: int) -> bytes | None:
    picture = picture_of(images, row, side)
    if picture is None:
        return None
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=75, method=4)
    return file.getvalue()
