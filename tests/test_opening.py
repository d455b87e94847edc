"""Files from the outside: what is opened, what is not, how large it may be, which page, and every value that was written."""

import os
import stat
import struct
import subprocess
import sys
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile

from simclr.data import opening, pillow_open
from simclr.data.cut import cut_views
from simclr.data.decode import Reader, page_count
from simclr.data.opening import open_picture, page_numbers
from simclr.errors import DataError


def read(path: Path, channels: int = 3, page: int = 0, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W, C)."""
    reader = Reader(size=8, channels=channels, value_range=value_range)
    return reader.read(path, page)[0].permute(1, 2, 0).numpy()


def png(path: Path, rows: np.ndarray, colour: int, *, secret: bytes = b"", interlaced: bool = False) -> None:
    """Write (H, W) or (H, W, C) uint16 as the PNG specification says, with filter 0 and 1 by turns."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, *bands = rows.shape
    each = 2 * (bands[0] if bands else 1)
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = []
    for top, left, down, across in adam7 if interlaced else [(0, 0, 1, 1)]:
        for number, row in enumerate(rows[top::down, left::across]):
            line = np.frombuffer(row.astype(">u2").tobytes(), dtype=np.uint8)
            if number % 2:
                line = line - np.concatenate([np.zeros(each, dtype=np.uint8), line[:-each]])
            lines.append(bytes([number % 2]) + line.tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    secrets = chunk(b"tRNS", secret) if secret else b""
    content = chunk(b"IHDR", header) + secrets + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def noise(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "bands"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_a_png_of_16_bits_keeps_all_of_them(colour: int, bands: int, interlaced: bool, tmp_path: Path) -> None:
    values = noise(21, 30, bands) // 16
    png(tmp_path / "x.png", values.squeeze(), colour, interlaced=interlaced)
    expected = np.rint(values / 4095 * 255).astype(np.uint8)
    assert np.array_equal(read(tmp_path / "x.png", bands, value_range=(0, 4095)), expected)
    assert np.array_equal(read(tmp_path / "x.png", bands), np.rint(values / 65535 * 255).astype(np.uint8))
    if bands in (2, 4):
        opacity = values[..., -1:] / 65535
        on_white = expected[..., :-1] * opacity + 255 * (1 - opacity)
        assert np.abs(read(tmp_path / "x.png", 3, value_range=(0, 4095)) - on_white).max() < 1


@pytest.mark.parametrize(("colour", "bands"), [(0, 1), (2, 3)])
def test_the_transparent_colour_of_a_png_of_16_bits_is_white_and_no_other_is(
    colour: int, bands: int, tmp_path: Path
) -> None:
    values = np.full((6, 6, bands), 0x1234, dtype=np.uint16)
    values[2, 3] = 0x1235  # of another lower half
    png(tmp_path / "x.png", values.squeeze(), colour, secret=struct.pack(">H", 0x1235) * bands)
    found = read(tmp_path / "x.png")
    assert found[2, 3].tolist() == [255] * 3
    found[2, 3] = round(0x1234 / 257)
    assert np.unique(found).tolist() == [round(0x1234 / 257)]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_of_8_bits_is_laid_on_white_or_taken_as_a_band(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (200, 200, 200, 255))
    image.putpixel((1, 2), (0, 0, 0, 0))
    suffix = "gif" if mode == "P" else "tga" if mode == "LA" else "png"
    path = tmp_path / f"x.{suffix}"
    (image if mode in ("RGBA", "P") else image.convert("LA")).save(path)
    for channels in (1, 3):
        found = read(path, channels)
        assert found[2, 1].tolist() == [255] * channels
        found[2, 1] = 200
        assert np.unique(found).tolist() == [200]
    own = 2 if mode in ("LA", "PA") else 4
    assert read(path, own)[2, 1].tolist()[-1] == 0 and read(path, own)[0, 0].tolist() == [200] * (own - 1) + [255]


@pytest.mark.parametrize(("mode", "bands"), [("L", 1), ("RGB", 3), ("RGBA", 4), ("LA", 2), ("1", 1)])
def test_bands_that_do_not_fit_are_counted(mode: str, bands: int, tmp_path: Path) -> None:
    Image.new(mode, (5, 4)).save(tmp_path / "x.png")
    counted = "1 band" if bands == 1 else f"{bands} bands"
    with pytest.raises(
        DataError, match=rf"x\.png: {counted}, expected 7 \(data\.channels\); --data\.channels {bands} takes"
    ):
        read(tmp_path / "x.png", 7)
    assert read(tmp_path / "x.png", 3).shape == (4, 5, 3)
    assert read(tmp_path / "x.png", 1).shape == (4, 5, 1)


def test_one_channel_is_the_luma_of_colours(tmp_path: Path) -> None:
    colours = noise(9, 9, 3, dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", colours.astype(np.float32) / 255, photometric="rgb")
    luma = colours @ np.array([0.299, 0.587, 0.114])
    for name in ("x.png", "x.tif"):
        assert np.abs(read(tmp_path / name, 1)[..., 0] - luma).max() <= 0.51


def test_a_range_is_for_8_bits_too_unless_it_is_for_deep_files_alone(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8)[None]
    expected = np.rint(np.clip((values.astype(float) - 50) / 100, 0, 1) * 255)[0]
    for mode in ("L", "RGB", "P", "LA", "RGBA"):
        Image.fromarray(values).convert(mode).save(tmp_path / "x.png")
        for channels in (1, 3):
            assert np.array_equal(read(tmp_path / "x.png", channels, value_range=(50, 150))[0, :, 0], expected), mode
            deep = Reader(size=8, channels=channels, value_range=(50, 150), deep_only=True)
            assert np.array_equal(deep.read(tmp_path / "x.png")[0][0, 0], values[0])


def test_a_pgm_of_more_than_8_bits_comes_by_the_largest_value_it_names(tmp_path: Path) -> None:
    values = np.array([0, 1000, 4095], dtype=">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 4095\n" + values.tobytes())
    assert read(tmp_path / "x.pgm", 1).flatten().tolist() == [0, round(1000 / 4095 * 255), 255]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int32", "float16", "float32", ">f8", ">u2"])
def test_numpy_arrays_are_read_whatever_the_order_of_their_axes(dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (20, 30, 5))
    kind = np.dtype(dtype)
    low, high = (0, 1) if kind.kind in "fb" else (np.iinfo(kind).min, np.iinfo(kind).max)
    stored = ((values > 0.5) if kind.kind == "b" else low + values * (high - low)).astype(kind)
    expected = np.rint((stored.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)
    path = tmp_path / "x.npy"
    for array in (stored, stored.transpose(2, 0, 1), np.asfortranarray(stored)):
        np.save(path, array)
        assert np.array_equal(read(path, 5), expected)
    np.save(path, stored[..., 0])
    assert np.array_equal(read(path, 3), np.repeat(expected[..., :1], 3, -1))
    for array in (stored[..., :3], stored[..., :3].transpose(2, 0, 1)):
        np.save(path, array)
        assert np.array_equal(read(path, 3), expected[..., :3])
    with pytest.raises(DataError, match=r"x\.npy: 3 bands, expected 4"):
        read(path, 4)


def test_arrays_that_are_no_image_are_refused_in_words_and_run_no_code(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "objects.npy", np.array([Bad()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "vector.npy", np.zeros(5))
    np.save(tmp_path / "batch.npy", np.zeros((2, 3, 4, 4)))
    np.save(tmp_path / "complex.npy", np.zeros((4, 4), dtype=np.complex64))
    np.save(tmp_path / "empty.npy", np.zeros((0, 4)))
    (tmp_path / "text.npy").write_text("not an array")
    np.save(tmp_path / "cut.npy", np.zeros((40, 40)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    expected = {
        "objects": "Python objects, which are not loaded",
        "vector": r"shape \(5,\); expected \(H, W\), \(H, W, C\) or \(C, H, W\)",
        "batch": r"shape \(2, 3, 4, 4\)",
        "complex": "holds complex64",
        "empty": r"shape \(0, 4\)",
        "text": "holds no whole NumPy array",
        "cut": "holds no whole NumPy array",
    }
    for name, words in expected.items():
        with pytest.raises(DataError, match=rf"{name}\.npy: .*{words}"):
            read(tmp_path / f"{name}.npy")
    assert not (tmp_path / "ran").exists()


def test_postscript_by_any_name_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    subprocess.run(["gs"], check=True)
    (tmp_path / "started").unlink()  # it would have been seen
    for name in ("x.jpg", "x.eps", "x.png", "x.tif"):
        (tmp_path / name).write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
        )
        with pytest.raises(DataError, match="not an image that can be read"):
            read(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tif", "deep.tif", "npy"])
def test_a_large_image_is_refused_by_its_header_and_taken_when_it_may_be(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, np.zeros((30, 50), dtype=np.uint8))
    elif kind == "deep.tif":
        tifffile.imwrite(path, np.zeros((30, 50), dtype=np.uint16))
    else:
        Image.new("RGB", (50, 30)).save(path)
    words = r"50 x 30 is 0\.0015 megapixels, more than data\.max_pixels 1499; --data\.max-pixels 1500 takes it"
    with pytest.raises(DataError, match=words):
        Reader(size=8, max_pixels=1499).square(path)
    assert Reader(size=8, max_pixels=1500).square(path).shape == (3, 8, 8)


def test_the_refusal_of_a_large_image_says_how_large_and_which_setting_takes_it(tmp_path: Path) -> None:
    png(tmp_path / "x.png", noise(2, 2), 0)
    small = (tmp_path / "x.png").read_bytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 15_000, 16, 0, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])
    with pytest.raises(DataError) as error:
        read(tmp_path / "x.png")
    assert str(error.value) == (
        f"{tmp_path}/x.png: 20000 x 15000 is 300 megapixels, more than data.max_pixels 178956970; "
        "--data.max-pixels 300000000 takes it"
    )


def test_what_pillow_calls_a_bomb_is_decoded_where_the_setting_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit is made small instead of the image large; beyond it Pillow warns, and beyond twice of it raises.
    Image.new("RGB", (64, 64), "red").save(tmp_path / "x.png")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    for name in ("x.gif", "x.webp", "x.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    Image.new("RGB", (90, 64)).save(tmp_path / "tiled.tif", compression="tiff_lzw")
    for limit in (1, 3000, 100_000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in ("x.png", "x.gif", "x.webp", "x.tif", "tiled.tif"):
                page = 0 if name in ("x.png", "tiled.tif") else 2
                assert Reader(size=8).square(tmp_path / name, page).shape == (3, 8, 8)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_of_the_user_is_as_before_after_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "large.webp")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "large.gif")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "small.png")
    (tmp_path / "cut.webp").write_bytes((tmp_path / "large.webp").read_bytes()[:40])
    names = ["large.webp", "large.gif", "small.png", "cut.webp"] * 50

    def one(name: str) -> bool:
        try:
            return Reader(size=8).square(tmp_path / name).shape == (3, 8, 8)
        except DataError:
            return name == "cut.webp"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, names))
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=repr)
def test_too_little_memory_behind_the_decoder_names_the_file_too(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")

    def short(*args: object, **more: object) -> None:
        raise error

    reader = Reader(size=8)
    for target in ("simclr.data.decode.square_of", "simclr.data.decode.np.array", "simclr.data.cut._resized"):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=r"x\.png: not enough memory"):
            patch.setattr(target, short)
            if target.endswith("square_of"):
                reader.square(tmp_path / "x.png")
            elif target.endswith("_resized"):
                cut_views(reader, tmp_path / "x.png", 0, lambda h, w: torch.tensor([[0, 0, h, w]]), 8)
            else:
                reader.read(tmp_path / "x.png")


def test_too_little_memory_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "x.png")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(DataError, match=r"x\.png: not enough memory"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif", "deep.tif"])
def test_every_page_of_a_file_can_be_had_in_any_order(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "deep.tif":
        tifffile.imwrite(
            path,
            np.stack([np.full((20, 20), v * 257, dtype=np.uint16) for v in (10, 100, 200)]),
            photometric="minisblack",
        )
    else:
        frames = [Image.new("RGB", (20, 20), (v, v, v)) for v in (10, 100, 200)]
        lossless = {"lossless": True} if kind == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    assert page_count(path) == 3
    for page in (2, 0, 1):
        assert np.unique(read(path, page=page)).tolist() == [(10, 100, 200)[page]]
    with pytest.raises(DataError, match=r"no page 3, counted from 0; it has 3"):
        read(path, page=3)


def test_a_frame_of_an_animation_is_what_a_viewer_shows(tmp_path: Path) -> None:
    whole = Image.new("RGB", (20, 20), (255, 0, 0))
    changed = whole.copy()
    changed.paste((0, 0, 255), (5, 5, 9, 9))
    whole.save(
        tmp_path / "x.gif", save_all=True, append_images=[changed]
    )  # the second frame holds the changed part alone
    assert np.array_equal(read(tmp_path / "x.gif", page=1), np.array(changed))


def test_reduced_copies_in_a_tiff_are_no_pages_and_broken_files_have_one(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(noise(64, 64), subfiletype=0)
        file.write(noise(32, 32), subfiletype=1)
        file.write(noise(64, 64), subfiletype=0)
    assert page_numbers(tmp_path / "x.tif") == (0, 2)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and no more")
    (tmp_path / "x.jpg").write_bytes(b"")
    assert (
        page_count(tmp_path / "broken.tif")
        == page_count(tmp_path / "x.jpg")
        == page_count(tmp_path / "missing.gif")
        == 1
    )


def test_the_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    values = noise(20, 30)
    tifffile.imwrite(tmp_path / "x.png", values)
    png(tmp_path / "x.tif", values, 0)
    expected = np.rint(values / 257).astype(np.uint8)[..., None]
    for name in ("x.png", "x.tif"):
        assert np.array_equal(read(tmp_path / name, 1), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "raw.tif", "lzw.tif", "gray.tif"])
def test_height_and_width_are_those_of_the_upright_picture(kind: str, orientation: int, tmp_path: Path) -> None:
    picture = Image.fromarray(noise(24, 40, 3, dtype=np.uint8))
    if kind == "gray.tif":
        picture = picture.convert("L")
    path = tmp_path / f"x.{kind}"
    exif = picture.getexif()
    exif[0x0112] = orientation
    if kind.endswith("tif"):
        picture.save(path, tiffinfo={274: orientation}, compression="tiff_lzw" if kind == "lzw.tif" else "raw")
    else:
        picture.save(path, exif=exif)
    turn = [None, *(Image.Transpose[n] for n in ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE"))]
    turn += [Image.Transpose[n] for n in ("ROTATE_270", "TRANSVERSE", "ROTATE_90")]
    method = turn[orientation - 1]
    with Image.open(path) as image:
        upright = np.array((picture if method is None else picture.transpose(method)).convert("RGB"))
        assert image.format is not None
    pixels, own = Reader(size=8).read(path)
    assert own == upright.shape[:2] == tuple(pixels.shape[1:])
    if kind.endswith(("png", "tif")):
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), upright)


def test_heic_is_read_where_its_package_is_and_names_it_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(pillow_open, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"x\.jpg: a HEIC image, .*pip install pillow-heif"):
        read(path)

    class Heif(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (6, 4), "RGB"

        def load(self) -> None:
            if not self._im:
                self.im = Image.new("RGB", (6, 4), "red").im

    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = lambda: Image.OPEN.update(HEIF=(Heif, None))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(pillow_open, "find_spec", lambda name: True)
    assert read(path)[0, 0].tolist() == [255, 0, 0]
    Image.OPEN.pop("HEIF")


def test_the_second_picture_in_a_cameras_jpeg_is_no_page(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(64, 64, 3, dtype=np.uint8))
    picture.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[picture.resize((16, 16))])
    assert page_count(tmp_path / "x.jpg") == 1
    with Image.open(tmp_path / "x.jpg") as image:
        assert np.array_equal(read(tmp_path / "x.jpg"), np.array(image))


def test_new_endings_are_those_of_formats_that_are_read(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(16, 16, 3, dtype=np.uint8))
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000", ".tga": "TGA", ".pnm": "PPM", ".apng": "PNG"}
    for ending, kind in kinds.items():
        assert ending in opening.EXTENSIONS
        picture.save(tmp_path / f"x{ending}", format=kind)
        assert Reader(size=8).square(tmp_path / f"x{ending}").shape == (3, 8, 8)


def test_the_header_is_read_without_the_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (50, 30)).save(tmp_path / "x.jpg")
    np.save(tmp_path / "x.npy", noise(30, 50, 4))
    tifffile.imwrite(tmp_path / "x.tif", noise(30, 50, 4), photometric="rgb")
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: whole.index(b"\xff\xda")])  # where the pixels begin
    Image.new("RGB", (50, 30)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:50])
    with open_picture(tmp_path / "cut.png", 0, 1500) as opened:
        assert (opened.kind, opened.pixels) == ("PNG RGB", 1500)
    found = {}
    for name in ("x.jpg", "x.npy", "x.tif"):
        with open_picture(tmp_path / name, 0, 10**6) as opened:
            found[name] = (opened.kind, opened.shape(), opened.deep)
    assert found["x.jpg"] == ("JPEG RGB", (30, 50), "")
    assert found["x.npy"] == ("NPY (30, 50, 4) uint16", (30, 50), "uint16")
    assert found["x.tif"] == ("TIFF 4 x uint16", (30, 50), "uint16")


