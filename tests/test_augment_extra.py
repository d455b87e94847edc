"""Kornia's own augmentations, appended by name: same seed, same views, whatever the split over processes."""

import kornia.augmentation
import pytest
import torch

from augment import AugmentConfig, ViewGenerator

QUIET = {"jitter": 0.0, "gray": 0.0, "horizontal_flip": 0.0, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_an_appended_operation_is_kornias(backend: str) -> None:
    config = AugmentConfig(size=16, extra=("RandomInvert(p=0.5)",), **QUIET)
    generator = ViewGenerator(config, backend)  # type: ignore[arg-type]
    images = torch.randint(256, (32, 3, 16, 16), dtype=torch.uint8)
    parameters = generator.sample(32, (16, 16), seed=0)
    views = generator.apply(images, parameters)
    inverted = parameters.extra[0]["batch_prob"] > 0.5
    assert inverted.shape == (2, 32) and 10 < inverted.sum() < 54
    plain = (images.float() / 255).expand(2, -1, -1, -1, -1)
    expected = torch.where(inverted[..., None, None, None], 1 - plain, plain)
    torch.testing.assert_close(views, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_it_comes_before_the_normalisation(backend: str) -> None:
    config = AugmentConfig(size=8, extra=("RandomInvert(p=1.0)",), mean=(0.5,), std=(0.25,), **QUIET)
    images = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    views = ViewGenerator(config, backend)(images)  # type: ignore[arg-type]
    assert views.unique().tolist() == [-2.0]  # (1 - 1 - 0.5) / 0.25


def test_draws_are_reproducible_and_do_not_depend_on_the_split() -> None:
    config = AugmentConfig(size=16, extra=("RandomErasing(p=0.7)", "RandomInvert(p=0.5)"))
    generator = ViewGenerator(config)
    images = torch.randint(256, (12, 3, 20, 20), dtype=torch.uint8)
    whole = generator(images, seed=3)
    assert torch.equal(whole, generator(images, seed=3))
    assert not torch.equal(whole, generator(images, seed=4))
    parameters = generator.sample(12, (20, 20), seed=3)
    for rank in range(3):
        part = generator.apply(images[rank::3], parameters.rows(slice(rank, None, 3)))
        torch.testing.assert_close(part, whole[:, rank::3], atol=1e-6, rtol=0)


def test_torchs_global_generator_is_left_as_it_was() -> None:
    generator = ViewGenerator(AugmentConfig(extra=("RandomErasing(p=0.7)", "RandomGaussianNoise(p=1.0)")))
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = generator(images, seed=1)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, generator(images, seed=1))  # noise is drawn while it is applied, under the same seed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RandomNothing", "expected the name of an augmentation"),
        ("AugmentationSequential", "expected the name of an augmentation"),
        ("RandomErasing(0.5)", "keyword arguments"),
        ("RandomErasing(p=__import__('os'))", "keyword arguments"),
        ("RandomErasing(p=0.5", "keyword arguments"),
        ("kornia.augmentation.RandomErasing", "keyword arguments"),
        ("RandomErasing(chance=0.5)", "Kornia refuses"),
    ],
)
def test_what_is_not_an_augmentation_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(extra=(text,))


def test_an_operation_that_changes_the_size_is_refused() -> None:
    generator = ViewGenerator(AugmentConfig(size=16, extra=("CenterCrop(size=8)",)))
    with pytest.raises(ValueError, match="CenterCrop in extra turned views"):
        generator(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def test_kornias_names_are_the_ones_meant() -> None:
    generator = ViewGenerator(AugmentConfig(extra=("RandomErasing(p=0.25, value=0.5)",)))
    operation = generator.extra.operations[0]
    assert isinstance(operation, kornia.augmentation.RandomErasing) and operation.p == 0.25
