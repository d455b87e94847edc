"""Crops, colours and the evaluation's resize beside torchvision's functions of the same parameters."""

from typing import Any

import pytest
import torch
from pictures import images, ours
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as theirs

from augment import preprocess

GIVEN = images()
PIXELS = GIVEN.float() / 255


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
def test_brightness(factor: float) -> None:
    near(ours(GIVEN, brightness=factor), theirs.adjust_brightness(PIXELS, factor))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
def test_contrast(factor: float) -> None:
    near(
        ours(GIVEN, contrast=factor), theirs.adjust_contrast(PIXELS, factor), 3e-4
    )  # their luma has four digits: 0.2989


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
def test_saturation(factor: float) -> None:
    near(ours(GIVEN, saturation=factor), theirs.adjust_saturation(PIXELS, factor), 3e-4)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.2, 0.5])
def test_hue(turns: float) -> None:
    near(ours(GIVEN, hue=turns), theirs.adjust_hue(PIXELS, turns), 1e-5)


def test_gray() -> None:
    near(ours(GIVEN, gray=True), theirs.rgb_to_grayscale(PIXELS, 3), 3e-4)


def test_mirror() -> None:
    near(ours(GIVEN, flip=True), theirs.horizontal_flip(PIXELS))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur(sigma: float) -> None:
    near(ours(GIVEN, blur=sigma), theirs.gaussian_blur(PIXELS, [3, 3], [sigma, sigma]))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [8, 24, 40])
@pytest.mark.parametrize("box", [(0, 0, 30, 24), (3, 5, 12, 10), (10, 0, 7, 20)])
def test_crop(box: tuple[int, int, int, int], size: int, antialias: bool) -> None:
    given = images(24, height=30)
    expected = theirs.resized_crop(given.float() / 255, *box, [size, size], antialias=antialias)
    near(ours(given, size=size, crop=list(box), settings={"antialias": antialias}), expected, 2e-5)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 33), (24, 24), (10, 90)])
@pytest.mark.parametrize("size", [16, 24, 50])
def test_the_evaluations_transform(size: int, height: int, width: int) -> None:
    given = images(width, height=height)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    chain: Any = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.Normalize(mean, std)])
    near(preprocess(given, size, mean, std), chain(given.float() / 255), 2e-5)