def test_what_is_read_may_be_written_to_and_is_the_callers_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(16, 16, 3, dtype=np.uint8))
    before = (tmp_path / "x.npy").read_bytes()
    pixels = Reader(size=16).read(tmp_path / "x.npy")[0]
    pixels.zero_()
    square = Reader(size=16).square(tmp_path / "x.npy")
    assert square.any() and torch.equal(square, Reader(size=16).read(tmp_path / "x.npy")[0])
    square.zero_()
    assert (tmp_path / "x.npy").read_bytes() == before


def test_lines_are_not_put_together_from_small_blocks(tmp_path: Path) -> None:
    """Pillow copies what it has of a line with every block: for one of 50 million pixels that takes hours."""
    (tmp_path / "x.ppm").write_bytes(b"P6 5000000 1 255\n" + bytes(15_000_000))
    with (tmp_path / "x.ppm").open("rb") as file:
        assert pillow_open.open_image(file, file.read(32)).decodermaxblock >= 15_000_000


def test_a_telephones_heic_is_read_by_its_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    colours = np.zeros((48, 64, 3), dtype=np.uint8)
    colours[:24, :32], colours[24:] = (250, 0, 0), (0, 0, 250)
    half = np.full((48, 64, 1), 128, dtype=np.uint8)
    heif.from_pillow(Image.fromarray(colours)).save(tmp_path / "x.HEIC", quality=95)
    heif.from_pillow(Image.fromarray(np.concatenate([colours, half], -1))).save(tmp_path / "y.heic", quality=95)
    assert ".heic" in opening.EXTENSIONS
    for name, shown in (("x.HEIC", colours), ("y.heic", colours * (128 / 255) + 255 * (1 - 128 / 255))):
        assert np.abs(read(tmp_path / name)[4::20, 4::20] - shown[4::20, 4::20]).max() < 6
    (tmp_path / "x.HEIC").write_bytes((tmp_path / "x.HEIC").read_bytes()[:300])
    with pytest.raises(DataError, match=r"x\.HEIC: "):
        read(tmp_path / "x.HEIC")
