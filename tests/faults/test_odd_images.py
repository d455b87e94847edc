"""Images as they come: each is written byte by byte or by another library, and compared with numbers worked out here.

What is right about each is what its format's specification says, done with numpy on the numbers that were written; nothing of
the decoding code is used for it. Behind the pixels come the files that must be refused by name, and a folder of bad ones
among good ones that trains to its end.
"""

import io
import itertools
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, features
from test_broken_files import pretrain_command

from simclr.data.decode import Reader
from simclr.data.opening import EXTENSIONS
from simclr.errors import DataError
from simclr.names import printable

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (13, 21), dtype=np.uint8)
RGB = RNG.integers(0, 256, (13, 21, 3), dtype=np.uint8)
OPACITY = RNG.integers(0, 256, (13, 21), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (13, 21), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (13, 21, 3), dtype=np.uint16)
DEEP_OPACITY = RNG.integers(0, 65536, (13, 21), dtype=np.uint16)
DOWN, ACROSS = np.mgrid[0:48, 0:64]
SMOOTH = np.stack([4 * ACROSS, 5 * DOWN, 255 - 2 * ACROSS - 2 * DOWN], axis=-1).astype(np.uint8)
"""What a lossy format keeps: (48, 64, 3), different at every corner."""


class Odd(NamedTuple):
    """A file and what it shows."""

    name: str
    """Of the file; its ending is as it is in real folders."""

    content: Callable[[], bytes]

    shown: np.ndarray
    """uint8 or float, (H, W) or (H, W, 3)."""

    within: float = 0.5
    """Levels that a pixel may be away: half of one for what was rounded once."""


