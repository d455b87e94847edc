"""The fused backend gives what the reference gives, from the same parameters, in both of its forms."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.augmentation import AugmentationBase2D, AugmentationSequential, RandomErasing
from kornia.enhance import adjust_hue
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from augment import AugmentConfig, ViewGenerator, ViewParameters
from augment.fused.branchless import augment_rows
from augment.fused.colour import shift_hue_
from augment.fused.crop import crop_by_interpolation, crop_by_taps, crop_on_cpu
from augment.fused.module import FusedAugmentation, _branchless_pixels
from augment.reference import apply_reference
from augment.sampling import sample_parameters

NOTHING = AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1), horizontal_flip=0, jitter=0, gray=0)
CHAIN = AugmentConfig(affine=0.3, degrees=20, shear=5, blur=0.5, solarize=0.2)
TOLERANCE = 1e-5


def pictures(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Noise, gray, black, white and saturated images: every branch that a colour formula could have."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)
    images[0] = images[0, :1]
    images[-1, :, : height // 2] = 0
    images[-1, :, height // 2 :] = 255
    images[1 % batch] = torch.where(images[1 % batch] > 127, 255, 0).to(torch.uint8)
    return images


def branchless(images: Tensor, parameters: ViewParameters, config: AugmentConfig) -> Tensor:
    """The form meant for a GPU, run here."""
    rows = torch.arange(len(images)).repeat(parameters.views)
    drawn = {name: tensor.flatten(0, 1) for name, tensor in parameters.tensors().items()}
    views = augment_rows(images, rows, drawn, config)
    return views.unflatten(0, (parameters.views, parameters.batch))


def assert_equal_to_reference(
    config: AugmentConfig, images: Tensor, seed: int = 0, tolerance: float = TOLERANCE
) -> None:
    plain = replace(config, mean=None, std=None)
    parameters = sample_parameters(config, len(images), (images.shape[-2], images.shape[-1]), seed)
    expected = apply_reference(images.float() / 255, parameters, plain)
    torch.testing.assert_close(FusedAugmentation(plain).views(images, parameters), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(branchless(images, parameters, plain), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3)},
        {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "antialias": False},
        {"horizontal_flip": 0.5},
        {"affine": 0.7, "degrees": 40.0, "shear": 8.0},
        {"affine": 0.7, "degrees": 40.0, "shear": 8.0, "outside": "border"},
        {"jitter": 0.8, "brightness": 0.8, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
        {"jitter": 0.8, "brightness": 0.0, "contrast": 0.8, "saturation": 0.0, "hue": 0.0},
        {"jitter": 0.8, "brightness": 0.0, "contrast": 0.0, "saturation": 0.8, "hue": 0.0},
        {"jitter": 0.8, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.5},
        {"jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
        {"gray": 0.5},
        {"blur": 0.6},
        {"solarize": 0.5},
        {"blur": (1.0, 0.1), "solarize": (0.0, 0.6)},
    ],
    ids=lambda knobs: "+".join(knobs) or "nothing",
)
def test_one_operation(knobs: dict, size: int, channels: int) -> None:
    batch = 6 if size < 100 else 2
    images = pictures(batch, channels, size + size // 8, size + size // 4)
    assert_equal_to_reference(replace(NOTHING, size=size, **knobs), images)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("size", "height", "width"), [(32, 32, 32), (96, 96, 96), (224, 256, 320)])
def test_the_whole_chain(size: int, height: int, width: int, channels: int) -> None:
    batch = 24 if size < 100 else 4
    assert_equal_to_reference(replace(CHAIN, size=size), pictures(batch, channels, height, width))


def test_a_kornia_module_of_one_view_is_made_as_the_first_or_as_the_one_it_is_told() -> None:
    images, config = (
        torch.full((40, 3, 8, 8), 0.25),
        replace(NOTHING, size=8, solarize=(0.0, 1.0), solarize_threshold=0.1),
    )
    torch.testing.assert_close(FusedAugmentation(config)(images), images)
    torch.testing.assert_close(FusedAugmentation(config.of_view(1))(images), 1 - images)


share = st.floats(0, 1).map(lambda value: round(value, 2))
strength = st.floats(0, 2).map(lambda value: round(value, 2))


@st.composite
def configs(draw: st.DrawFn) -> AugmentConfig:
    low = draw(st.floats(0.05, 1))
    return AugmentConfig(
        size=draw(st.integers(2, 40)),
        views=draw(st.integers(1, 3)),
        crop_scale=(low, draw(st.floats(low, 1))),
        crop_ratio=(draw(st.floats(0.3, 1)), draw(st.floats(1, 3))),
        antialias=draw(st.booleans()),
        horizontal_flip=draw(share),
        affine=draw(share),
        degrees=draw(st.floats(0, 180)),
        translate=(draw(share), draw(share)),
        scale=(0.5, draw(st.floats(0.5, 2))),
        shear=draw(st.floats(0, 45)),
        jitter=draw(share),
        brightness=draw(strength),
        contrast=draw(strength),
        saturation=draw(strength),
        hue=draw(st.floats(0, 0.5)),
        gray=draw(share),
        blur=draw(share),
        blur_sigma=(0.05, draw(st.floats(0.05, 4))),
        blur_kernel=draw(share),
        solarize=draw(share),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    config=configs(),
    batch=st.integers(1, 9),
    channels=st.sampled_from([1, 2, 3, 4, 7]),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    seed=st.integers(0, 2**32),
)
def test_any_configuration(
    config: AugmentConfig, batch: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = pictures(batch, channels, height, width, seed)
    # Amplified twice by up to a factor of 3, rounding may reach beyond 1e-5; clamping keeps it from going further.
    gain = (1 + config.brightness) * (1 + config.contrast) * (1 + config.saturation)
    assert_equal_to_reference(config, images, seed, tolerance=TOLERANCE * max(1.0, gain / 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_threshold_off_the_middle(channels: int) -> None:
    # There solarization jumps: a value within rounding of the threshold may fall on either side of it.
    images = pictures(8, channels, 24, 24)
    config = replace(NOTHING, size=24, crop_scale=(0.3, 1.0), solarize=0.5, solarize_threshold=0.3)
    parameters = sample_parameters(config, 8, (24, 24), seed=0)
    before = apply_reference(images.float() / 255, parameters, replace(config, solarize_threshold=1.0))
    expected = apply_reference(images.float() / 255, parameters, config)
    safe = (before - 0.3).abs() > 1e-5
    assert safe.float().mean() > 0.99
    for views in (FusedAugmentation(config).views(images, parameters), branchless(images, parameters, config)):
        torch.testing.assert_close(views[safe], expected[safe], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("height", "width", "size"), [(17, 29, 24), (64, 48, 20), (100, 90, 16)])
@pytest.mark.parametrize("antialias", [True, False])
def test_all_crops_are_one(height: int, width: int, size: int, antialias: bool) -> None:
    images = torch.rand(10, 3, height, width, dtype=torch.float64)
    drawn = sample_parameters(AugmentConfig(views=1, crop_ratio=(0.4, 2.5)), 10, (height, width), seed=1)
    box, flip = drawn.crop[0], drawn.flip[0]
    one_by_one = torch.stack(
        [
            crop_by_interpolation(image, list(map(int, b)), size, bool(f), antialias)[0]
            for image, b, f in zip(images, box, flip, strict=True)
        ]
    )
    rows = torch.arange(10)
    small = crop_on_cpu(images, rows, box, size, flip, antialias)
    torch.testing.assert_close(small, one_by_one, atol=1e-12, rtol=0)
    torch.testing.assert_close(crop_by_taps(images, rows, box, size, flip, antialias), one_by_one, atol=1e-12, rtol=0)


def test_hue_is_exact_at_every_sextant_and_border() -> None:
    levels = torch.linspace(0, 1, 9, dtype=torch.float64)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).reshape(1, 3, 27, 27)
    turns = torch.linspace(-0.5, 0.5, 25, dtype=torch.float64)[:, None, None, None]
    images = cube.expand(25, -1, -1, -1)
    # Kornia adds 1e-8 to a divisor.
    torch.testing.assert_close(
        shift_hue_(images.clone(), turns), adjust_hue(images, 2 * torch.pi * turns), atol=2e-8, rtol=0
    )
    torch.testing.assert_close(shift_hue_(images.clone(), 0 * turns), images, atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_views_are_normalised_channels_last_and_of_the_asked_type(dtype: torch.dtype) -> None:
    config = replace(CHAIN, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = pictures(8, 3, 40, 40)
    views = ViewGenerator(config, "fused", dtype=dtype)(images, seed=0)
    assert views.dtype == dtype
    assert views.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    reference = ViewGenerator(config, "reference")(images, seed=0)
    rounding = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.003}[dtype]
    torch.testing.assert_close(views.float(), reference, atol=rounding, rtol=0)


def test_one_mean_serves_all_channels() -> None:
    images = pictures(4, 3, 32, 32)
    one = ViewGenerator(AugmentConfig(mean=(0.5,), std=(0.25,)))(images, seed=0)
    three = ViewGenerator(AugmentConfig(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))(images, seed=0)
    assert torch.equal(one, three)


def test_autocast_does_not_lower_its_precision() -> None:
    generator, images = ViewGenerator(CHAIN), pictures(8, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = generator(images, seed=0)
    assert torch.equal(views, generator(images, seed=0))


def test_a_large_batch_does_not_depend_on_how_it_is_cut_into_chunks() -> None:
    generator, images = ViewGenerator(replace(CHAIN, size=8)), pictures(1500, 3, 8, 8)
    parameters = generator.sample(1500, (8, 8), seed=0)
    views = generator.apply(images, parameters)
    for part in (slice(0, 7), slice(700, 1100)):
        expected = generator.apply(images[part], parameters.rows(part))
        torch.testing.assert_close(views[:, part], expected, atol=1e-6, rtol=0)


def test_it_is_a_kornia_augmentation() -> None:
    torch.manual_seed(0)
    fused = FusedAugmentation(AugmentConfig(size=24, jitter=1.0))
    assert isinstance(fused, AugmentationBase2D)
    chain = AugmentationSequential(fused, RandomErasing(p=1.0, value=0.25))
    images = pictures(6, 3, 40, 32)
    views = chain(images.float() / 255)
    assert views.shape == (6, 3, 24, 24)
    assert torch.equal(views, chain(images.float() / 255, params=chain._params))  # Kornia's replay
    assert (views == 0.25).all(1).sum() > 100  # the appended operation acted
    fresh = chain(images.float() / 255)
    assert not torch.equal(views, fresh)
    alone = fused(images)  # uint8 as it comes
    for dtype in (torch.float32, torch.float64):
        again = fused(images.to(dtype) / 255, params=fused._params)
        torch.testing.assert_close(alone, again, atol=TOLERANCE, rtol=0)
    half = fused((images.float() / 255).bfloat16(), params=fused._params)
    torch.testing.assert_close(alone, half, atol=0.02, rtol=0)  # only the input was rounded


@pytest.mark.parametrize("channels", [1, 3])
def test_on_a_gpu_nothing_is_read_back(channels: int) -> None:
    """With fake CUDA tensors, which have no values, any step that asks for one raises: the reference backend does."""
    generator = ViewGenerator(replace(CHAIN, size=16, mean=(0.5,), std=(0.5,)), "fused")
    with FakeTensorMode():
        images = torch.empty(5, channels, 20, 24, dtype=torch.uint8, device="cuda")
        views = generator(images)
        assert (views.shape, views.device.type) == ((2, 5, channels, 16, 16), "cuda")
        assert views.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
        with pytest.raises(DataDependentOutputException):
            ViewGenerator(generator.config, "reference")(images)


def test_the_form_of_a_gpu_is_one_graph() -> None:
    config = AugmentConfig(size=8, views=1, blur=0.5, mean=(0.5,), std=(0.25,))
    fused, images = FusedAugmentation(config), pictures(3, 3, 10, 12)
    drawn = sample_parameters(config, 3, (10, 12), seed=0)
    flat = {name: tensor[0] for name, tensor in drawn.tensors().items()}
    graph = torch.compile(_branchless_pixels, fullgraph=True, backend="eager")
    pixels = graph(images, torch.arange(3), flat, config, *fused._moments(3, images.device), torch.float32)
    torch.testing.assert_close(pixels.permute(0, 3, 1, 2), fused.views(images, drawn)[0], atol=1e-5, rtol=0)


def gpu_pixels(fused: FusedAugmentation, images: Tensor, parameters: ViewParameters) -> Tensor:
    """What the module does with images on a GPU, done here."""
    pixels = fused._branchless(images, parameters, *fused._moments(images.shape[1], images.device))
    return pixels.permute(0, 3, 1, 2).unflatten(0, (parameters.views, len(images)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_of_a_gpu_normalises_and_converts_alike(dtype: torch.dtype) -> None:
    config = replace(CHAIN, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    fused, images = FusedAugmentation(config, dtype), pictures(8, 3, 40, 40)
    parameters = sample_parameters(config, 8, (40, 40), seed=0)
    expected = fused.views(images, parameters)
    atol = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(gpu_pixels(fused, images, parameters), expected, atol=atol, rtol=0)


def refuses(*arguments: Any) -> Tensor:
    raise RuntimeError("no C++ compiler was found")


def forgets_the_flip(images: Tensor, rows: Tensor, drawn: dict[str, Tensor], *rest: Any) -> Tensor:
    return _branchless_pixels(images, rows, drawn | {"flip": torch.zeros_like(drawn["flip"])}, *rest)


@pytest.mark.parametrize(
    ("compiled", "words"),
    [(refuses, "failed: no C\\+\\+ compiler was found"), (forgets_the_flip, "gives other values in .* of the pixels")],
)
def test_a_compiler_that_fails_is_a_warning_and_not_an_end(
    monkeypatch: pytest.MonkeyPatch, compiled: Callable[..., Tensor], words: str
) -> None:
    monkeypatch.setattr(torch, "compile", lambda form, **options: compiled)
    fused, images = FusedAugmentation(CHAIN, compile=True), pictures(8, 3, 32, 32)
    parameters = sample_parameters(CHAIN, 8, (32, 32), seed=0)
    with pytest.warns(UserWarning, match=f"torch.compile {words}; the augmentation goes on without it"):
        views = gpu_pixels(fused, images, parameters)
    torch.testing.assert_close(views, fused.views(images, parameters), atol=TOLERANCE, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        gpu_pixels(fused, images, parameters)


def test_a_compiler_that_fails_at_a_later_batch_is_a_warning_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(images: Tensor, *rest: Any) -> Tensor:
        return refuses() if len(images) == 5 else _branchless_pixels(images, *rest)

    monkeypatch.setattr(torch, "compile", lambda form, **options: once)
    fused = FusedAugmentation(CHAIN, compile=True)
    for count in (8, 5):
        images, parameters = pictures(count, 3, 32, 32), sample_parameters(CHAIN, count, (32, 32), seed=0)
        with pytest.warns(UserWarning, match="no C") if count == 5 else nullcontext():
            views = gpu_pixels(fused, images, parameters)
        torch.testing.assert_close(views, fused.views(images, parameters), atol=TOLERANCE, rtol=0)


def test_a_compiled_form_is_compared_once_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def compiled(*arguments: Any) -> Tensor:
        used.append(len(arguments))
        return _branchless_pixels(*arguments)

    monkeypatch.setattr(torch, "compile", lambda form, **options: compiled)
    fused, images = FusedAugmentation(CHAIN, compile=True), pictures(8, 3, 32, 32)
    parameters = sample_parameters(CHAIN, 8, (32, 32), seed=0)
    for _ in range(2):
        torch.testing.assert_close(
            gpu_pixels(fused, images, parameters), fused.views(images, parameters), atol=TOLERANCE, rtol=0
        )
    assert len(used) == 2


@pytest.fixture(params=[2, 3])
def several_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [32, 200])
def test_the_views_do_not_depend_on_the_number_of_threads(several_threads: None, size: int) -> None:
    images = torch.randint(256, (16, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = ViewGenerator(AugmentConfig(size=size, blur=0.5, solarize=0.2, affine=0.2))
    views = generator(images, seed=0)
    torch.set_num_threads(1)
    assert torch.equal(views, generator(images, seed=0))


def test_inference_mode_holds() -> None:
    with torch.inference_mode():
        views = ViewGenerator(CHAIN)(pictures(4, 3, 32, 32), seed=0)
    assert views.is_inference()


def test_every_operation_order_is_its_own_group() -> None:
    """All 24 orders in one batch, each view against the reference."""
    orders = torch.tensor(list(itertools.permutations(range(4))))
    config = AugmentConfig(size=16, jitter=1.0, views=1, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3)
    drawn = replace(sample_parameters(config, 24, (16, 16), seed=0), order=orders[None])
    images = pictures(24, 3, 16, 16)
    expected = apply_reference(images.float() / 255, drawn, config)
    torch.testing.assert_close(FusedAugmentation(config).views(images, drawn), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(branchless(images, drawn, config), expected, atol=TOLERANCE, rtol=0)
