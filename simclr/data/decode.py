"""One image file -> uint8 of the wanted number of bands, whatever its kind, size and depth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from simclr.data.bands import Bands, expect_bands, flattened
from simclr.data.opening import EXTENSIONS, open_picture, page_count, page_numbers, refuse_irregular
from simclr.data.rows import Row
from simclr.data.squares import Fit, square_of, to_square, whole_of
from simclr.errors import ConfigError, DataError

__all__ = [
    "EXTENSIONS",
    "Fit",
    "Reader",
    "decode",
    "enough_memory",
    "page_count",
    "page_numbers",
    "refuse_irregular",
    "to_square",
    "to_stored_size",
]


@contextmanager
def enough_memory(path: Path | Row) -> Iterator[None]:
    """Turn what Pillow, NumPy and torch raise where memory is short into one DataError that names the file."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise DataError(f"{path}: not enough memory to decode it") from error


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How files become pixels: what all images of a set share.

    Raises:
        DataError: in every method, a file that is missing, truncated, no regular file, no image, larger than ``max_pixels``,
            or of another number of bands; the message names it.
        ConfigError: Pillow was told to take truncated files for whole.
    """

    size: int
    """Side of the square that one vector is made of, in pixels."""

    channels: int = 3
    """Bands of every image. 3: colours, gray as colour, and what is transparent on white. 1: the same as gray (luma). Any other
    number, and files that are no pictures: files of exactly so many bands, taken as they are."""

    fit: Fit = "crop"
    """How an image becomes that square; see ``to_square``."""

    value_range: tuple[float, float] | None = None
    """Stored values that become 0 and 255; None is the full range of each kind of file: its integers', and 0 to 1 of floats.

    Between them values are mapped linearly and rounded, beyond them clipped; NaN and a map's "no data" count as the lower.
    """

    deep_only: bool = False
    """Let ``value_range`` leave files of 8 bits alone."""

    max_pixels: int = 178_956_970
    """Pixels of the largest image that is decoded."""

    def read(
        self, path: Path | Row, page: int = 0, shrink: Callable[[int, int], float] = lambda height, width: 1.0
    ) -> tuple[Tensor, tuple[int, int]]:
        """The pixels of an image, upright, uint8 (C, H, W), and its own height and width.

        A JPEG may come at one of the scales that its decoder has built in, smaller by at most the factor that ``shrink`` gives
        for its own height and width; ``H, W`` are then smaller than these.
        """
        picture, own = self._picture(path, page, shrink)
        with enough_memory(path):
            pixels = torch.from_numpy(np.array(picture))  # Pillow's and a mapped array may not be written to
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1), own

    def square(self, path: Path | Row, page: int = 0) -> Tensor:
        """An image as what one vector is made of: uint8 (C, size, size)."""
        picture, _ = self._picture(path, page, self._shrink)
        with enough_memory(path):
            return square_of(picture, self.size, self.fit)

    def square_and_whole(self, path: Path | Row, page: int = 0, *, longest: int) -> tuple[Tensor, Tensor]:
        """``square``, and the image with its shape kept, (C, H, W): its shorter side is ``size``, see ``whole_of``.

        Of a picture that is a square itself both are the same tensor.
        """
        picture, _ = self._picture(path, page, self._shrink if self.fit != "pad" else self._shrink_shorter)
        height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
        with enough_memory(path):
            square = square_of(picture, self.size, self.fit)
            return square, square if height == width else whole_of(picture, self.size, longest)

    def _shrink_shorter(self, height: int, width: int) -> float:
        return min(height, width) / (2 * self.size)

    def _shrink(self, height: int, width: int) -> float:
        longer_side_counts = self.fit == "pad"
        return (max if longer_side_counts else min)(height, width) / (2 * self.size)

    def _picture(
        self, path: Path | Row, page: int, shrink: Callable[[int, int], float]
    ) -> tuple[Image.Image | np.ndarray, tuple[int, int]]:
        """A picture of Pillow's, gray or RGB, or an array uint8 (H, W, C)."""
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise ConfigError(
                "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which turns files that are cut off into half-grey images "
                "without a word; set it to False, and --data.broken skip leaves such files out"
            )
        with open_picture(path, page, self.max_pixels) as opened:
            shape = opened.shape()
            decoded = opened.decode(self.channels, shrink(*shape))
            deep = bool(opened.deep) or not self.deep_only
            value_range = self.value_range if deep else None
            if isinstance(decoded, Bands):
                return flattened(decoded, self.channels, value_range), decoded.values.shape[
                    :2
                ]  # which axes they are, is known now
            if self.channels in (1, 3):
                return _pictorial(decoded, self.channels, value_range), shape
            values = _own_bands(decoded)
            expect_bands(path, values.shape[-1], False, self.channels)
            bands = Bands(values=values, full=(0.0, 255.0), pictorial=False)
            return flattened(bands, self.channels, value_range), shape


def decode(path: Path, size: int) -> Tensor:
    """A picture as RGB uint8 (3, size, size): its middle, in colours; see ``Reader``."""
    return Reader(size=size).square(path)


def to_stored_size(image: Image.Image, size: int) -> Tensor:
    """A PIL image of 8 bits as RGB uint8 (3, size, size): shorter side to ``size``, then the centre square."""
    return square_of(_pictorial(image, 3, None), size, "crop")


def _pictorial(image: Image.Image, channels: int, value_range: tuple[float, float] | None) -> Image.Image:
    """An image of 8 bits as gray or RGB, what is transparent on white."""
    mode = "L" if channels == 1 else "RGB"
    table = None
    if value_range is not None:
        every = Bands(values=np.arange(256, dtype=np.uint8).reshape(1, 256, 1), full=(0.0, 255.0), pictorial=False)
        table = flattened(every, 1, value_range).flatten().tolist()
    if _has_opacity(image):
        image = image.convert("RGBA")
        if table is not None:
            image = image.point(table * 3 + list(range(256)))
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB").convert(mode)
    if table is None and image.mode == mode:
        return image
    if channels == 1 and image.mode not in ("L", "1"):
        image = image.convert("RGB")  # what the colours of a palette or of CMYK are
    image = image.convert(mode if table is None or image.mode in ("L", "1") else "RGB")
    if table is not None:
        image = image.point(table * len(image.getbands()))
    return image.convert(mode)


def _own_bands(image: Image.Image) -> np.ndarray:
    """The bands of an image of 8 bits as they are, uint8 (H, W, C); what a palette or a transparent colour stands for."""
    if image.mode in ("1", "P", "PA", "L", "RGB") and _has_opacity(image):
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def _has_opacity(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
