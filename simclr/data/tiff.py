"""TIFF files that are more than 8-bit pictures: deep, float, of many bands, planar, white at zero; through tifffile."""

import logging
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ImageFile

from simclr.data.bands import Bands, expect_bands, full_range
from simclr.data.pillow_open import bands_of, sixteen_bits
from simclr.errors import DataError

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["TIFF_MARKS", "TiffHeader", "bands_of_pages", "tiff_pages"]

TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# tifffile's remarks on odd files would stand among ours, on a line without the file's name; who wants them adds a handler.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_ORIENTATION, _NO_DATA = 274, 42113
_KIND_OF_PAGE, _REDUCED_OR_MASK = 254, 1 | 4
_MOST_PAGES, _MOST_TAGS = 1 << 17, 4096
_DEFLATE, _LARGEST_RATIO, _MODEST = (8, 32946), 1032, 1 << 28


def _page(file: BinaryIO, name: str, number: int) -> "TiffPage":
    from tifffile import TiffFile, TiffPage

    file.seek(0)
    page = TiffFile(file, name=name).pages[number]
    assert isinstance(page, TiffPage)
    return page


def tiff_pages(file: BinaryIO, name: str) -> tuple[int, ...]:
    """The numbers of the pages that are images of their own: no reduced copies, no masks; the first page is always one.

    The directories are gone through here, since a file of a million of them would keep tifffile busy for minutes.

    Raises:
        ValueError: more than 131,072 pages, which no file has that is not damaged.
        struct.error: the file ends where a directory should be.
    """
    file.seek(0)
    head = file.read(16)
    order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
    count_of, entry, link = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    entries = struct.Struct(order + entry)
    (offset,) = struct.unpack_from(order + link, head, 8 if big else 4)
    seen: set[int] = set()
    kept = []
    while offset and offset not in seen:
        if len(seen) >= _MOST_PAGES:
            raise ValueError(f"{name}: more than {_MOST_PAGES} pages")
        file.seek(offset)
        (count,) = struct.unpack(order + count_of, file.read(struct.calcsize(order + count_of)))
        if count > _MOST_TAGS:
            raise ValueError(f"{name}: a page of {count} tags")
        body = file.read(count * entries.size + struct.calcsize(order + link))
        kind = 0
        for tag, dtype, _, value in entries.iter_unpack(body[: count * entries.size]):
            if tag == _KIND_OF_PAGE:
                kind = struct.unpack_from(order + {1: "B", 3: "H"}.get(dtype, "I"), value)[0]
        if not kind & _REDUCED_OR_MASK:
            kept.append(len(seen))
        seen.add(offset)
        (offset,) = struct.unpack_from(order + link, body, count * entries.size)
    return tuple(kept) if 0 in kept else (0, *kept)


