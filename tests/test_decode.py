"""Decoding: every mode and size ends as RGB uint8 of the stored size, and what is broken is named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, features
from torchvision.transforms import functional as tv

from simclr.data.decode import decode
from simclr.errors import ConfigError, DataError


def gradient(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, 0 * x + 128], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((30, 30), 30_000, dtype=np.uint16))
    else:
        image = gradient(30, 30).convert("L").convert(mode) if mode == "F" else gradient(30, 30).convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F") else "x.png")
    image.save(path)
    pixels = decode(path, 30)
    assert pixels.shape == (3, 30, 30)
    assert pixels.dtype == torch.uint8
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.array(gradient(30, 30)))
    if mode == "I;16":
        assert pixels.unique().tolist() == [round(30_000 / 65_535 * 255)]


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (20, 20), (9, 300)])
def test_shorter_side_then_centre(height: int, width: int, tmp_path: Path) -> None:
    gradient(height, width).save(tmp_path / "x.png")
    found = decode(tmp_path / "x.png", 16).float()
    image = tv.center_crop(tv.resize(tv.pil_to_tensor(gradient(height, width)), 16, antialias=True), [16, 16]).float()
    # Both are antialiased bilinear; they may round a size or a border by one.
    assert (found - image).abs().mean() < 4


def test_transparent_pixels_are_white_and_cameras_turn(tmp_path: Path) -> None:
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode(tmp_path / "clear.png", 10).unique().tolist() == [255]
    picture = gradient(20, 20)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to show
    picture.save(tmp_path / "turned.png", exif=exif)
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1).rot90(-1, (1, 2))
    assert torch.equal(decode(tmp_path / "turned.png", 20), expected)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "missing"])
def test_a_broken_file_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    gradient(64, 64).save(path, quality=95)
    if damage == "text":
        path.write_text("not a picture")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.unlink()
    with pytest.raises(DataError, match=r"photo\.jpg") as error:
        decode(path, 32)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_named_though_its_decoder_raises_another_error(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    gradient(64, 64).save(path, format="avif")
    whole = path.read_bytes()
    raised = set()
    for start in range(0, len(whole), 8):
        path.write_bytes(whole[:start] + bytes(b ^ 255 for b in whole[start : start + 8]) + whole[start + 8 :])
        try:
            with Image.open(path) as image:
                image.load()
        except Exception as error:
            raised.add(type(error))
            with pytest.raises(DataError, match=r"photo\.jpg"):
                decode(path, 32)
    assert RuntimeError in raised, "no damage shows what this test is about"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.jpg: not a regular file"):
        decode(tmp_path / "x.jpg", 32)


def test_pillows_leave_to_take_cut_files_for_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient(64, 64).save(tmp_path / "photo.jpg")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES is set"):
        decode(tmp_path / "photo.jpg", 32)
