"""The file of an image, as it is or made smaller: what a shard holds of it."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from simclr.data.decode import Reader
from simclr.data.image_set import ImageSet
from simclr.data.opening import EXTENSIONS, refuse_irregular
from simclr.data.rows import Row
from simclr.errors import DataError

__all__ = ["Original", "original", "smaller"]

_QUALITY = 92
"""Of a JPEG that is made here."""

_MARKS = (
    *((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"\x93NUMPY", ".npy")),
    *((b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"II+\0", ".tif"), (b"MM\0+", ".tif")),
)


@dataclass(frozen=True)
class Original:
    """The file of an image."""

    content: bytes
    suffix: str
    """How its name ends, in lower case."""
    name: str = ""
    """Its path below the folder it came from; empty where it was none."""


def original(images: ImageSet, index: int, root: Path | None = None) -> Original:
    """The file of image ``index``, byte for byte; what is no file becomes a PNG, or where that has no such pixels a ``.npy``.

    Raises:
        DataError: it cannot be read.
    """
    place = images.places[index] if images.pixels is None else None
    if place is None:
        assert images.pixels is not None
        return _made(images.pixels[index].permute(1, 2, 0).numpy())
    held = place.image() if isinstance(place, Row) else place
    name = held if isinstance(held, Path) else Path(place.name) if isinstance(place, Row) and place.suffix else None
    if isinstance(held, Path):
        try:
            refuse_irregular(held)
            held = held.read_bytes()
        except OSError as error:
            raise DataError(f"{place}: {error.strerror or error}") from error
    if isinstance(held, bytes):
        suffix = place.suffix.lower()
        below = (
            ""
            if name is None
            else name.relative_to(root).as_posix()
            if root and name.is_relative_to(root)
            else name.name
        )
        return Original(held, suffix if suffix in EXTENSIONS else _suffix(held), below)
    if isinstance(held, Tensor):
        array = held.detach().cpu().numpy()
        return _made(array.transpose(1, 2, 0) if array.ndim == 3 and array.shape[0] <= 4 else array)
    return _made(held)


def smaller(found: Original, images: ImageSet, index: int, size: int) -> Original:
    """The same image with its shorter side ``size``, as a JPEG, or with other bands than colours as a ``.npy``.

    What is no larger is left as it is.

    Raises:
        DataError: it does not decode.
    """
    reader: Reader = images.reader

    def shrink(height: int, width: int) -> float:
        return min(height, width) / (2 * size)

    if images.pixels is None:
        pixels, (height, width) = reader.read(images.places[index], images.page(index), shrink)
    else:
        pixels, (height, width) = images.pixels[index], (images.size, images.size)
    if min(height, width) <= size:
        return found
    scale = size / min(height, width)
    shape = max(size, round(width * scale)), max(size, round(height * scale))
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.numpy()]
    bands = [band.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3.0) for band in bands]
    if len(bands) not in (1, 3):
        return Original(_saved_array(np.stack([np.asarray(band) for band in bands], -1)), ".npy", found.name)
    out = io.BytesIO()
    (bands[0] if len(bands) == 1 else Image.merge("RGB", bands)).save(out, "JPEG", quality=_QUALITY)
    return Original(out.getvalue(), ".jpg", found.name)


def _made(image: Image.Image | np.ndarray) -> Original:
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[-1] == 1:
            image = image[..., 0]
        if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[-1] != 3):
            return Original(_saved_array(image), ".npy")
        image = Image.fromarray(np.ascontiguousarray(image))
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        return Original(_saved_array(np.asarray(image)), ".npy")
    out = io.BytesIO()
    image.save(out, "PNG")
    return Original(out.getvalue(), ".png")


def _saved_array(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def _suffix(content: bytes) -> str:
    """How a file of this content is called; ``.jpg`` where nobody knows, for readers go by the content."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    if content[4:8] == b"ftyp":
        return ".avif"
    return next((suffix for mark, suffix in _MARKS if content.startswith(mark)), ".jpg")