class TiffHeader:
    """A page of a TIFF file, not decoded yet.

    Args:
        file: the file, which must stay open.
        name: what messages call it.
        number: the page, from 0.

    Raises:
        Exception: whatever tifffile raises on damaged files.
    """

    def __init__(self, file: BinaryIO, name: str, number: int) -> None:
        self.name, self.file = name, file
        self.page = page = _page(file, name, number)
        self.file_size = file.seek(0, 2)
        sizes = (
            page.imagewidth,
            page.imagelength,
            page.samplesperpixel,
            page.rowsperstrip,
            page.tilewidth,
            page.tilelength,
        )
        if not all(
            isinstance(size, int) for size in (*sizes, page.photometric or 0, page.sampleformat, page.planarconfig)
        ):
            raise ValueError("a damaged header")  # numbers that a damaged tag makes words or lists
        self.width, self.height, self.bands = page.imagewidth, page.imagelength, page.samplesperpixel
        self.photometric = int(page.photometric if page.photometric is not None else _BLACK_IS_ZERO)
        self.kind = int(page.sampleformat)
        extra = [int(e) for e in page.extrasamples]
        coloured = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(self.photometric, -1)
        self.opacity = len(extra) == 1 and extra[0] in (1, 2) and self.bands == coloured + 1
        self.premultiplied = self.opacity and extra[0] == 1
        self.pictorial = self.opacity or self.bands == coloured
        tag = page.tags.get(_ORIENTATION)
        self.orientation = int(tag.value) if tag is not None and isinstance(tag.value, int) else 1

    @property
    def may_be_a_band(self) -> bool:
        """Whether the page is gray, so that it can be a band of an image whose bands lie on pages."""
        return self.bands == 1 and self.pictorial

    @property
    def plain(self) -> bool:
        """Whether it is a picture of 8 bits or less, which Pillow reads."""
        page = self.page
        if self.photometric in (_PALETTE, _CMYK, _YCBCR, _LAB):
            return self.kind == _UNSIGNED
        eight = isinstance(page.bitspersample, int) and page.bitspersample <= 8 and self.kind == _UNSIGNED
        return eight and int(page.planarconfig) == 1 and self.pictorial and not self.premultiplied

    def decode(self, channels: int, again: Callable[[], ImageFile.ImageFile]) -> Bands:
        """The numbers of the page, not turned yet; ``again`` opens it with Pillow.

        Raises:
            DataError: another number of bands, no numbers that have an order, truncated, or a compression that needs a package.
        """
        page = self.page
        expect_bands(self.name, self.bands, self.pictorial, channels)
        if self.kind not in (_UNSIGNED, _SIGNED, _FLOAT):
            raise DataError(
                f"{self.name}: its numbers are complex or of no kind that is said; expected integers or floats"
            )
        if page.tilewidth * page.tilelength > max(2**24, 4 * self.width * self.height):
            raise DataError(f"{self.name}: tiles of {page.tilewidth} x {page.tilelength} pixels; its header is damaged")
        self.expect_all_pieces()
        ends = np.array(page.dataoffsets, dtype=np.int64) + np.array(page.databytecounts, dtype=np.int64)
        if ends.max(initial=0) > self.file_size:
            raise DataError(f"{self.name}: image file is truncated")
        self._expect_no_bomb()
        try:
            values = page.asarray(maxworkers=1)
        except Exception as error:
            packed = (
                "imagecodecs" in str(error) or "not supported" in str(error) or "cannot decode" in str(error).lower()
            )
            if not packed and int(page.compression) in (1, 8, 32946):
                raise
            return self._by_pillow(again, error)
        if page.axes not in ("YX", "YXS", "SYX"):
            raise DataError(f"{self.name}: a volume of shape {page.shape}; expected flat pages")
        if page.axes == "YX":
            values = values[..., None]
        elif page.axes == "SYX":
            values = values.transpose(1, 2, 0)
        if values.shape != (self.height, self.width, self.bands):
            raise DataError(f"{self.name}: an array of shape {values.shape}, which is not what its header says")
        bits = page.bitspersample if isinstance(page.bitspersample, int) else None
        full = full_range(values.dtype, bits)
        return self._bands(_without_no_data(values, page), full)

    def expect_all_pieces(self) -> None:
        """Raise DataError where strips or tiles are missing."""
        there, wanted = len(self.page.dataoffsets), math.prod(self.page.chunked)
        if there != wanted:
            raise DataError(f"{self.name}: {there} of {wanted} pieces of the image are there")

    def _expect_no_bomb(self) -> None:
        """Raise DataError where a piece unpacks to far more than its pixels, which tifffile would hold in memory first."""
        page = self.page
        if int(page.compression) not in _DEFLATE:
            return
        most = page.tilewidth * page.tilelength if page.is_tiled else self.width * min(self.height, page.rowsperstrip)
        most = 2 * most * self.bands * max(1, int(page.dtype.itemsize if page.dtype is not None else 8)) + 4096
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if count * _LARGEST_RATIO <= max(_MODEST, most):
                continue
            self.file.seek(offset)
            unpack, left, made = zlib.decompressobj(), count, 0
            while left and not unpack.eof:
                packed = self.file.read(min(left, 1 << 16))
                left = left - len(packed) if packed else 0
                while packed and not unpack.eof:
                    made += len(unpack.decompress(packed, 1 << 20))
                    packed = unpack.unconsumed_tail
                    if made > most:
                        raise DataError(f"{self.name}: a piece of it unpacks to more than its pixels; it is damaged")

    def _bands(self, values: np.ndarray, full: tuple[float, float]) -> Bands:
        return Bands(
            values=values,
            full=full,
            pictorial=self.pictorial,
            alpha=("premultiplied" if self.premultiplied else "straight") if self.opacity else "none",
            white_is_zero=self.photometric == _WHITE_IS_ZERO and self.pictorial,
        )

    def _by_pillow(self, again: Callable[[], ImageFile.ImageFile], error: Exception) -> Bands:
        """What Pillow's libtiff unpacks to the bit: gray of 12, 16 and 32 bits, and colours of 8 and 16."""
        bits = self.page.bitspersample
        try:
            if self.pictorial and self.photometric == _RGB and self.kind == _UNSIGNED:
                deep = sixteen_bits(again)
                if deep is not None and deep.shape[-1] == self.bands:
                    return self._bands(deep, (0.0, 65535.0))
                if bits == 8:
                    straight = self._bands(np.array(again().convert("RGBA" if self.opacity else "RGB")), (0.0, 255.0))
                    return replace(straight, alpha="straight" if self.opacity else "none")
            if self.bands == 1 and (bits, self.kind) == (8, _UNSIGNED):
                gray = self._bands(np.array(again().convert("L"))[..., None], (0.0, 255.0))
                return replace(gray, white_is_zero=False)  # Pillow turned it round
            if self.bands == 1 and (bits, self.kind) in ((12, _UNSIGNED), (16, _UNSIGNED), (16, _SIGNED), (32, _FLOAT)):
                deep_gray = bands_of(again())
                if deep_gray is not None:
                    return self._bands(
                        deep_gray.values, full_range(np.dtype(f"{' uif'[self.kind]}{4 if bits == 32 else 2}"), bits)
                    )
        except (OSError, ValueError, SyntaxError) as other:
            raise DataError(f"{self.name}: {str(other).splitlines()[0]}") from other
        packing = getattr(self.page.compression, "name", self.page.compression)
        raise DataError(
            f"{self.name}: packed as {packing}, which needs a package more: pip install imagecodecs"
        ) from error


def bands_of_pages(pages: Sequence[TiffHeader], again: Sequence[Callable[[], ImageFile.ImageFile]]) -> Bands:
    """An image whose bands are the pages of its file, each of one band; ``again`` opens them with Pillow.

    Raises:
        DataError: pages of several sizes or kinds of numbers.
    """
    each = [page.decode(1, open_page) for page, open_page in zip(pages, again)]
    kinds = {(band.values.shape, band.full) for band in each}
    if len(kinds) > 1:
        raise DataError(
            f"{pages[0].name}: its {len(pages)} pages are of several sizes or depths; expected as many bands alike"
        )
    return replace(each[0], values=np.concatenate([band.values for band in each], axis=-1), pictorial=False)


def _without_no_data(values: np.ndarray, page: "TiffPage") -> np.ndarray:
    """The values, with NaN for those that mean "no data here" in a file of GDAL (maps, satellites)."""
    tag = page.tags.get(_NO_DATA)
    if tag is None:
        return values
    try:
        nothing = float(str(tag.value).strip("\0 "))
    except ValueError:
        return values
    absent = values == (values.dtype.type(nothing) if values.dtype.kind == "f" else nothing)
    return np.where(absent, np.nan, values) if absent.any() else values
