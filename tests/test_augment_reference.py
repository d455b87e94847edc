"""The reference backend means what torchvision means, operation by operation, on the same parameters."""

import itertools
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional

from augment import AugmentConfig, ViewParameters
from augment.reference import apply_reference
from augment.sampling import sample_parameters

# One definition of luma everywhere, BT.601's; torchvision writes 0.2989 for its first weight, 1e-4 less.
LUMA = 1.1e-4
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "horizontal_flip": 0.0, "jitter": 0.0, "gray": 0.0}


def noise(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images with smooth and with flat, black and white parts."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 6, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images = (images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    images[:, :, : height // 8] = 0.0
    images[:, :, -(height // 8) :] = 1.0
    images[..., : width // 8] = images[:, :1, :, : width // 8]
    return images


def drawn(config: AugmentConfig, images: Tensor, seed: int = 0) -> ViewParameters:
    return sample_parameters(config, len(images), (images.shape[-2], images.shape[-1]), seed)


def each(views: Tensor) -> itertools.product:
    return itertools.product(range(views.shape[0]), range(views.shape[1]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (70, 45, 24), (20, 30, 48)])
def test_crop_and_flip(channels: int, antialias: bool, height: int, width: int, size: int) -> None:
    images = noise(6, channels, height, width)
    config = AugmentConfig(**{**WHOLE, "size": size, "antialias": antialias, "horizontal_flip": 0.5})
    config = replace(config, crop_scale=(0.1, 1.0), crop_ratio=(0.5, 2.0))
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    assert views.shape == (2, 6, channels, size, size)
    for view, image in each(views):
        box = parameters.crop[view, image].tolist()
        expected = functional.resized_crop(
            images[image], *box, [size, size], InterpolationMode.BILINEAR, antialias=antialias
        )
        if parameters.flip[view, image]:
            expected = functional.horizontal_flip(expected)
        torch.testing.assert_close(views[view, image], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("outside", ["black", "border"])
@pytest.mark.parametrize("channels", [1, 3])
def test_affine(channels: int, outside: Literal["black", "border"]) -> None:
    images = noise(6, channels, 32, 32)
    images[:3] = 1.0  # what is white to its edge stays white, if what lies outside is as the border is
    config = AugmentConfig(
        **WHOLE, affine=0.8, degrees=30, translate=(0.2, 0.1), scale=(0.7, 1.4), shear=12, outside=outside
    )
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    for view, image in each(views):
        angle, shift_x, shift_y, scale, shear = parameters.affine[view, image].tolist()
        expected = functional.affine(
            images[image], angle, [shift_x, shift_y], scale, [shear, 0.0], InterpolationMode.BILINEAR
        )
        if outside == "border" and image < 3:
            expected = images[image]
        elif outside == "border":  # torchvision fills with one value: where two fillings agree, the image was read
            white = functional.affine(
                images[image], angle, [shift_x, shift_y], scale, [shear, 0.0], InterpolationMode.BILINEAR, fill=[1.0]
            )
            expected = torch.where(white == expected, expected, views[view, image])
        torch.testing.assert_close(views[view, image], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("field", "adjust", "tolerance"),
    [
        ("brightness", functional.adjust_brightness, 1e-6),
        # A factor up to 2.5 weighs luma by up to 1.5.
        ("contrast", functional.adjust_contrast, 1.5 * LUMA),
        ("saturation", functional.adjust_saturation, 1.5 * LUMA),
        ("hue", functional.adjust_hue, 1e-5),
    ],
)
def test_one_jitter_operation(channels: int, field: str, adjust: object, tolerance: float) -> None:
    images = noise(8, channels, 32, 32)
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    strengths[field] = 0.5 if field == "hue" else 1.5
    config = AugmentConfig(**{**WHOLE, **strengths, "jitter": 0.8})
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    op = list(strengths).index(field)
    for view, image in each(views):
        expected = adjust(images[image], parameters.jitter[view, image, op].item())  # type: ignore[operator]
        torch.testing.assert_close(views[view, image], expected, atol=tolerance, rtol=0)
    if channels == 3 or field in ("brightness", "contrast"):
        assert (views - images).abs().amax() > 0.2  # the operation really acted


def test_the_jitter_keeps_the_order_that_was_drawn() -> None:
    images = noise(12, 3, 16, 16)
    config = AugmentConfig(**{**WHOLE, "size": 16, "jitter": 1.0, "brightness": 0.8, "contrast": 0.8})
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for view, image in each(views):
        expected = images[image]
        for op in parameters.order[view, image].tolist():
            expected = adjust[op](expected, parameters.jitter[view, image, op].item())
        torch.testing.assert_close(views[view, image], expected, atol=4 * LUMA, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray(channels: int) -> None:
    images = noise(8, channels, 16, 16)
    config = AugmentConfig(**{**WHOLE, "size": 16, "gray": 0.5})
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    for view, image in each(views):
        expected = images[image]
        if parameters.gray[view, image]:
            expected = functional.rgb_to_grayscale(expected, num_output_channels=channels)
        torch.testing.assert_close(views[view, image], expected, atol=LUMA, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 96])
def test_blur(channels: int, size: int) -> None:
    images = noise(4, channels, size, size)
    config = AugmentConfig(**WHOLE, size=size, blur=0.7)
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    kernel = [config.blur_kernel_size] * 2
    for view, image in each(views):
        sigma = parameters.blur[view, image].item()
        expected = functional.gaussian_blur(images[image], kernel, [sigma, sigma]) if sigma else images[image]
        torch.testing.assert_close(views[view, image], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 1.0])
def test_solarize(threshold: float) -> None:
    images = noise(8, 3, 16, 16)
    config = AugmentConfig(**{**WHOLE, "size": 16}, solarize=0.5, solarize_threshold=threshold)
    parameters = drawn(config, images)
    views = apply_reference(images, parameters, config)
    for view, image in each(views):
        expected = images[image]
        if parameters.solarize[view, image]:
            expected = functional.solarize(expected, threshold)
        torch.testing.assert_close(views[view, image], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("channels", "mean", "std"), [(3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), (1, (0.3,), (0.5,))])
def test_normalize_comes_last(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    images = noise(3, channels, 16, 16)
    plain = AugmentConfig(**{**WHOLE, "size": 16}, solarize=1.0)
    config = replace(plain, mean=mean, std=std)
    parameters = drawn(config, images)
    expected = functional.normalize(apply_reference(images, parameters, plain), list(mean), list(std))
    torch.testing.assert_close(apply_reference(images, parameters, config), expected, atol=1e-6, rtol=0)


def test_views_stay_in_the_unit_interval() -> None:
    images = noise(32, 3, 40, 40)
    config = AugmentConfig(affine=0.5, blur=0.5, solarize=0.2, brightness=2.0, contrast=2.0, saturation=2.0, hue=0.5)
    views = apply_reference(images, drawn(config, images), config)
    assert views.amin() >= 0 and views.amax() <= 1 + 1e-6


def effects(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """One number an image, (N,), for each way in which an operation moves an image."""
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    gray = (after * luma).sum(1)
    columns = torch.linspace(-1, 1, after.shape[-1])
    return {
        "brightness": after.mean((1, 2, 3)),
        "contrast": gray.flatten(1).std(1),
        "colour": (after - gray[:, None]).abs().mean((1, 2, 3)),
        "tint": (after[:, 0] - after[:, 2]).mean((1, 2)),
        "left-right": (gray * columns).mean((1, 2)),
        "detail": (after[..., 1:] - after[..., :-1]).abs().mean((1, 2, 3)),
        "change": (after - before).abs().mean((1, 2, 3)),
    }


@pytest.mark.parametrize(
    ("knobs", "theirs"),
    [
        ({"horizontal_flip": 0.5}, transforms.RandomHorizontalFlip(0.5)),
        ({"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3)}, transforms.RandomResizedCrop(16)),
        (
            {"jitter": 0.8},
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        ),
        ({"gray": 0.2}, transforms.RandomGrayscale(0.2)),
        ({"blur": 0.5}, transforms.RandomApply([transforms.GaussianBlur(3, (0.1, 2.0))], p=0.5)),
        ({"solarize": 0.3}, transforms.RandomSolarize(0.5, p=0.3)),
        (
            {"affine": 1.0, "degrees": 30, "translate": (0.0, 0.0), "scale": (0.7, 1.3), "shear": 10},
            transforms.RandomAffine(
                30, scale=(0.7, 1.3), shear=10, interpolation=InterpolationMode.BILINEAR, fill=None
            ),
        ),
    ],
    ids=["flip", "crop", "jitter", "gray", "blur", "solarize", "affine"],
)
def test_each_operation_moves_images_as_torchvisions_transform_does(knobs: dict, theirs: torch.nn.Module) -> None:
    """Mean and second moment of every effect over 2,000 draws, within 4 standard errors of the difference."""
    draws = 2000
    image = noise(1, 3, 16, 16)
    before = image.expand(draws, -1, -1, -1)
    config = AugmentConfig(**{**WHOLE, "size": 16, "views": 1, **knobs})
    ours = effects(before, apply_reference(before, drawn(config, before), config)[0])
    torch.manual_seed(1)
    expected = effects(before, torch.stack([theirs(image[0]) for _ in range(draws)]))
    for name, power in itertools.product(ours, (1, 2)):
        a, b = ours[name].double() ** power, expected[name].double() ** power
        error = math.sqrt((a.var() + b.var()).item() / draws)
        # The two definitions of luma differ by LUMA, on effects of order 1.
        assert abs(a.mean() - b.mean()).item() <= 4 * error + LUMA, (name, power)
