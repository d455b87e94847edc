"""An image whose header was read, whatever it is: a file, an array, or a row of a data set."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from simclr.data.bands import Bands, expect_bands, full_range
from simclr.errors import DataError

__all__ = ["Opened", "limited", "opened_array"]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image whose header was read."""

    kind: str
    """Format and mode, for people: "JPEG RGB", "TIFF 4 x uint16"."""

    pixels: int

    deep: str
    """The dtype of its numbers where 8 bits do not hold them, else empty."""

    shape: Callable[[], tuple[int, int]]
    """Height and width as it is to be shown; of a PNG, which says behind its pixels how it is turned, after decoding it."""

    decode: Callable[[int, float], Image.Image | Bands]
    """Its pixels, upright, for so many channels, smaller by at most a factor; Pillow's image where 8 bits hold them."""


def limited(path: object, width: int, height: int, max_pixels: int) -> None:
    pixels = width * height
    if pixels < 1:
        raise DataError(f"{path}: an image of {width} x {height} pixels")
    if pixels > max_pixels:
        count = f"{pixels / 1e6:.0f}" if pixels >= 1e7 else f"{pixels / 1e6:.2g}"
        raise DataError(
            f"{path}: {width} x {height} is {count} megapixels, more than data.max_pixels {max_pixels}; "
            f"--data.max-pixels {pixels} takes it"
        )


def opened_array(array: np.ndarray, path: object, max_pixels: int) -> Opened:
    """An array of integers or floats, which messages call ``path``."""
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{path}: an array of shape {array.shape}; expected (H, W), (H, W, C) or (C, H, W)")

    def bands_last(channels: int) -> np.ndarray:
        if array.ndim == 2:
            return array[..., None]
        first, last = array.shape[0], array.shape[-1]
        # The axis of bands is the one as long as the bands that are wanted, or as gray and colour have, else the shorter one.
        for wanted in (channels, 1, 3) if channels in (1, 3) else (channels,):
            if wanted in (first, last):
                return array if last == wanted else array.transpose(1, 2, 0)
        return array if last <= first else array.transpose(1, 2, 0)

    def decode(channels: int, factor: float) -> Bands:
        values = bands_last(channels)
        full = full_range(array.dtype)
        bands = Bands(values=np.asarray(values), full=full, pictorial=values.shape[-1] in (1, 3))
        expect_bands(path, values.shape[-1], bands.pictorial, channels)
        return bands

    height, width = bands_last(3).shape[:2]  # of several axes of bands that are possible the likeliest
    limited(path, width, height, max_pixels)
    deep = "" if array.dtype in (np.uint8, np.bool_) else array.dtype.name
    return Opened(
        kind=f"NPY {array.shape} {array.dtype}",
        pixels=height * width,
        deep=deep,
        shape=lambda: (height, width),
        decode=decode,
    )
