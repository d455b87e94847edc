"""Each operation of the augmentation beside Kornia's of the same parameters: those of its functions, not our chain of them."""

import math
from typing import Any

import pytest
import torch
from kornia import color, enhance, filters, geometry
from pictures import images, ours

GIVEN = images()
PIXELS = GIVEN.float() / 255
BACKENDS = ["fused", "reference"]


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_brightness(backend: Any, factor: float) -> None:
    near(ours(GIVEN, backend, brightness=factor), enhance.adjust_brightness_accumulative(PIXELS, factor))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_contrast(backend: Any, factor: float) -> None:
    near(ours(GIVEN, backend, contrast=factor), enhance.adjust_contrast_with_mean_subtraction(PIXELS, factor))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_saturation(backend: Any, factor: float) -> None:
    near(ours(GIVEN, backend, saturation=factor), enhance.adjust_saturation_with_gray_subtraction(PIXELS, factor))


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.2, 0.5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_hue(backend: Any, turns: float) -> None:
    near(ours(GIVEN, backend, hue=turns), enhance.adjust_hue(PIXELS, turns * 2 * math.pi), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gray(backend: Any) -> None:
    near(ours(GIVEN, backend, gray=True), color.rgb_to_grayscale(PIXELS).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_mirror(backend: Any) -> None:
    near(ours(GIVEN, backend, flip=True), geometry.hflip(PIXELS))


@pytest.mark.parametrize("threshold", [0.21, 0.5, 0.9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_solarize(backend: Any, threshold: float) -> None:
    near(
        ours(GIVEN, backend, settings={"solarize_threshold": threshold}, solarize=True),
        enhance.solarize(PIXELS, threshold),
    )


@pytest.mark.parametrize("sigma", [0.2, 0.7, 2.0])
@pytest.mark.parametrize("kernel", [0.1, 0.3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_blur(backend: Any, kernel: float, sigma: float) -> None:
    taps = 2 * max(1, int(kernel * 24) // 2) + 1
    expected = filters.gaussian_blur2d(PIXELS, (taps, taps), (sigma, sigma), border_type="reflect")
    near(ours(GIVEN, backend, settings={"blur_kernel": kernel}, blur=sigma), expected)


@pytest.mark.parametrize(
    ("angle", "shift", "scale", "shear"),
    [(20.0, (0, 0), 1.0, 0.0), (0.0, (2.5, -1), 1.0, 0.0), (-7.0, (1, 2), 1.2, 5.0)],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_affine(backend: Any, angle: float, shift: tuple[float, float], scale: float, shear: float) -> None:
    batch = len(GIVEN)
    matrix = geometry.get_affine_matrix2d(
        torch.tensor([shift], dtype=torch.float32).repeat(batch, 1),
        torch.full((batch, 2), (24 - 1) / 2),
        torch.full((batch, 2), scale),
        torch.full((batch,), angle),
        sx=torch.full((batch,), math.radians(shear)),
    )
    expected = geometry.warp_affine(PIXELS, matrix[:, :2], (24, 24), align_corners=True)
    near(ours(GIVEN, backend, affine=[angle, *shift, scale, shear]), expected, 1e-4)


@pytest.mark.parametrize("box", [(0, 0, 24, 24), (3, 5, 12, 10), (10, 0, 7, 20)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_crop(backend: Any, box: tuple[int, int, int, int]) -> None:
    top, left, height, width = box
    expected = geometry.resize(
        PIXELS[:, :, top : top + height, left : left + width], (24, 24), interpolation="bilinear", align_corners=False
    )
    near(ours(GIVEN, backend, crop=list(box), settings={"antialias": False}), expected)
