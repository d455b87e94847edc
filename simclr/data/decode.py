"""One image file -> RGB uint8 (3, size, size), whatever its size and mode."""

import stat
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from simclr.errors import ConfigError, DataError

__all__ = ["EXTENSIONS", "decode", "refuse_irregular", "to_stored_size"]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
"""File name endings, in lower case, that `folder` takes for images."""


def decode(path: Path, size: int) -> Tensor:
    """Read an image as RGB uint8 (3, size, size).

    The camera's orientation is applied, 16-bit gray is scaled to 8 bits, transparent pixels are laid on white; of an
    animation the first frame counts. Shorter side to ``size`` (antialiased), then the centre square.

    Raises:
        DataError: the file is missing, truncated, no regular file, or no image; the message names it.
        ConfigError: Pillow was told to take truncated files for whole.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which turns files that are cut off into half-grey images without "
            "a word; set it to False, and --data.broken skip leaves such files out"
        )
    try:
        refuse_irregular(path)
        with Image.open(path) as image:
            # A JPEG is decoded at the smallest of its built-in scales that is still at least twice the size wanted.
            image.draft("RGB", (2 * size, 2 * size))
            return to_stored_size(ImageOps.exif_transpose(image), size)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, RuntimeError) as error:  # AVIF: the last
        reason = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: {reason.splitlines()[0] if reason else type(error).__name__}") from error


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
