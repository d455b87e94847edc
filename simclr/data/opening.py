"""A file of any kind that holds an image: its header at once, its pixels when they are asked for."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from simclr.data.bands import Bands, expect_bands, turned
from simclr.data.opened import Opened, limited, opened_array
from simclr.data.pillow_open import (
    HEIF_ENDINGS,
    bands_of,
    expect_few_scans,
    expect_whole_chunks,
    has_sixteen_bits,
    open_image,
    sixteen_bits,
    without_pillows_limit,
)
from simclr.data.rows import Row, opened_row
from simclr.data.tiff import TIFF_MARKS, TiffHeader, bands_of_pages, tiff_pages
from simclr.errors import DataError

__all__ = ["EXTENSIONS", "Opened", "bands_are_pages", "open_picture", "page_count", "page_numbers", "refuse_irregular"]

EXTENSIONS = HEIF_ENDINGS | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".tga"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".npy"),
}
"""File name endings, in lower case, that `folder` takes for images. HEIC is among them where ``pillow_heif`` is installed."""

_NUMPY_MARK = b"\x93NUMPY"

_RUNS = 1024
"""Pixels a byte that packing by runs never comes near to: what claims more would be decoded, slowly, out of nothing."""


def refuse_irregular(path: Path) -> None:
    """Raise OSError for a pipe, a socket or a device, which reading would wait for, perhaps for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")


@contextmanager
def open_picture(path: Path | Row, page: int, max_pixels: int) -> Iterator[Opened]:
    """Open page ``page`` of a file, or the image of a row; ``decode`` works inside the ``with`` alone.

    Raises:
        DataError: for what is wrong with the file, or an image of more than ``max_pixels``; at the opening or in ``decode``.
    """
    image = path.image() if isinstance(path, Row) else path
    if not isinstance(image, Path | bytes):
        yield opened_row(image, path, max_pixels)
        return
    path = image if isinstance(image, Path) else path
    try:
        with _opened_file(image) as file:
            head = file.read(32)
            if len(head) < 4:  # some decoders look at so many bytes without asking
                raise DataError(f"{path}: {'not an image that can be read' if head else 'the file is empty'}")
            if head.startswith(_NUMPY_MARK) or path.suffix.lower() == ".npy":
                opened = _numpy(image, path, page, max_pixels, head.startswith(_NUMPY_MARK))
            elif head.startswith(TIFF_MARKS):
                opened = _tiff(file, head, path, page, max_pixels)
            else:
                opened = _pillow(file, head, path, page, max_pixels)
            yield opened
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path}: not enough memory to decode it") from error
    except Exception as error:  # on damaged files decoders raise whatever they please; AVIF's a RuntimeError, say
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: {reason.splitlines()[0] if reason else type(error).__name__}") from error


def _opened_file(image: Path | bytes) -> BinaryIO:
    if isinstance(image, bytes):
        return io.BytesIO(image)
    refuse_irregular(image)
    return image.open("rb")


