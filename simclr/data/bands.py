"""What a file holds, before it is 8 bits and of the wanted number of bands: ``Bands``, and its way to uint8."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from simclr.errors import DataError

__all__ = ["Bands", "expect_bands", "flattened", "full_range", "turned", "without_opacity"]


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The numbers of an image as they are stored."""

    values: np.ndarray
    """(H, W, C), any integer or float dtype, or bool; where ``alpha`` is set, the last band is the opacity."""

    full: tuple[float, float]
    """What is black and white where nobody says otherwise: 0 and the largest number of the file's bits, 0 and 1 for floats."""

    pictorial: bool
    """Gray or red, green and blue, which a picture of 1 or 3 channels can be made of; else bands without a meaning."""

    alpha: Literal["none", "straight", "premultiplied"] = "none"

    transparent: np.ndarray | None = None
    """bool (H, W): pixels of the one colour that the file declares transparent."""

    white_is_zero: bool = False


def full_range(dtype: np.dtype, bits: int | None = None) -> tuple[float, float]:
    """Black and white of numbers of a dtype, of which only ``bits`` are used.

    >>> full_range(np.dtype("uint16")), full_range(np.dtype("uint16"), 12), full_range(np.dtype("int8"))
    ((0.0, 65535.0), (0.0, 4095.0), (-128.0, 127.0))
    >>> full_range(np.dtype("float32"))
    (0.0, 1.0)
    """
    if dtype.kind in "fb":
        return 0.0, 1.0
    if dtype.kind == "u" and bits is not None:
        return 0.0, float(2**bits - 1)
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def expect_bands(name: object, bands: int, pictorial: bool, channels: int) -> None:
    """Raise DataError unless an image of so many bands, opacity counted, can become one of ``channels``.

    Gray and colours, with or without opacity, become 1 and 3 channels; for any other number a file has exactly so many.
    """
    if bands == channels or (pictorial and channels in (1, 3)):
        return
    count, takes = ("1 band", "it") if bands == 1 else (f"{bands} bands", "all of them")
    raise DataError(
        f"{name}: {count}, expected {channels} (data.channels); --data.channels {bands} takes {takes}, of all images"
    )


def without_opacity(bands: Bands, channels: int) -> np.ndarray:
    """Those of the values that a value range is about, (H, W, C): opacity has its own, where it is not taken for a band."""
    if bands.alpha != "none" and bands.pictorial and channels in (1, 3):
        return bands.values[..., :-1]
    return bands.values


def flattened(bands: Bands, channels: int, value_range: tuple[float, float] | None) -> np.ndarray:
    """The image as uint8 (H, W, channels): values in the range become 0 to 255, and what is transparent is white.

    The values are mapped linearly, rounded to the nearest, and clipped; NaN counts as the lower end. The image must have passed
    ``expect_bands``.

    >>> gray = Bands(values=np.array([[[0], [2048], [4095]]], dtype=np.uint16), full=(0.0, 65535.0), pictorial=True)
    >>> flattened(gray, 1, (0.0, 4095.0)).flatten().tolist(), flattened(gray, 1, None).flatten().tolist()
    ([0, 128, 255], [0, 8, 16])
    """
    low, high = bands.full if value_range is None else value_range
    values = without_opacity(bands, channels)
    pixels = _to_eight_bits(values, low, high)
    if bands.white_is_zero:
        pixels = 255 - pixels
    if not (bands.pictorial and channels in (1, 3)):
        return pixels
    if values.shape[-1] != bands.values.shape[-1]:
        opacity = np.clip(bands.values[..., -1:].astype(np.float32) / bands.full[1], 0, 1)
        seen = pixels if bands.alpha == "premultiplied" else pixels * opacity
        pixels = np.clip(np.rint(seen + 255 * (1 - opacity)), 0, 255).astype(np.uint8)
    if bands.transparent is not None:
        pixels = np.where(bands.transparent[..., None], np.uint8(255), pixels)
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]


def _to_eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    if values.dtype in (np.uint8, np.uint16):
        return _scaled(np.arange(np.iinfo(values.dtype).max + 1), low, high)[values]
    pixels = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, 2**18 // max(1, values[0].size))  # in float64 a whole image would take eight times its pixels
    for start in range(0, len(values), rows):
        pixels[start : start + rows] = _scaled(values[start : start + rows], low, high)
    return pixels


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        share = (values.astype(np.float64) - low) / (high - low) * 255
    return np.rint(np.clip(np.nan_to_num(share, nan=0, posinf=255, neginf=0), 0, 255)).astype(np.uint8)


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as EXIF's orientation 1 to 8 says that it is to be shown; any other number is 1.

    >>> turned(np.array([[1, 2], [3, 4]]), 6).tolist()
    [[3, 1], [4, 2]]
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array
