"""AugmentConfig refuses what cannot be meant, naming field, value and constraint."""

import dataclasses

import pytest

from augment import AugmentConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 1),
        ("size", 32.0),
        ("views", 0),
        ("views", True),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 0.2)),
        ("crop_scale", (0.5, 1.2)),
        ("crop_scale", (0.5,)),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (0.5, float("inf"))),
        ("horizontal_flip", 1.1),
        ("horizontal_flip", float("nan")),
        ("affine", -0.1),
        ("outside", "white"),
        ("degrees", 181.0),
        ("translate", (0.1, 1.5)),
        ("translate", 0.1),
        ("scale", (0.0, 1.0)),
        ("shear", 90.0),
        ("jitter", "often"),
        ("brightness", -1.0),
        ("contrast", float("inf")),
        ("saturation", -0.1),
        ("hue", 0.6),
        ("gray", 2),
        ("blur", -1),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_kernel", 1.5),
        ("solarize", 1.01),
        ("solarize", (0.0, 1.5)),
        ("solarize", ("0.1", 0.2)),
        ("blur", (1.0, float("nan"))),
        ("blur", (1.0,)),
        ("blur", (1.0, 0.1, 0.1)),
        ("blur", ()),
        ("solarize_threshold", -0.1),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is .*expected") as error:
        AugmentConfig(**{field: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), None, "both or neither"),
        (None, (0.5,), "both or neither"),
        ((), (), "one a channel or one for all"),
        ((0.5,), (0.2, 0.2, 0.2), "as many"),
        ((0.5, 0.5, 0.5), (0.2, 0.0, 0.2), "above 0"),
        ((0.5, float("nan"), 0.5), (0.2, 0.2, 0.2), "finite"),
    ],
)
def test_mean_and_std_belong_together(mean: object, std: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(mean=mean, std=std)  # type: ignore[arg-type]  # the wrong types are the point


def test_probabilities_of_other_views_than_there_are_say_both_numbers() -> None:
    with pytest.raises(
        ValueError, match=r"solarize is \(0\.0, 0\.2\) and views is 4: expected one probability for all views"
    ):
        AugmentConfig(views=4, solarize=(0.0, 0.2))


def test_defaults_are_simclrs_on_cifar10() -> None:
    config = AugmentConfig()
    assert (config.size, config.views, config.crop_scale, config.crop_ratio) == (32, 2, (0.08, 1.0), (3 / 4, 4 / 3))
    # Colour strength s = 0.5 times (0.8, 0.8, 0.8, 0.2), appendix A of Chen et al. 2020.
    strengths = (config.brightness, config.contrast, config.saturation, config.hue)
    assert strengths == pytest.approx((0.8 * 0.5, 0.8 * 0.5, 0.8 * 0.5, 0.2 * 0.5))
    assert (config.jitter, config.gray, config.blur, config.mean) == (0.8, 0.2, 0.0, None)


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (32, 3), (96, 9), (224, 23)])
def test_blur_kernel_is_a_tenth_of_the_view_as_in_simclrs_code(size: int, kernel: int) -> None:
    assert AugmentConfig(size=size).blur_kernel_size == kernel


def test_blur_kernel_never_outgrows_the_view() -> None:
    assert AugmentConfig(size=2, blur_kernel=1.0).blur_kernel_size == 3


def test_every_field_says_what_it_is() -> None:
    source = __import__("inspect").getsource(AugmentConfig)
    body = source.split('"""', 2)[2]
    for field in dataclasses.fields(AugmentConfig):
        _, _, after = body.partition(f"    {field.name}: ")
        assert after.split("\n")[1].startswith('    """'), field.name
