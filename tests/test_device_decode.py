"""Decoding on the device: the same pictures as the workers' decoder, here by torchvision on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr.config import DataConfig
from simclr.data import Batches, EpochSampler, load_source
from simclr.data.decode import decode
from simclr.data.device_decode import decode_batch, read_for_device
from simclr.errors import ConfigError, DataError

CPU = torch.device("cpu")


def smooth(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return Image.fromarray((127 + 100 * np.stack(waves, -1)).astype(np.uint8))


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """JPEGs in colour, in gray, CMYK, turned by the camera, one of the stored size; a PNG."""
    paths = [tmp_path / name for name in ("a.jpg", "gray.jpg", "cmyk.jpg", "turned.jpg", "exact.jpg", "b.png")]
    smooth(90, 60).save(paths[0], quality=95)
    smooth(70, 70).convert("L").save(paths[1], quality=95)
    smooth(64, 80).convert("CMYK").save(paths[2], quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(50, 100).save(paths[3], quality=95, exif=exif)
    smooth(32, 32).save(paths[4], quality=95)
    smooth(40, 44).save(paths[5])
    return paths


def test_the_pictures_are_those_of_the_workers(mixed: list[Path]) -> None:
    read = [read_for_device(path, 32) for path in mixed]
    assert [item.ndim for item in read] == [1, 1, 3, 3, 1, 3]  # what nvJPEG does not do right is decoded at once
    together = decode_batch(read, mixed, 32, CPU)
    assert together.shape == (6, 3, 32, 32) and together.dtype == torch.uint8
    for path, pixels in zip(mixed, together):
        difference = (decode(path, 32).float() - pixels.float()).abs()
        assert difference.mean() < 2 and difference.max() < 16, path


def test_a_broken_jpeg_is_named(mixed: list[Path]) -> None:
    whole = mixed[0].read_bytes()
    mixed[0].write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match=r"a\.jpg"):
        decode_batch([read_for_device(path, 32) for path in mixed], mixed, 32, CPU)
    mixed[0].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg"):
        read_for_device(mixed[0], 32)
    mixed[0].unlink()
    with pytest.raises(DataError, match=r"a\.jpg"):
        read_for_device(mixed[0], 32)


def test_the_loader_gives_the_same_batches(mixed: list[Path]) -> None:
    images = load_source(DataConfig(source="folder", path=mixed[0].parent, size=32, test_fraction=0.2), "train")
    sampler = EpochSampler(images=len(images), batch_size=2, seed=0)
    options = {"start": 0, "stop": 4, "workers": 0}
    plain = list(Batches(images, sampler, CPU, **options))
    batches = Batches(images, sampler, CPU, **options)
    batches.on_device = True  # refused without CUDA when asked for by config
    for a, b in zip(plain, batches, strict=True):
        assert torch.equal(a.indices, b.indices)
        assert (a.images.float() - b.images.float()).abs().mean() < 2
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        Batches(images, sampler, CPU, **options, decode="gpu")


def test_a_jpeg_that_breaks_is_replaced_as_the_workers_would(mixed: list[Path]) -> None:
    """Its header is whole, so that only the device finds out."""
    images = load_source(
        DataConfig(source="folder", path=mixed[0].parent, size=32, test_fraction=0.2, broken="skip"), "train"
    )
    whole = mixed[0].read_bytes()
    mixed[0].write_bytes(whole[: len(whole) // 2])
    sampler = EpochSampler(images=len(images), batch_size=2, seed=0)
    options = {"start": 0, "stop": 6, "workers": 0}
    plain, batches = Batches(images, sampler, CPU, **options), Batches(images, sampler, CPU, **options)
    batches.on_device = True
    said: list[str] = []
    batches.left_out.say = said.append
    for a, b in zip(plain, batches, strict=True):
        assert torch.equal(a.indices, b.indices)
    assert len(said) == 1 and str(mixed[0]) in said[0]
