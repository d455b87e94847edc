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
    with pytest.raises(ValueError, match="C = 1 or 3"):
        generator(images[:, :2])
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
