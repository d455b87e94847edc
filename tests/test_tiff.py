"""TIFF as instruments write it: every depth, sign, order of bytes and of bands, against the numbers that were written."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from simclr.data.decode import Reader, page_numbers
from simclr.data.tiff import tiff_pages
from simclr.errors import DataError


def eight(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What (H, W, ...) should become, by the words of ``Reader.value_range``."""
    share = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def read(path: Path, channels: int = 3, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W, C)."""
    reader = Reader(size=8, channels=channels, value_range=value_range)
    return reader.read(path)[0].permute(1, 2, 0).numpy()


def noise(dtype: str, *shape: int) -> np.ndarray:
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return random.uniform(0, 1, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "packing", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": 2}, {"tile": (16, 16)}]
)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_integers_of_every_kind_come_by_their_full_range(dtype: str, packing: dict, order: str, tmp_path: Path) -> None:
    values = noise(dtype, 40, 50)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", byteorder=order, **packing)
    expected = eight(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
    found = read(tmp_path / "x.tif")
    assert np.array_equal(found, np.stack([expected] * 3, -1))
    assert np.array_equal(read(tmp_path / "x.tif", 1), expected[..., None])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 3])
def test_floats_from_0_to_1_are_not_black(dtype: str, bands: int, tmp_path: Path) -> None:
    values = noise(dtype, 40, 50, bands).squeeze()
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack" if bands == 1 else "rgb")
    found = read(tmp_path / "x.tif")
    assert np.array_equal(found, np.broadcast_to(eight(values, 0, 1).reshape(40, 50, bands), (40, 50, 3)))
    assert len(np.unique(found)) > 200


def test_what_is_no_number_is_the_lower_end_and_infinity_the_upper(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 0.5, 2, -1]], dtype=np.float32)
    tifffile.imwrite(tmp_path / "x.tif", values)
    assert read(tmp_path / "x.tif", 1).flatten().tolist() == [0, 0, 255, 128, 255, 0]
    assert read(tmp_path / "x.tif", 1, (-1, 1)).flatten().tolist() == [0, 0, 255, 191, 255, 0]


def test_the_no_data_value_of_a_map_is_the_lower_end(tmp_path: Path) -> None:
    values = np.array([[-9999, 100, 200]], dtype=np.int16)
    tag = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(tmp_path / "x.tif", values, extratags=[tag])
    assert read(tmp_path / "x.tif", 1, (0, 200)).flatten().tolist() == [0, 128, 255]


def test_signed_values_below_zero_keep_their_order(tmp_path: Path) -> None:
    hounsfield = np.linspace(-1024, 3071, 256).round().astype(np.int16)[None]  # air, water, bone
    tifffile.imwrite(tmp_path / "x.tif", hounsfield)
    assert np.array_equal(read(tmp_path / "x.tif", 1, (-1024, 3071))[..., 0], np.arange(256)[None])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}])
def test_white_is_zero_is_turned_round(dtype: str, packing: dict, tmp_path: Path) -> None:
    values = noise(dtype, 20, 30)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="miniswhite", **packing)
    expected = 255 - eight(values, *((0, 1) if dtype == "float32" else (0, np.iinfo(dtype).max)))
    assert np.array_equal(read(tmp_path / "x.tif", 1)[..., 0], expected)


def test_white_is_zero_packed_by_lzw_is_turned_round(tmp_path: Path) -> None:
    values = noise("uint16", 20, 30)
    Image.fromarray(values).save(tmp_path / "x.tif", compression="tiff_lzw", tiffinfo={262: 0})
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.pages[0].photometric == 0
    assert np.array_equal(read(tmp_path / "x.tif", 1)[..., 0], 255 - eight(values, 0, 65535))


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_pillow_packs_is_read(dtype: str, packing: str, tmp_path: Path) -> None:
    values = noise(dtype, 20, 30)
    Image.fromarray(values).save(tmp_path / "x.tif", compression=packing)
    expected = eight(values, *((0, 1) if dtype == "float32" else (0, np.iinfo(dtype).max)))
    assert np.array_equal(read(tmp_path / "x.tif", 1)[..., 0], expected)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [2, 4, 5, 8])
def test_bands_are_taken_as_they_are_or_counted(
    bands: int, dtype: str, packing: dict, planar: str, tmp_path: Path
) -> None:
    values = noise(dtype, 20, 30, bands)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="minisblack", planarconfig=planar, **packing)
    expected = eight(values, *((0, 1) if dtype == "float32" else (0, np.iinfo(dtype).max)))
    assert np.array_equal(read(tmp_path / "x.tif", bands), expected)
    for channels in (3, 1, bands + 1):
        with pytest.raises(
            DataError, match=rf"x\.tif: {bands} bands, expected {channels} .*--data.channels {bands} takes all"
        ):
            read(tmp_path / "x.tif", channels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_near_infrared_behind_colours_is_not_taken_for_opacity(dtype: str, planar: str, tmp_path: Path) -> None:
    values = noise(dtype, 20, 30, 4)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["unspecified"], planarconfig=planar)
    with pytest.raises(DataError, match="4 bands, expected 3"):
        read(tmp_path / "x.tif")
    assert np.array_equal(read(tmp_path / "x.tif", 4), eight(values, 0, np.iinfo(dtype).max))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_opacity_of_any_depth_is_laid_on_white(kind: str, dtype: str, planar: str, tmp_path: Path) -> None:
    values = noise(dtype, 20, 30, 4)
    full = 1 if dtype == "float32" else np.iinfo(dtype).max
    opacity = values[..., 3:].astype(np.float64) / full
    if kind == "assocalpha":
        values[..., :3] = (values[..., :3] * opacity).astype(dtype)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=[kind], planarconfig=planar)
    colours = values[..., :3].astype(np.float64) / full
    expected = 255 * ((colours if kind == "assocalpha" else colours * opacity) + 1 - opacity)
    assert np.abs(read(tmp_path / "x.tif") - expected).max() < (2 if dtype == "uint8" else 1.1)  # Pillow's own rounding
    assert np.array_equal(read(tmp_path / "x.tif", 4), eight(values, 0, full))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_files_are_turned_as_their_tag_says(orientation: int, dtype: str, tmp_path: Path) -> None:
    values = noise(dtype, 20, 30)
    tifffile.imwrite(tmp_path / "x.tif", values, extratags=[(274, "H", 1, orientation, True)])
    as_eight = eight(values, 0, 1 if dtype == "float32" else np.iinfo(dtype).max)
    turn = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM]
    turn += [
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    ]
    method = turn[orientation - 1]
    image = Image.fromarray(as_eight)
    expected = np.array(image if method is None else image.transpose(method))
    pixels, own = Reader(size=8, channels=1).read(tmp_path / "x.tif")
    assert np.array_equal(pixels[0].numpy(), expected)
    assert own == expected.shape


@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": 2}])
def test_sixteen_bits_of_colours_keep_all_their_bits(packing: dict, tmp_path: Path) -> None:
    values = noise("uint16", 20, 30, 3) // 16  # 12 bits
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", **packing)
    assert np.array_equal(read(tmp_path / "x.tif", 3, (0, 4095)), eight(values, 0, 4095))


@pytest.mark.parametrize("bands", [3, 4])
def test_what_tifffile_cannot_unpack_here_comes_from_pillow_with_all_its_bits(
    bands: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = noise("uint16", 20, 30, bands)
    extra = ["unassalpha"] * (bands - 3)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extrasamples=extra, compression="zlib")
    whole = read(tmp_path / "x.tif", bands)

    def lacking(page: object, **_: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", lacking)
    assert np.array_equal(read(tmp_path / "x.tif", bands), whole)
    tifffile.imwrite(
        tmp_path / "x.tif",
        noise("uint16", 20, 30, 6),
        photometric="minisblack",
        planarconfig="contig",
        compression="zlib",
    )
    with pytest.raises(DataError, match=r"x\.tif: packed as ADOBE_DEFLATE, .*pip install imagecodecs"):
        read(tmp_path / "x.tif", 6)


def test_packed_values_of_12_bits_come_by_their_own_full_range(tmp_path: Path) -> None:
    values = np.arange(0, 4096, 4, dtype=np.uint16).reshape(16, 64)
    pairs = values.reshape(16, 32, 2).astype(np.uint32)
    joined = pairs[..., 0] << 12 | pairs[..., 1]
    stored = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], -1).astype(np.uint8).reshape(16, 96)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(64)
        file.pages[0].tags["BitsPerSample"].overwrite(12)
    assert np.array_equal(read(tmp_path / "x.tif", 1)[..., 0], eight(values, 0, 4095))


def test_complex_numbers_volumes_and_cut_files_are_refused_in_words(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "complex.tif", np.ones((20, 30), dtype=np.complex64))
    with pytest.raises(DataError, match=r"complex\.tif: its numbers are complex"):
        read(tmp_path / "complex.tif")
    tifffile.imwrite(tmp_path / "volume.tif", noise("uint16", 16, 32, 48), volumetric=True, tile=(16, 16, 16))
    with pytest.raises(DataError, match=r"volume\.tif: a volume of shape \(16, 32, 48\)"):
        read(tmp_path / "volume.tif")
    for packing in ({}, {"compression": "zlib"}):
        tifffile.imwrite(tmp_path / "cut.tif", noise("uint16", 64, 64), metadata=None, **packing)
        whole = (tmp_path / "cut.tif").read_bytes()
        (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"cut\.tif: "):
            read(tmp_path / "cut.tif")


def test_damaged_files_are_named_whatever_their_decoder_says(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "x.tif", noise("uint16", 16, 16, 4), photometric="rgb", compression="zlib", metadata=None
    )
    whole = (tmp_path / "x.tif").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(4, min(len(whole), 300), 3):
            damaged[place] = random.integers(256)
        (tmp_path / "x.tif").write_bytes(bytes(damaged))
        try:
            Reader(size=8, channels=4, max_pixels=100_000).read(tmp_path / "x.tif")
        except DataError as error:
            refused += 1
            assert "x.tif: " in str(error) and "\n" not in str(error)
    assert refused > 50


def directories(offsets: list[int]) -> bytes:
    """A TIFF whose directories, of one tag, say that the next one is there."""
    body = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 9, offset) for offset in offsets)
    return b"II*\0" + struct.pack("<I", 8) + body


def test_pages_are_counted_without_end_only_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(directories([26, 44, 0]))
    assert page_numbers(path) == (0, 1, 2)
    path.write_bytes(directories([26, 44, 26]))  # round and round
    assert page_numbers(path) == (0, 1, 2)
    path.write_bytes(directories([8 + 18 * number for number in range(1, 140_000)]))
    assert page_numbers(path) == (0,)
    with pytest.raises(ValueError, match="more than 131072 pages"), path.open("rb") as file:
        tiff_pages(file, "x.tif")
    for order in "<>":
        for big in (False, True):
            with tifffile.TiffWriter(path, byteorder=order, bigtiff=big) as writer:
                for kind in (0, 1, 0, 1, 0):
                    writer.write(noise("uint8", 9, 9), subfiletype=kind, metadata=None)
            assert page_numbers(path) == (0, 2, 4)


def test_a_strip_that_unpacks_to_far_more_than_its_pixels_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tif"
    pixels = noise("uint16", 40, 40)
    monkeypatch.setattr("simclr.data.tiff._MODEST", 0)
    monkeypatch.setattr("simclr.data.tiff._LARGEST_RATIO", 1 << 30)  # look at every strip
    tifffile.imwrite(path, pixels, compression="zlib", rowsperstrip=7)
    assert np.array_equal(read(path, 1), eight(pixels[..., None], 0, 65535))
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tag, count = file.pages[0].tags[273], file.pages[0].tags[279]
        at, counts_at = tag.valueoffset, count.valueoffset
    bomb = zlib.compress(bytes(1 << 20))
    changed = bytearray(content + bomb)
    changed[at : at + tag.valuebytecount // tag.count] = len(content).to_bytes(
        tag.valuebytecount // tag.count, "little"
    )
    size = count.valuebytecount // count.count
    changed[counts_at : counts_at + size] = len(bomb).to_bytes(size, "little")
    path.write_bytes(changed)
    with pytest.raises(DataError, match="unpacks to more than its pixels"):
        read(path, 1)
