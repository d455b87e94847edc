"""The deterministic transform equals torchvision's Resize, CenterCrop and Normalize on float images."""

import pytest
import torch
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional

from augment import preprocess


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 32), (64, 64, 32), (50, 75, 32), (75, 51, 32), (20, 31, 32), (33, 32, 32), (9, 8, 8)],
)
def test_equals_torchvision(channels: int, height: int, width: int, size: int) -> None:
    images = torch.randint(256, (3, channels, height, width), dtype=torch.uint8)
    mean, std = [0.4] * channels, [0.3] * channels
    pipeline = transforms.Compose(
        [
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Resize(size, antialias=True),
            transforms.CenterCrop(size),
            transforms.Normalize(mean, std),
        ]
    )
    ours = preprocess(images, size, mean, std)
    assert ours.shape == (3, channels, size, size) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, pipeline(images), atol=1e-5, rtol=0)


def test_images_of_the_right_size_keep_their_values() -> None:
    images = torch.randint(256, (4, 3, 24, 24), dtype=torch.uint8)
    assert torch.equal(preprocess(images, 24), images.float() / 255)
    assert torch.equal(preprocess(images.float() / 255, 24), images.float() / 255)


def test_uint8_and_float_mean_the_same_and_the_input_is_not_changed() -> None:
    images = torch.randint(256, (2, 3, 40, 30), dtype=torch.uint8)
    floats = images.float() / 255
    kept = floats.clone()
    torch.testing.assert_close(preprocess(images, 16, [0.5], [0.5]), preprocess(floats, 16, (0.5,), (0.5,)))
    assert torch.equal(floats, kept)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"expected \(B, C, H, W\)"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, TypeError, "uint8, or floating point"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"fit": "squash"}, ValueError, "fit is .squash.: expected one of .crop., .pad., .stretch."),
        ({"mean": (0.5,)}, ValueError, "both or neither"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, ValueError, "mean has 2 values: expected 1 or 3"),
    ],
)
def test_bad_input_is_named(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        preprocess(**{"images": torch.zeros(1, 3, 8, 8), "size": 8, **arguments})


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 41), (20, 21), (32, 32)])
def test_pad_shows_all_of_an_image_centred_on_black(height: int, width: int) -> None:
    images = torch.rand(2, 4, height, width) * 0.9 + 0.1
    ours = preprocess(images, 32, fit="pad")
    scale = 32 / max(height, width)
    inner = [round(height * scale), round(width * scale)]
    resized = functional.resize(images, inner, antialias=True)
    top, left = (32 - inner[0]) // 2, (32 - inner[1]) // 2
    expected = torch.zeros(2, 4, 32, 32)
    expected[..., top : top + inner[0], left : left + inner[1]] = resized
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    black = preprocess(images, 32, [0.5], [0.25], fit="pad")
    torch.testing.assert_close(black, (expected - 0.5) / 0.25, atol=1e-4, rtol=0)


def test_stretch_makes_both_sides_as_long() -> None:
    images = torch.rand(2, 7, 20, 55)
    expected = functional.resize(images, [32, 32], antialias=True)
    torch.testing.assert_close(preprocess(images, 32, fit="stretch"), expected, atol=1e-5, rtol=0)