def _pillow(file: BinaryIO, head: bytes, path: Path | Row, page: int, max_pixels: int) -> Opened:
    def again() -> ImageFile.ImageFile:
        image = open_image(file, head)
        if page:
            _turn_to(image, page, path)
        return image

    image = again()
    stored = image.size
    if image.format == "TIFF":  # whose size is already turned in some versions of Pillow
        stored = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]  # type: ignore[attr-defined]
    limited(path, *stored, max_pixels)
    pixels = image.width * image.height
    expect_few_scans(image, file)
    if image.format in ("BMP", "DIB", "TGA") and pixels > _RUNS * file.seek(0, 2):
        raise DataError(f"{path}: {image.width} x {image.height} pixels in {file.tell()} bytes; its header is damaged")

    said: list[int] = []

    def orientation() -> int:
        if said:  # for the shape already
            return said[0]
        with without_pillows_limit(pixels):
            if image.format == "PNG":
                image.load()  # it may say so behind the pixels
            said.append(1)
            with suppress(Exception):  # a damaged note on a picture is no reason against it
                turn = image.getexif().get(ExifTags.Base.Orientation, 1)
                said[0] = turn if isinstance(turn, int) else 1
        return said[0]

    def shape() -> tuple[int, int]:
        if image.format == "PNG":
            expect_whole_chunks(file)
        return stored if orientation() in (5, 6, 7, 8) else stored[::-1]

    still = not getattr(image, "is_animated", False)
    sixteen = still and image.format == "PNG" and has_sixteen_bits(image)
    deep = "uint16" if sixteen or image.mode.startswith("I") else "float32" if image.mode == "F" else ""

    def decode(channels: int, factor: float) -> Image.Image | Bands:
        with without_pillows_limit(pixels):
            bands = bands_of(image, sixteen_bits(again) if sixteen else None)
            if bands is not None:
                _expect(path, bands, channels)
                return _turned(bands, orientation())
            turn = orientation() != 1
            if factor > 1:  # a JPEG is decoded at the smallest of its scales that is not below what is asked for
                image.draft("RGB", (-int(-image.width // factor), -int(-image.height // factor)))
            image.load()
            return ImageOps.exif_transpose(image) if turn else image

    return Opened(kind=f"{image.format} {image.mode}", pixels=pixels, deep=deep, shape=shape, decode=decode)


def _turn_to(image: ImageFile.ImageFile, page: int, path: Path | Row) -> None:
    with without_pillows_limit(image.width * image.height):
        count = getattr(image, "n_frames", 1)
        if page >= count:
            raise DataError(f"{path}: no page {page}, counted from 0; it has {count}")
        image.seek(page)


def _tiff(file: BinaryIO, head: bytes, path: Path | Row, page: int, max_pixels: int) -> Opened:
    try:
        header = TiffHeader(file, str(path), page)
    except IndexError as error:
        raise DataError(f"{path}: no page {page}, counted from 0; it has {len(tiff_pages(file, path.name))}") from error
    except Exception:  # Pillow may still know what it is, and says what is wrong in its own words
        return _pillow(file, head, path, page, max_pixels)
    plain = _pillow(file, head, path, page, max_pixels) if header.plain else None
    limited(path, header.width, header.height, max_pixels)

    def again(number: int = page) -> ImageFile.ImageFile:
        image = open_image(file, head)
        image.seek(number)
        return image

    def decode(channels: int, factor: float) -> Image.Image | Bands:
        with without_pillows_limit(header.width * header.height):
            if page == 0 and header.may_be_a_band and channels not in (1, 3):
                numbers = tiff_pages(file, path.name)
                if len(numbers) == channels:
                    every = [TiffHeader(file, str(path), number) for number in numbers]
                    return _turned(
                        bands_of_pages(every, [partial(again, number) for number in numbers]), header.orientation
                    )
            if plain is not None:
                header.expect_all_pieces()
                return plain.decode(channels, factor)
            return _turned(header.decode(channels, again), header.orientation)

    stored = (header.width, header.height)
    shown = stored if header.orientation in (5, 6, 7, 8) else stored[::-1]
    number = np.dtype(header.page.dtype).name if header.page.dtype is not None else "unknown numbers"
    deep = "" if number == "uint8" or plain is not None else number
    kind = f"TIFF {header.bands} x {number}" if plain is None else plain.kind
    pixels = header.width * header.height
    return Opened(kind=kind, pixels=pixels, deep=deep, shape=lambda: shown, decode=decode)


def _numpy(image: Path | bytes, path: Path | Row, page: int, max_pixels: int, marked: bool) -> Opened:
    if page:
        raise DataError(f"{path}: no page {page}, counted from 0; it has 1")
    try:
        if isinstance(image, bytes):
            array = np.load(io.BytesIO(image), allow_pickle=False)
        else:
            array = np.load(image, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        objects = marked and "bject" in str(error)
        what = "Python objects, which are not loaded; save numbers" if objects else "no whole NumPy array"
        raise DataError(f"{path}: holds {what}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise DataError(
            f"{path}: holds {getattr(array, 'dtype', 'several arrays')}; expected one array of integers or floats"
        )
    return opened_array(array, path, max_pixels)


def _expect(path: Path | Row, bands: Bands, channels: int) -> None:
    expect_bands(path, bands.values.shape[-1], bands.pictorial, channels)


def _turned(bands: Bands, orientation: int) -> Bands:
    if orientation not in range(2, 9):
        return bands
    seen = None if bands.transparent is None else turned(bands.transparent, orientation)
    return replace(bands, values=turned(bands.values, orientation), transparent=seen)


def page_numbers(path: Path | Row) -> tuple[int, ...]:
    """The pages of a TIFF file, or the frames of a GIF, WebP, PNG or AVIF, from the headers; reduced copies in a TIFF are none.

    A file of another kind, or that does not open, has the one page (0,): what is wrong with it is said where it is decoded.
    """
    try:
        with _opened_file(path.image() if isinstance(path, Row) else path) as file:
            head = file.read(32)
            if head.startswith(TIFF_MARKS):
                return tiff_pages(file, path.name)
            if not (head.startswith((b"GIF8", b"\x89PNG")) or head[8:12] in (b"WEBP", b"avis")):
                return (0,)
            return tuple(range(int(getattr(open_image(file, head), "n_frames", 1))))
    except Exception:
        return (0,)


def bands_are_pages(path: Path | Row, channels: int) -> bool:
    """Whether ``open_picture(path, 0, ...)`` takes the pages of a TIFF file for the bands of one image of ``channels``.

    So many programs write an array (C, H, W). It is done for numbers of channels other than 1 and 3, and for files of exactly
    so many pages of one band.
    """
    try:
        with _opened_file(path.image() if isinstance(path, Row) else path) as file:
            if channels in (1, 3) or not file.read(32).startswith(TIFF_MARKS):
                return False
            return TiffHeader(file, str(path), 0).may_be_a_band and len(tiff_pages(file, path.name)) == channels
    except Exception:
        return False


def page_count(path: Path | Row) -> int:
    """How many pages or frames a file has; see ``page_numbers``."""
    return len(page_numbers(path))