def eight(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Levels 0 to 255, not rounded, of values of which ``low`` is black and ``high`` is white."""
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255


def on_white(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Levels of what shows when ``colours`` of levels 0 to 255 lie on white, opaque by a share of 0 to 1."""
    share = opacity if colours.ndim == opacity.ndim else opacity[..., None]
    return colours * share + 255 * (1 - share)


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF 2.3 shows: it names the sides at which the first row and the first column of what is stored are seen."""
    first_row = ("top", "top", "bottom", "bottom", "left", "right", "right", "left")[orientation - 1]
    first_column = ("left", "right", "right", "left", "top", "top", "bottom", "bottom")[orientation - 1]
    height, width = stored.shape[:2]
    shown = np.zeros_like(stored if orientation < 5 else stored.swapaxes(0, 1))
    for row, column in itertools.product(range(height), range(width)):
        at = {first_row: row, first_column: column}
        y = at["top"] if "top" in at else shown.shape[0] - 1 - at["bottom"]
        x = at["left"] if "left" in at else shown.shape[1] - 1 - at["right"]
        shown[y, x] = stored[row, column]
    return shown


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """The bytes of a file as Pillow writes it."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """The bytes of a TIFF as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    """The bytes of a NumPy file."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png(
    rows: np.ndarray, colour: int, bits: int, *, before: Sequence[tuple[bytes, bytes]] = (), interlaced: bool = False
) -> bytes:
    """A PNG of (H, W) or (H, W, C) whole numbers by its specification, lines unfiltered; ``before`` the pixels these chunks."""
    lines = []
    for top, left, down, across in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        for row in rows[top::down, left::across]:
            numbers = row.reshape(-1)
            if not len(numbers):
                continue
            if bits == 16:
                packed = numbers.astype(">u2").tobytes()
            else:
                each = (numbers[:, None].astype(np.uint8) >> np.arange(bits - 1, -1, -1)) & 1
                packed = np.packbits(each.reshape(-1)).tobytes()
            lines.append(b"\0" + packed)
    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def bmp(rows: np.ndarray, bits: int, palette: np.ndarray | None = None, top_down: bool = False) -> bytes:
    """A Windows bitmap of palette numbers (H, W) or of colours (H, W, 3)."""
    lines = []
    for row in rows if top_down else rows[::-1]:
        if bits >= 24:
            colours = row[:, ::-1] if bits == 24 else np.concatenate([row[:, ::-1], np.zeros_like(row[:, :1])], 1)
            packed = colours.tobytes()
        else:
            each = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
            packed = np.packbits(each.reshape(-1)).tobytes()
        lines.append(packed + bytes(-len(packed) % 4))
    table = b"" if palette is None else b"".join(bytes([b, g, r, 0]) for r, g, b in palette.tolist())
    body, offset = b"".join(lines), 54 + len(table)
    height, width = rows.shape[:2]
    sizes = (width, -height if top_down else height)
    info = struct.pack("<IiiHHIIiiII", 40, *sizes, 1, bits, 0, len(body), 2835, 2835, len(table) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + table + body


def tga(rows: np.ndarray, kind: int, bits: int, places: int, body: bytes | None = None) -> bytes:
    """A Targa file of gray (H, W) or of colours (H, W, 3 or 4); ``places`` are the bits that say which corner comes first."""
    height, width = rows.shape[:2]
    order = rows if rows.ndim == 2 else rows[..., [2, 1, 0, *range(3, rows.shape[2])]]
    order = order[::-1] if not places & 0x20 else order
    order = order[:, ::-1] if places & 0x10 else order
    header = struct.pack(
        "<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, width, height, bits, places | (8 if bits == 32 else 0)
    )
    return header + (np.ascontiguousarray(order).tobytes() if body is None else body)


def upright() -> Iterator[Odd]:
    """Eight orientations in every format that knows them."""
    for n in range(1, 9):
        yield Odd(
            f"{n}.jpg", partial(saved, SMOOTH, "JPEG", quality=98, subsampling=0, exif=exif_of(n)), turned(SMOOTH, n), 6
        )
        yield Odd(f"{n}.png", partial(saved, RGB, "PNG", exif=exif_of(n)), turned(RGB, n))
        yield Odd(f"{n}.webp", partial(saved, RGB, "WEBP", lossless=True, exif=exif_of(n)), turned(RGB, n))
        tag = [(274, 3, 1, n, True)]
        yield Odd(f"{n}.tif", partial(tiff, RGB, photometric="rgb", extratags=tag), turned(RGB, n))
        yield Odd(f"{n}-deep.tif", partial(tiff, DEEP, extratags=tag), turned(eight(DEEP, 0, 65535), n))
        yield Odd(
            f"{n}-lzw.tif", partial(saved, GRAY, "TIFF", compression="tiff_lzw", tiffinfo={274: n}), turned(GRAY, n)
        )
    for n in (0, 9, 255):  # no orientation that there is
        yield Odd(f"{n}-none.png", partial(saved, RGB, "PNG", exif=exif_of(n)), RGB)


def pngs() -> Iterator[Odd]:
    """Every colour type and depth of PNG, straight and interlaced, and the transparency of each."""
    table = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    for interlaced in (False, True):
        way = "interlaced" if interlaced else "straight"
        for bits in (1, 2, 4, 8, 16):
            most = 2**bits - 1
            numbers = DEEP & most
            shown = eight(numbers, 0, most)
            make = partial(png, numbers, 0, bits, interlaced=interlaced)
            yield Odd(f"gray-{bits}-{way}.png", make, shown)
            secret = int(numbers[3, 5])
            make = partial(png, numbers, 0, bits, interlaced=interlaced, before=[(b"tRNS", struct.pack(">H", secret))])
            yield Odd(f"gray-{bits}-{way}-secret.png", make, np.where(numbers == secret, 255, shown))
            if bits <= 8:
                palette = (b"PLTE", table[: most + 1].tobytes())
                yield Odd(
                    f"palette-{bits}-{way}.png",
                    partial(png, numbers, 3, bits, interlaced=interlaced, before=[palette]),
                    table[numbers],
                )
                opacity = RNG.integers(0, 256, most + 1, dtype=np.uint8)
                yield Odd(
                    f"palette-{bits}-{way}-opacity.png",
                    partial(
                        png, numbers, 3, bits, interlaced=interlaced, before=[palette, (b"tRNS", opacity.tobytes())]
                    ),
                    on_white(table[numbers], opacity[numbers] / 255),
                    1,
                )
            if bits < 8:
                continue
            gray, colours, opacity = (GRAY, RGB, OPACITY) if bits == 8 else (DEEP, DEEP_RGB, DEEP_OPACITY)
            yield Odd(
                f"gray-opacity-{bits}-{way}.png",
                partial(png, np.stack([gray, opacity], -1), 4, bits, interlaced=interlaced),
                on_white(eight(gray, 0, most), opacity / most),
                1,
            )
            yield Odd(
                f"colours-{bits}-{way}.png",
                partial(png, colours, 2, bits, interlaced=interlaced),
                eight(colours, 0, most),
            )
            secrets = (b"tRNS", struct.pack(">HHH", *colours[2, 2].tolist()))
            yield Odd(
                f"colours-{bits}-{way}-secret.png",
                partial(png, colours, 2, bits, interlaced=interlaced, before=[secrets]),
                np.where((colours == colours[2, 2]).all(-1)[..., None], 255, eight(colours, 0, most)),
            )
            yield Odd(
                f"colours-opacity-{bits}-{way}.png",
                partial(png, np.concatenate([colours, opacity[..., None]], -1), 6, bits, interlaced=interlaced),
                on_white(eight(colours, 0, most), opacity / most),
                1,
            )


def tiffs() -> Iterator[Odd]:
    """Numbers of every kind in both orders of bytes, and the ways in which they lie in a TIFF."""
    for order, letter in (("little", "<"), ("big", ">")):
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
            info = np.iinfo(name)
            values = RNG.integers(info.min, info.max, (13, 21), dtype=name, endpoint=True)
            yield Odd(
                f"{name}-{order}.tif", partial(tiff, values, byteorder=letter), eight(values, info.min, info.max), 0.51
            )
        for name in ("float16", "float32", "float64"):
            shares = RNG.random((13, 21)).astype(name)
            yield Odd(f"{name}-{order}.tif", partial(tiff, shares, byteorder=letter), eight(shares, 0, 1), 0.51)
        for planes, (colours, most) in itertools.product(
            ("contig", "separate"), ((RGB, 255), (DEEP_RGB, 65535), ((RGB / 255).astype(np.float32), 1))
        ):
            stored = colours if planes == "contig" else np.ascontiguousarray(colours.transpose(2, 0, 1))
            make = partial(tiff, stored, byteorder=letter, photometric="rgb", planarconfig=planes)
            yield Odd(f"colours-{colours.dtype}-{planes}-{order}.tif", make, eight(colours, 0, most), 0.51)
    for rows in (1, 5, 13):
        yield Odd(f"strips-of-{rows}.tif", partial(tiff, RGB, photometric="rgb", rowsperstrip=rows), RGB)
        yield Odd(f"deep-strips-of-{rows}.tif", partial(tiff, DEEP, rowsperstrip=rows), eight(DEEP, 0, 65535))
    yield Odd("tiles.tif", partial(tiff, RGB, photometric="rgb", tile=(16, 16)), RGB)
    yield Odd("deep-tiles.tif", partial(tiff, DEEP, tile=(16, 16)), eight(DEEP, 0, 65535))
    yield Odd("deflated.tif", partial(tiff, DEEP, compression="zlib"), eight(DEEP, 0, 65535))
    yield Odd(
        "predicted.tif",
        partial(tiff, DEEP_RGB, photometric="rgb", compression="zlib", predictor=2),
        eight(DEEP_RGB, 0, 65535),
    )
    yield Odd("big.tif", partial(tiff, RGB, photometric="rgb", bigtiff=True), RGB)
    yield Odd("deep-big.tiff", partial(tiff, DEEP, bigtiff=True), eight(DEEP, 0, 65535))
    for values, most in ((GRAY, 255), (DEEP, 65535)):
        make = partial(tiff, values, photometric="miniswhite")
        yield Odd(f"white-is-zero-{values.dtype}.tif", make, 255 - eight(values, 0, most))
    bits = GRAY > 127
    yield Odd("one-bit.tif", partial(saved, Image.fromarray(bits), "TIFF"), np.where(bits, 255, 0))
    yield Odd("fax.tif", partial(saved, Image.fromarray(bits), "TIFF", compression="group4"), np.where(bits, 255, 0))
    for packing in ("packbits", "tiff_lzw", "tiff_adobe_deflate"):
        yield Odd(f"{packing}.tif", partial(saved, RGB, "TIFF", compression=packing), RGB)
    smooth = Image.fromarray(SMOOTH)
    yield Odd("jpeg.tif", partial(saved, smooth, "TIFF", compression="jpeg", quality=98), SMOOTH, 12)
    table = RNG.integers(0, 256, (3, 256), dtype=np.uint8)
    make = partial(tiff, GRAY, photometric="palette", colormap=table.astype(np.uint16) * 257)
    yield Odd("palette.tif", make, table.T[GRAY])
    inks = np.concatenate([RGB, OPACITY[..., None]], -1)
    make = partial(tiff, inks, photometric="separated")
    yield Odd("inks.tif", make, (255.0 - RGB) * (255 - OPACITY[..., None]) / 255, 1.01)
    for colours, opacity, most in ((RGB, OPACITY, 255), (DEEP_RGB, DEEP_OPACITY, 65535)):
        both = np.concatenate([colours, opacity[..., None]], -1)
        make = partial(tiff, both, photometric="rgb", extrasamples=["unassalpha"])
        yield Odd(f"opacity-{both.dtype}.tif", make, on_white(eight(colours, 0, most), opacity / most), 1)
    less = (RGB * (OPACITY[..., None] / 255)).astype(np.uint8)
    make = partial(tiff, np.concatenate([less, OPACITY[..., None]], -1), photometric="rgb", extrasamples=["assocalpha"])
    yield Odd("premultiplied.tif", make, less + 255.0 - OPACITY[..., None], 1)
    twelve = DEEP & 4095
    numbers = twelve[:, :20].reshape(13, 10, 2).astype(np.uint32)
    packed = (numbers[..., 0] << 12 | numbers[..., 1])[..., None] >> np.array([16, 8, 0]) & 255
    yield Odd(
        "twelve-bits.tif",
        partial(plain_tiff, packed.astype(np.uint8).tobytes(), 20, 13, 12),
        eight(twelve[:, :20], 0, 4095),
    )
    holes = np.array([[0, 0.25, np.nan], [1, np.inf, -np.inf]], dtype=np.float32)
    yield Odd("no-numbers.tif", partial(tiff, holes), np.array([[0, 63.75, 0], [255, 255, 0]]))
    pages = [RGB, 255 - RGB]
    yield Odd(
        "pages.tif", lambda: saved(pages[0], "TIFF", save_all=True, append_images=[Image.fromarray(pages[1])]), RGB
    )


def plain_tiff(body: bytes, width: int, height: int, bits: int) -> bytes:
    """A gray TIFF of one strip, tag by tag."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpegs() -> Iterator[Odd]:
    save = partial(saved, SMOOTH, "JPEG", quality=98)
    for name, options in {
        "plain": {"subsampling": 0},
        "halved": {"subsampling": 2},
        "progressive": {"subsampling": 0, "progressive": True},
        "optimised": {"subsampling": 0, "optimize": True},
        "commented": {"subsampling": 0, "comment": b"x" * 65000},
        "damaged-icc": {"subsampling": 0, "icc_profile": b"no profile"},
        "damaged-exif": {"subsampling": 0, "exif": b"Exif\0\0II*\0\xff\xff\xff\x7f"},
        "random-exif": {"subsampling": 0, "exif": b"Exif\0\0MM\0*" + RNG.bytes(900)},
    }.items():
        yield Odd(f"{name}.jpg", partial(save, **options), SMOOTH, 12 if name == "halved" else 6)
    gray = SMOOTH[..., 0]
    yield Odd("gray.jpeg", partial(saved, gray, "JPEG", quality=98), gray, 4)
    inks = Image.fromarray(np.concatenate([SMOOTH, SMOOTH[..., :1] // 2], -1), mode=None).convert("RGB").convert("CMYK")
    ink = np.asarray(inks).astype(float)
    printed = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    yield Odd("inks.jpg", partial(saved, inks, "JPEG", quality=98, subsampling=0), printed, 8)
    yield Odd("trailing.jpg", lambda: save(subsampling=0) + b"\0" * 999, SMOOTH, 6)
    yield Odd("trailing-text.jpg", lambda: save(subsampling=0) + b"MOTION PHOTO" * 99, SMOOTH, 6)
    yield Odd(
        "preview.jpg",
        lambda: saved(SMOOTH, "MPO", save_all=True, append_images=[Image.fromarray(RGB)], quality=98),
        SMOOTH,
        12,
    )
    for side in (1, 7, 17):
        one = np.full((side, 2 * side, 3), (10, 200, 90), dtype=np.uint8)
        yield Odd(f"{side}-high.jpg", partial(saved, one, "JPEG", quality=98, subsampling=0), one, 3)


def others() -> Iterator[Odd]:
    """GIF, WebP, AVIF, JPEG 2000, bitmaps, Targa, PNM, NumPy, and first frames."""
    table = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    coloured = Image.fromarray(GRAY).convert("P")
    coloured.putpalette(table.tobytes())
    yield Odd("palette.gif", partial(saved, coloured, "GIF"), table[GRAY])
    secret = int(GRAY[4, 4])
    seen = np.where((secret == GRAY)[..., None], 255, table[GRAY])
    yield Odd("secret.gif", partial(saved, coloured, "GIF", transparency=secret), seen)
    yield Odd("gray.gif", partial(saved, GRAY, "GIF"), GRAY)
    more = [Image.fromarray(255 - GRAY)]
    yield Odd("frames.gif", partial(saved, GRAY, "GIF", save_all=True, append_images=more), GRAY)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
    yield Odd("frames.png", partial(saved, RGB, "PNG", **frames), RGB)
    yield Odd("frames.webp", partial(saved, RGB, "WEBP", lossless=True, **frames), RGB)
    both = np.concatenate([RGB, OPACITY[..., None]], -1)
    yield Odd("opacity.webp", partial(saved, both, "WEBP", lossless=True, exact=True), on_white(RGB, OPACITY / 255), 1)
    yield Odd("lossy.webp", partial(saved, SMOOTH, "WEBP", quality=99), SMOOTH, 16)
    yield Odd("colours.webp", partial(saved, RGB, "WEBP", lossless=True), RGB)
    if features.check("avif"):
        yield Odd("colours.avif", partial(saved, SMOOTH, "AVIF", quality=99, subsampling="4:4:4"), SMOOTH, 8)
        halves = np.concatenate([SMOOTH, np.full((48, 64, 1), 128, dtype=np.uint8)], -1)
        make = partial(saved, halves, "AVIF", quality=99, subsampling="4:4:4")
        yield Odd("opacity.avif", make, on_white(SMOOTH, np.full((48, 64), 128 / 255)), 8)
    if features.check("jpg_2000"):
        yield Odd("colours.jp2", partial(saved, RGB, "JPEG2000", irreversible=False), RGB)
        yield Odd("gray.jp2", partial(saved, GRAY, "JPEG2000", irreversible=False), GRAY)
        yield Odd("opacity.jp2", partial(saved, both, "JPEG2000", irreversible=False), on_white(RGB, OPACITY / 255), 1)
        deep = Image.fromarray(DEEP)
        yield Odd("deep.jp2", partial(saved, deep, "JPEG2000", irreversible=False), eight(DEEP, 0, 65535))
    for bits in (1, 4, 8):
        numbers = GRAY & (2**bits - 1)
        for top_down in (False, True):
            make = partial(bmp, numbers, bits, table[: 2**bits], top_down)
            yield Odd(f"palette-{bits}{'-top-down' * top_down}.bmp", make, table[numbers])
    for bits in (24, 32):
        for top_down in (False, True):
            yield Odd(f"colours-{bits}{'-top-down' * top_down}.bmp", partial(bmp, RGB, bits, None, top_down), RGB)
    yield Odd("runs.bmp", run_length_bmp, np.repeat(np.array([[7, 7, 7, 9], [1, 2, 3, 4]])[..., None] * 10, 3, -1))
    for places in (0, 0x20):
        yield Odd(f"gray-{places}.tga", partial(tga, GRAY, 3, 8, places), GRAY)
        yield Odd(f"colours-{places}.tga", partial(tga, RGB, 2, 24, places), RGB)
        yield Odd(f"opacity-{places}.tga", partial(tga, both, 2, 32, places), on_white(RGB, OPACITY / 255), 1)
    same = np.full((2, 5, 3), (250, 20, 3), dtype=np.uint8)
    yield Odd("runs.tga", partial(tga, same, 10, 24, 0x20, bytes([0x84, 3, 20, 250]) * 2), same)
    bits_shown = np.where(GRAY > 127, 0, 255)
    packed = np.packbits(GRAY > 127, axis=1).tobytes()
    yield Odd("bits.pbm", lambda: b"P4 21 13\n" + packed, bits_shown)
    yield Odd("bits-in-words.pbm", lambda: b"P1\n# 1 is black\n21 13\n" + words((GRAY > 127).astype(int)), bits_shown)
    yield Odd("gray.pgm", lambda: b"P5 21 13 255\n" + GRAY.tobytes(), GRAY)
    yield Odd("gray-in-words.pgm", lambda: b"P2 21 13 255\n" + words(GRAY), GRAY)
    for most in (100, 1023, 4095, 65535):
        numbers = (DEEP.astype(np.uint32) % (most + 1)).astype(">u2" if most > 255 else np.uint8)
        make = partial(b"".join, [f"P5 21 13 {most}\n".encode(), numbers.tobytes()])
        yield Odd(f"gray-{most}.pgm", make, eight(numbers, 0, most), 1)
    yield Odd("colours.ppm", lambda: b"P6 21 13 255\n" + RGB.tobytes(), RGB)
    yield Odd("colours-in-words.ppm", lambda: b"P3 21 13 255\n" + words(RGB), RGB)
    deep_rgb = DEEP_RGB.astype(">u2").tobytes()
    yield Odd("colours-deep.ppm", lambda: b"P6 21 13 65535\n" + deep_rgb, eight(DEEP_RGB, 0, 65535), 1)
    arrays: tuple[tuple[np.ndarray, float, float], ...] = (
        (RGB, 0, 255), (GRAY, 0, 255), (DEEP, 0, 65535), (DEEP.astype(">u2"), 0, 65535), (GRAY > 127, 0, 1),
        (DEEP.astype(np.int32) - 9, -(2**31), 2**31 - 1), ((GRAY / 255).astype(np.float32), 0, 1), (GRAY[..., None], 0, 255),
        (GRAY.view(np.int8), -128, 127), ((DEEP / 65535).astype(">f8"), 0, 1), (np.asfortranarray(RGB), 0, 255),
    )  # fmt: skip
    for number, (array, low, high) in enumerate(arrays):
        yield Odd(f"{number}-{array.dtype}.npy", partial(npy, array), eight(array.squeeze(), low, high), 0.51)
    yield Odd("bands-first.npy", partial(npy, np.ascontiguousarray(RGB.transpose(2, 0, 1))), RGB)


def words(numbers: np.ndarray) -> bytes:
    return " ".join(map(str, numbers.reshape(-1).tolist())).encode()


def run_length_bmp() -> bytes:
    """Two lines: three times 7 and a 9; 1, 2, 3, 4 as they are. The palette is gray, a number is ten levels."""
    table = b"".join(bytes([10 * i, 10 * i, 10 * i, 0]) for i in range(16))
    body = bytes([0, 4, 1, 2, 3, 4, 0, 0, 3, 7, 1, 9, 0, 0, 0, 1])  # from the bottom up
    offset = 54 + len(table)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(body), 0, 0, 16, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + table + body


def endings_and_names() -> Iterator[Odd]:
    """The content decides, whatever the name."""
    make = partial(saved, RGB, "PNG")
    for ending in ("jpg", "JPG", "jpeg", "jpe", "jfif", "PNG", "tif", "bmp", "gif", "webp", "ppm", "tga", "TIFF"):
        yield Odd(f"a-png.{ending}", make, RGB)
    for name in (
        "line\nbreak", "tab\t", "'quotes'", '"more"', "sp ace ", " first", "semi;colon", "$HOME", "`x`", "a&b", "[red]", "*?",
        "\N{GRINNING FACE}", "\N{CYRILLIC SMALL LETTER ZHE}", "\u202e", "\x1b[31m", "\udc80\udcff", "%s%n", "é" * 100, "-rf",
    ):  # fmt: skip
        yield Odd(f"{name}.png", make, RGB)


IMAGES = [*upright(), *pngs(), *tiffs(), *jpegs(), *others(), *endings_and_names()]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("odd", IMAGES, ids=lambda odd: odd.name.encode("ascii", "backslashreplace").decode())
def test_it_shows_what_its_format_says(odd: Odd, tmp_path: Path) -> None:
    path = tmp_path / odd.name
    path.write_bytes(odd.content())
    assert path.suffix.lower() in EXTENSIONS
    pixels, size = Reader(size=8).read(path)
    shown = odd.shown if odd.shown.ndim == 3 else np.repeat(odd.shown[..., None], 3, axis=-1)
    found = pixels.permute(1, 2, 0).numpy()
    assert found.shape == shown.shape and size == shown.shape[:2]
    away = np.abs(found.astype(np.float64) - shown)
    assert away.max() <= odd.within, f"{away.max()} levels at {np.unravel_index(away.argmax(), away.shape)}"
    assert Reader(size=8, fit="pad").square(path).shape == (3, 8, 8)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flipped(content: bytes, place: int) -> bytes:
    """One bit is another."""
    changed = bytearray(content)
    changed[place] ^= 16
    return bytes(changed)


def object_array() -> bytes:
    """What unpickling would make a folder of, were it done."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, ("trapped",)

    return npy(np.array([[Trap()]], dtype=object), allow_pickle=True)


def npy_header(text: str) -> bytes:
    header = text.encode().ljust(118 - 10) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def ifds(*offsets: int) -> bytes:
    """A TIFF of directories of one tag each, of which each says where the next one is."""
    content = b"II*\0" + struct.pack("<I", 8)
    for offset in offsets:
        content += struct.pack("<HHHII", 1, 256, 4, 1, 9) + struct.pack("<I", offset)
    return content


def few_strips(bits: int) -> bytes:
    """64 strips of one row, where 20,000 rows are said."""
    tags = {256: 64, 257: 20_000, 258: bits, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1, 279: 600}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 64 if tag in (273, 279) else 1, value) for tag, value in tags.items()
    )
    offsets, counts = (np.full(64, value, dtype="<u4").tobytes() for value in (900, 64 * bits // 8))
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return content.ljust(200, b"\0") + offsets.ljust(400, b"\0") + counts.ljust(300, b"\0") + bytes(9999)


def many_scans(progressive: bytes) -> bytes:
    """The last scan 200 times over."""
    return progressive[:-2] + progressive[progressive.rindex(b"\xff\xda") : -2] * 200 + b"\xff\xd9"


HUGE = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
NOISE = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
BAD: dict[str, Callable[[], bytes]] = {
    "empty.jpg": bytes,
    "one-byte.png": lambda: b"x",
    "page.jpg": lambda: b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "script.jpg": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "pdf.png": lambda: b"%PDF-1.7\n1 0 obj\n",
    "svg.png": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "archive.jpg": lambda: b"PK\x03\x04" + bytes(60),
    "pickle.jpg": lambda: b"\x80\x04\x95" + bytes(60),
    "noise.bmp": lambda: RNG.bytes(500),
    "zeros.tga": lambda: bytes(300),
    "pointer.jpg": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "cut.jpg": lambda: cut(saved(NOISE, "JPEG")),
    "cut.png": lambda: cut(saved(NOISE, "PNG")),
    "cut.gif": lambda: cut(saved(NOISE[..., 0], "GIF")),
    "cut.webp": lambda: cut(saved(NOISE, "WEBP", lossless=True)),
    "cut.bmp": lambda: cut(saved(NOISE, "BMP")),
    "cut.tif": lambda: cut(saved(NOISE, "TIFF")),
    "cut-deep.tif": lambda: cut(tiff(np.tile(DEEP, (9, 9)))),
    "cut.ppm": lambda: cut(b"P6 64 64 255\n" + NOISE.tobytes()),
    "cut.npy": lambda: cut(npy(NOISE)),
    "cut.jp2": lambda: saved(NOISE, "JPEG2000", irreversible=False)[:120],
    "cut.avif": lambda: cut(saved(NOISE, "AVIF")),
    "shifted.png": lambda: saved(RGB, "PNG").replace(b"IDAT", b"IDAT\x01", 1),
    "no-stream.png": lambda: (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)) + chunk(b"IDAT", bytes(99))
    ),
    "crc.png": lambda: flipped(saved(RGB, "PNG"), -20),
    "crc-header.png": lambda: flipped(saved(RGB, "PNG"), 30),
    "flipped.png": lambda: flipped(saved(RGB, "PNG"), 400),
    "flipped-palette.png": lambda: flipped(saved(Image.fromarray(GRAY).convert("P"), "PNG"), 60),
    "flipped-deep.png": lambda: flipped(saved(DEEP, "PNG"), 300),
    "header.jpg": lambda: b"\xff\xd8\xff\xe0" + bytes(16) + RNG.bytes(90),
    "bomb.png": lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", HUGE) + chunk(b"IDAT", zlib.compress(bytes(99))),
    "bomb.ppm": lambda: b"P6 90000 90000 255\n",
    "bomb.bmp": lambda: bmp(RGB, 24)[:18] + struct.pack("<ii", 10**6, 10**6) + bmp(RGB, 24)[26:],
    "bomb.tif": lambda: plain_tiff(b"", 10**6, 10**6, 8),
    "bomb-deep.tif": lambda: plain_tiff(b"", 2**31, 2**31, 16),
    "bomb.npy": lambda: npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
    "objects.npy": object_array,
    "negative.npy": lambda: npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-8, 8)}"),
    "code.npy": lambda: npy_header("__import__('os').mkdir('trapped')"),
    "bracket.npy": lambda: npy_header("(" * 100),
    "complex.npy": lambda: npy(np.zeros((4, 4), dtype=complex)),
    "words.npy": lambda: npy(np.array([["a", "b"]])),
    "five-axes.npy": lambda: npy(np.zeros((1, 2, 3, 4, 5), dtype=np.uint8)),
    "runs.bmp": lambda: run_length_bmp()[:18] + struct.pack("<ii", 9000, 9000) + run_length_bmp()[26:],
    "few-strips.tif": lambda: few_strips(8),
    "few-strips-deep.tif": lambda: few_strips(16),
    "scans.jpg": lambda: many_scans(saved(SMOOTH, "JPEG", progressive=True)),
    "circle.tif": lambda: ifds(26, 8),
    "no-strips.tif": lambda: ifds(0),
    "strips.tif": lambda: plain_tiff(b"", 64, 64, 8).replace(
        struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2**30)
    ),
}
"""Files that are no images, or none that can be taken: each must be refused by name, whatever its decoder does."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_taken_is_refused_by_name_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(BAD[name]())
    for channels in (1, 3, 5):
        with pytest.raises(DataError) as raised:
            Reader(size=8, channels=channels).square(path)
        assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    assert [file.name for file in tmp_path.iterdir()] == [name]  # nothing in it was run


def test_there_are_as_many_as_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    names = [odd.name for odd in IMAGES]
    assert len(set(names)) == len(names) >= 150
    with capsys.disabled():
        print(f"\n{len(IMAGES)} odd images compared, {len(BAD)} kinds of bad files refused")


def bad_among_good(root: Path) -> list[Path]:
    """120 good images in the folder's two parts, and one of each kind of bad ones in its training part."""
    for number in range(120):
        folder = root / ("test" if number % 10 > 7 else "train") / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"good-{number}.png").write_bytes(saved(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8), "PNG"))
    cats = root / "train" / "cats"
    for name, make in BAD.items():
        (cats / name).write_bytes(make())
    np.save(cats / "five-bands.npy", np.zeros((16, 16, 5), dtype=np.uint8))
    os.mkfifo(cats / "pipe.jpg")
    (cats / "to-nowhere.jpg").symlink_to("nowhere")
    (cats / "to-itself.jpg").symlink_to("to-itself.jpg")
    (cats / "[bold]$x$\n\x1b[31m.jpg").write_bytes(b"no image")
    (cats / "\udcff.jpg").write_bytes(b"no image")
    return sorted(path for path in cats.iterdir() if not path.name.startswith("good"))


WORDS = [
    "--data.broken", "skip", "--data.workers", "1", "--train.knn-every", "1", "--train.epochs", "2", "--train.evaluate",
    "--name", "bad",
]  # fmt: skip


def named_once(bad: Sequence[Path], said: str) -> None:
    """Each is in the log once, as text on one line, and in the list once."""
    listed = [json.loads(line) for line in Path("runs/bad/bad_images.jsonl").read_bytes().splitlines()]
    assert sorted(line["path"] for line in listed) == sorted(map(str, bad)) and len(bad) >= 30
    assert {line["when"] for line in listed} == {"start"}
    for path in bad:
        assert sum(line.strip().startswith(f"{printable(str(path))}: ") for line in said.splitlines()) == 1, path


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_thirty_kinds_of_bad_files_among_good_ones_are_each_named_once_and_trained_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    bad = bad_among_good(Path("pictures"))
    assert pretrain_command(*WORDS) == 0
    said = capsys.readouterr()
    named_once(bad, said.err)
    assert "Traceback" not in said.err + said.out and Path("runs/bad/result.json").exists()


def on_a_rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    os.chdir(folder)
    torch.set_num_threads(1)
    with open(f"{rank}.txt", "w", errors="backslashreplace") as file:  # noqa: PTH123
        sys.stderr = file
        print("exit", pretrain_command(*WORDS), file=file)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_two_processes_name_each_of_them_once_too(
    ranks: Callable[..., None], free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = bad_among_good(Path("pictures"))
    ranks(2, on_a_rank, free_port(), str(tmp_path))
    first, second = (Path(f"{rank}.txt").read_text() for rank in (0, 1))
    named_once(bad, first)
    assert first.endswith("exit 0\n") and second == "exit 0\n" and Path("runs/bad/result.json").exists()
