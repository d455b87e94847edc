"""ViewGenerator: deterministic under a seed, independent of how a batch is split, strict about its input."""

import copy

import pytest
import torch
from torch import Tensor, nn

from augment import AugmentConfig, ViewGenerator

BACKENDS = ["reference", "fused"]
EVERYTHING = AugmentConfig(size=24, affine=0.3, blur=0.5, solarize=0.3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))


def pictures(batch: int = 8, channels: int = 3, height: int = 40, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_determinism(backend: str, channels: int) -> None:
    config = AugmentConfig(size=24, views=3, blur=0.5)
    generator = ViewGenerator(config, backend)
    images = pictures(channels=channels)
    views = generator(images, seed=7)
    assert views.shape == (3, 8, channels, 24, 24) and views.dtype == torch.float32
    assert torch.isfinite(views).all()
    assert torch.equal(views, generator(images, seed=7))
    assert torch.equal(views, copy.deepcopy(generator)(images, seed=7))
    assert not torch.equal(views, generator(images, seed=8))
    assert not torch.equal(generator(images), generator(images))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_is_sample_and_apply(backend: str) -> None:
    generator = ViewGenerator(EVERYTHING, backend)
    images = pictures()
    parameters = generator.sample(8, (40, 32), seed=3)
    assert torch.equal(generator(images, seed=3), generator.apply(images, parameters))
    assert torch.equal(generator.apply(images, parameters), generator.apply(images, parameters))


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_number_of_processes_sees_the_same_views(backend: str) -> None:
    generator = ViewGenerator(EVERYTHING, backend)
    images = pictures(12)
    whole = generator(images, seed=5)
    parameters = generator.sample(12, (40, 32), seed=5)
    for world in (2, 3):
        parts = [
            generator.apply(images[rank::world], parameters.rows(slice(rank, None, world))) for rank in range(world)
        ]
        for rank, part in enumerate(parts):
            torch.testing.assert_close(part, whole[:, rank::world], atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_does_not_depend_on_its_neighbours(backend: str) -> None:
    generator = ViewGenerator(EVERYTHING, backend)
    images = pictures()
    parameters = generator.sample(8, (40, 32), seed=3)
    changed = images.clone()
    changed[3] = 255 - changed[3]
    before, after = generator.apply(images, parameters), generator.apply(changed, parameters)
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.equal(before[:, 3], after[:, 3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_float_images_mean_the_same_as_uint8_and_stay_untouched(backend: str) -> None:
    generator = ViewGenerator(EVERYTHING, backend)
    images = pictures()
    floats = images.float() / 255
    kept = floats.clone()
    torch.testing.assert_close(generator(images, seed=1), generator(floats, seed=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(generator(images, seed=1), generator(floats.double(), seed=1), atol=1e-5, rtol=0)
    assert torch.equal(floats, kept)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_lives_inside_a_module(backend: str) -> None:
    """Its apply() takes images; nn.Module's, which a parent calls to initialise its children, must keep working."""
    model = nn.Sequential(ViewGenerator(EVERYTHING, backend), nn.Flatten())
    seen: list[nn.Module] = []
    model.apply(seen.append)
    assert model in seen and model[0] in seen
    assert model.state_dict() == {}
    assert "size=24" in repr(model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_input_is_named(backend: str) -> None:
    generator = ViewGenerator(EVERYTHING, backend)
    images = pictures()
    with pytest.raises(ValueError, match=r"shape \(3, 40, 32\): expected \(B, C, H, W\)"):
        generator(images[0])
    with pytest.raises(ValueError, match=r"shape \(8, 0, 40, 32\): expected \(B, C, H, W\)"):
        generator(images[:, :0])
    with pytest.raises(TypeError, match=r"torch.int64: expected uint8"):
        generator(images.long())
    with pytest.raises(ValueError, match="mean has 3 values and the images 1"):
        generator(images[:, :1])
    with pytest.raises(TypeError, match="parameters are missing"):
        generator.apply(images)
    with pytest.raises(ValueError, match=r"drawn for 4 images .* got 8"):
        generator.apply(images, generator.sample(4, (40, 32)))
    with pytest.raises(ValueError, match=r"\(32, 40\), but got 8 of \(40, 32\)"):
        generator.apply(images, generator.sample(8, (32, 40)))


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'quick'"):
        ViewGenerator(EVERYTHING, "quick")  # type: ignore[arg-type]  # the wrong value is the point


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [2, 4, 7])
def test_every_band_of_an_image_is_moved_blurred_and_brightened_as_a_gray_image_is(backend: str, channels: int) -> None:
    config = AugmentConfig(size=24, affine=0.5, blur=0.5, contrast=0.0, saturation=0.0, hue=0.0, gray=0.0, solarize=0.3)
    generator, images = ViewGenerator(config, backend), pictures(channels=channels)
    parameters = generator.sample(8, (40, 32), seed=3)
    bands = [generator.apply(images[:, band : band + 1], parameters) for band in range(channels)]
    torch.testing.assert_close(generator.apply(images, parameters), torch.cat(bands, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_operations_on_colours_do_nothing_where_there_are_none(backend: str, channels: int) -> None:
    plain = AugmentConfig(size=24, saturation=0.0, hue=0.0, gray=0.0)
    colours = AugmentConfig(size=24, saturation=0.9, hue=0.5, gray=0.9)
    images = pictures(channels=channels)
    with_colours = ViewGenerator(colours, backend)
    assert torch.equal(with_colours(images, seed=1), ViewGenerator(plain, backend)(images, seed=1))
    drawn = with_colours.sample(8, (40, 32), seed=1)
    said = {word.split()[0] for image in range(8) for word in drawn.describe(0, image, channels)}
    assert not said & {"saturation", "hue", "gray"} and said & {"contrast", "brightness"}
    assert {"saturation", "hue", "gray"} <= {word.split()[0] for i in range(8) for word in drawn.describe(0, i)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_contrast_of_bands_is_about_the_mean_of_all_of_them(backend: str) -> None:
    only = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "horizontal_flip": 0.0, "gray": 0.0, "jitter": 1.0}
    config = AugmentConfig(size=24, **only, brightness=0.0, saturation=0.0, hue=0.0)  # type: ignore[arg-type]  # pairs
    images = pictures(channels=5, height=24, width=24)
    generator = ViewGenerator(config, backend)
    drawn = generator.sample(8, (24, 24), seed=0)
    pixels, factor = images.double() / 255, drawn.jitter[0, :, 1, None, None, None]
    mean = pixels.mean((1, 2, 3), keepdim=True)
    expected = (mean + factor * (pixels - mean)).clamp(0, 1).float()
    torch.testing.assert_close(generator.apply(images, drawn)[0], expected, atol=1e-5, rtol=0)
