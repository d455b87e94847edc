"""One image file -> RGB uint8 (3, size, size), whatever its size and mode."""

import math
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

from simclr.errors import ConfigError, DataError

__all__ = ["EXTENSIONS", "Fit", "Reader", "decode", "refuse_irregular", "to_stored_size"]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
"""File name endings, in lower case, that `folder` takes for images."""


Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How files become pixels: what all images of a set share.

    Raises:
        DataError: in every method, a file that is missing, truncated, no regular file, or no image; the message names it.
        ConfigError: Pillow was told to take truncated files for whole.
    """

    size: int
    """Side of the square that one vector is made of, in pixels."""

    channels: int = 3
    fit: Fit = "crop"

    value_range: tuple[float, float] | None = None
    """What becomes 0 and 255; None is the full range of each kind of file."""

    max_pixels: int = 178_956_970

    def read(
        self, path: Path, page: int = 0, shrink: Callable[[int, int], float] = lambda height, width: 1.0
    ) -> tuple[Tensor, tuple[int, int]]:
        """The pixels of an image, upright, uint8 (C, H, W), and its own height and width.

        A JPEG may come at one of the scales that its decoder has built in, smaller by at most the factor that ``shrink`` gives
        for its own height and width; ``H, W`` are then smaller than these.
        """
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise ConfigError(
                "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which turns files that are cut off into half-grey images "
                "without a word; set it to False, and --data.broken skip leaves such files out"
            )
        try:
            refuse_irregular(path)
            with Image.open(path) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                height, width = image.size if turned else image.size[::-1]
                factor = shrink(height, width)
                if factor > 1:  # a JPEG is decoded at the smallest of its scales that is not below what is asked for
                    image.draft("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
                upright = _to_rgb(ImageOps.exif_transpose(image))
        except Image.DecompressionBombError as error:
            raise DataError(f"{path}: {error}") from error
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            IndexError,
            TypeError,
            RuntimeError,
        ) as error:  # AVIF: the last
            reason = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else str(error)
            raise DataError(f"{path}: {reason.splitlines()[0] if reason else type(error).__name__}") from error
        return torch.from_numpy(np.array(upright, dtype=np.uint8)).permute(2, 0, 1), (height, width)

    def square(self, path: Path, page: int = 0) -> Tensor:
        """An image as what one vector is made of: uint8 (C, size, size)."""
        pixels, _ = self.read(path, page, lambda height, width: min(height, width) / (2 * self.size))
        return to_stored_size(Image.fromarray(pixels.permute(1, 2, 0).numpy()), self.size)


def decode(path: Path, size: int) -> Tensor:
    """A picture as RGB uint8 (3, size, size): its middle, in colours; see ``Reader``."""
    return Reader(size=size).square(path)


def refuse_irregular(path: Path) -> None:
    """Raise OSError for a pipe, a socket or a device, which reading would wait for, perhaps for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")


def to_stored_size(image: Image.Image, size: int) -> Tensor:
    """A PIL image of any mode as RGB uint8 (3, size, size): shorter side to ``size``, then the centre square."""
    image = _to_rgb(image)
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(scaled, Image.Resampling.BILINEAR, reducing_gap=2.0)
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # Pillow's own conversion clips at 255 instead of scaling
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(deep / 257, 0, 255).round().astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.clip(np.asarray(image), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
