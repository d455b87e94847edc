"""Files through Pillow: formats that are pictures and no others, without Pillow's own limit of size, all of their bits."""

import importlib
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from simclr.data.bands import Bands

__all__ = [
    "HEIF_ENDINGS",
    "bands_of",
    "expect_few_scans",
    "expect_whole_chunks",
    "has_sixteen_bits",
    "open_image",
    "sixteen_bits",
    "without_pillows_limit",
]

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF"),
    *("DIB", "ICO", "PCX", "SGI", "QOI", "TGA"),
)
"""Tried in this order, TGA last, since it has no mark of its own. What starts a program (PostScript) or fetches is not here."""

_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Ppm", "Jpeg2K", "Avif", "Ico", "Pcx", "Sgi", "Qoi", "Tga")

for _plugin in _PLUGINS:
    with suppress(ImportError):  # AVIF came with Pillow 11.3
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")

# Pillow's remarks on odd tags ("Tag data larger than file") name no file: what matters is an error, which does.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

HEIF_ENDINGS = frozenset({".heic", ".heif"} if find_spec("pillow_heif") else ())
"""The endings of what telephones write, where the package that reads it is installed."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_COULD_BE_ANOTHER = (SyntaxError, IndexError, TypeError, struct.error)
"""What Pillow itself takes for "not this format"."""


_LARGEST_PIXEL = 8
"""Bytes: four bands of 16 bits."""


_MOST_SCANS = 100


class _Limit:
    """Pillow's limit of size, which is one number for the whole process, taken away while anybody needs it away."""

    def __init__(self) -> None:
        self.lock, self.users, self.kept = Lock(), 0, Image.MAX_IMAGE_PIXELS

    def lift(self) -> None:
        with self.lock:
            if self.users == 0:
                self.kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1

    def restore(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                Image.MAX_IMAGE_PIXELS = self.kept

    def now(self) -> int | None:
        with self.lock:
            return self.kept if self.users else Image.MAX_IMAGE_PIXELS


_limit = _Limit()


@contextmanager
def without_pillows_limit(pixels: int) -> Iterator[None]:
    """Let Pillow decode an image of so many pixels without an error or a warning; threads may do so at the same time.

    ``PIL.Image.MAX_IMAGE_PIXELS`` is touched for images above it alone, and is as before when the last of them is done.
    """
    most = _limit.now()
    if most is None or pixels <= most:
        yield
        return
    _limit.lift()
    try:
        yield
    finally:
        _limit.restore()


def open_image(file: BinaryIO, head: bytes) -> ImageFile.ImageFile:
    """The header of a picture, by what is in the file and not by its ending; ``head`` is its first bytes, 16 or more.

    ``Image.open`` would look at its limit of size, and without a list of formats start Ghostscript for PostScript.

    Raises:
        OSError: no picture, or one that needs a package that is not there.
        Exception: whatever a format's own code raises on damaged files.
    """
    reasons = []
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and "HEIF" not in Image.OPEN:
        if find_spec("pillow_heif") is None:
            raise OSError("a HEIC image, which needs a package more: pip install pillow-heif")
        importlib.import_module("pillow_heif").register_heif_opener()
    for kind in _FORMATS:
        if kind not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[kind]
        accepted = accept(head) if accept else True
        if isinstance(accepted, str):  # "support not installed"
            reasons.append(accepted)
        elif accepted:
            file.seek(0)
            with suppress(*_COULD_BE_ANOTHER):
                return _made(factory, file)
    raise OSError(reasons[0] if reasons else "not an image that can be read")


def expect_whole_chunks(file: BinaryIO) -> None:
    """Compare the pixels and the palette of a PNG with their check sums, which Pillow leaves out; at 1 GB/s and more.

    Raises:
        OSError: they differ. A file that ends too early is left to who decodes it.
    """
    before = file.tell()
    file.seek(8)
    while len(start := file.read(8)) == 8 and start[4:] != b"IEND":
        left, found = int.from_bytes(start[:4], "big"), zlib.crc32(start[4:])
        if start[4:] not in (b"IDAT", b"PLTE"):
            file.seek(left + 4, 1)
            continue
        while left and (block := file.read(min(left, 1 << 20))):
            left, found = left - len(block), zlib.crc32(block, found)
        said = file.read(4)
        if not left and len(said) == 4 and int.from_bytes(said, "big") != found:
            raise OSError("damaged: the check sum of its pixels is another")
    file.seek(before)


def expect_few_scans(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Raise OSError where a progressive JPEG goes over its pixels more than 100 times, a few bytes each: minutes for nothing."""
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        before = file.tell()
        file.seek(0)
        scans = file.read().count(b"\xff\xda")
        file.seek(before)
        if scans > _MOST_SCANS:
            raise OSError(f"{scans} scans of a progressive JPEG; no camera or program writes more than {_MOST_SCANS}")


def _made(factory: Callable[..., ImageFile.ImageFile], file: BinaryIO) -> ImageFile.ImageFile:
    # Without the name of the file Pillow reads it; with it, it would map it into memory, and some TIFFs come out wrong.
    try:
        image = factory(file, "")
    except Image.DecompressionBombError:  # a few formats look at the limit already here; ours is looked at behind this
        file.seek(0)
        _limit.lift()
        try:
            image = factory(file, "")
        finally:
            _limit.restore()
    # Pillow puts blocks of this size together until they are a line, copying all of it each time.
    image.decodermaxblock = max(image.decodermaxblock, _LARGEST_PIXEL * image.width)
    return image


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the numbers of an image lie in its file, in Pillow's words; empty where it is in several pieces, or decoded."""
    own = image.tile[0][3] if len(image.tile) == 1 else ""
    return str(own[0] if isinstance(own, tuple) and own else own)


def _decoded_as(image: ImageFile.ImageFile, raw: str) -> np.ndarray:
    codec, extents, offset, own = image.tile[0]
    tile: Any = (codec, extents, offset, (raw, *own[1:]) if isinstance(own, tuple) else raw)
    named = hasattr(image.tile[0], "_fields")  # since Pillow 11
    image.tile = [type(image.tile[0])(*tile) if named else tile]
    return np.array(image).astype(np.uint16)


def has_sixteen_bits(image: ImageFile.ImageFile) -> bool:
    """Whether ``sixteen_bits`` would find more in an image, not decoded yet, than Pillow itself."""
    mode, _, order = _raw_mode(image).partition(";16")
    return order in ("B", "L", "N") and (
        (mode in ("RGB", "RGBA") and mode == image.mode) or (mode, order) == ("LA", "B")
    )


def sixteen_bits(again: Callable[[], ImageFile.ImageFile]) -> np.ndarray | None:
    """All bits of an image of two to four bands of 16, uint16 (H, W, C), of which Pillow itself keeps the upper eight.

    Pillow unpacks colours of 16 bits in either order of bytes; read in both, one picture holds the upper and one the lower
    halves. Gray with opacity, which it reads as four bands of 8 anyway, are those four bytes.

    Args:
        again: opens the image, which is not decoded yet; called twice.

    Returns:
        None where it is no such image.
    """
    image = again()
    if not has_sixteen_bits(image):
        return None
    mode, _, order = _raw_mode(image).partition(";16")
    if mode == "LA":
        parts = _decoded_as(image, "RGBA")
        return parts[..., ::2] << 8 | parts[..., 1::2]
    first_is_upper = _decoded_as(image, f"{mode};16B")
    last_is_upper = _decoded_as(again(), f"{mode};16L")
    if order == "N":  # the order of this machine
        order = "L" if sys.byteorder == "little" else "B"
    return first_is_upper << 8 | last_is_upper if order == "B" else last_is_upper << 8 | first_is_upper


def bands_of(image: Image.Image, sixteen: np.ndarray | None = None) -> Bands | None:
    """What an image holds that Pillow has no 8 bits for, and None where it has; ``sixteen`` is what ``sixteen_bits`` gave."""
    secret = image.info.get("transparency")
    if sixteen is not None:
        transparent = (sixteen == np.array(secret)).all(-1) if isinstance(secret, tuple) and len(secret) == 3 else None
        return Bands(
            values=sixteen,
            full=(0.0, 65535.0),
            pictorial=True,
            alpha="none" if sixteen.shape[-1] == 3 else "straight",
            transparent=transparent,
        )
    if image.mode not in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return None
    values = np.asarray(image)[..., None]
    if values.dtype.kind == "u":
        values = values.astype(np.uint16)  # in this machine's order of bytes
    return Bands(
        values=values,
        full=(0.0, 1.0 if image.mode == "F" else 65535.0),  # PGM comes scaled to 16 bits
        pictorial=True,
        transparent=values[..., 0] == secret if isinstance(secret, int) else None,
    )
