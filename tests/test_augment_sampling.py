"""The drawn parameters: torchvision's distributions, reproducible, independent, free of the number of processes."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomResizedCrop

from augment import AugmentConfig, ViewParameters
from augment.sampling import sample_parameters

EVERYTHING = AugmentConfig(affine=0.5, blur=0.5, solarize=0.3, shear=5.0)


def equal(a: ViewParameters, b: ViewParameters) -> bool:
    return all(torch.equal(a.tensors()[name], b.tensors()[name]) for name in a.tensors())


def assert_same_mean(ours: Tensor, theirs: Tensor, sigmas: float = 4.0) -> None:
    """The means of two samples agree within their common standard error."""
    ours, theirs = ours.double().flatten(), theirs.double().flatten()
    error = math.sqrt(ours.var().item() / len(ours) + theirs.var().item() / len(theirs))
    assert abs(ours.mean() - theirs.mean()).item() <= sigmas * error


def test_a_seed_fixes_the_parameters_and_another_changes_every_one() -> None:
    first = sample_parameters(EVERYTHING, 64, (40, 48), seed=3)
    assert equal(first, sample_parameters(EVERYTHING, 64, (40, 48), seed=3))
    other = sample_parameters(EVERYTHING, 64, (40, 48), seed=4)
    for name, tensor in first.tensors().items():
        assert not torch.equal(tensor, other.tensors()[name]), name


def test_without_a_seed_torchs_default_generator_decides() -> None:
    torch.manual_seed(11)
    first = sample_parameters(EVERYTHING, 8, (32, 32))
    second = sample_parameters(EVERYTHING, 8, (32, 32))
    torch.manual_seed(11)
    assert equal(first, sample_parameters(EVERYTHING, 8, (32, 32)))
    assert not equal(first, second)


def test_a_seed_leaves_the_default_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample_parameters(EVERYTHING, 8, (32, 32), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_switching_one_operation_on_does_not_move_the_draws_of_the_others() -> None:
    plain = sample_parameters(AugmentConfig(), 32, (32, 32), seed=1)
    more = sample_parameters(AugmentConfig(blur=1.0, affine=1.0, solarize=1.0), 32, (32, 32), seed=1)
    for name in ("crop", "flip", "jitter", "order", "gray"):
        assert torch.equal(plain.tensors()[name], more.tensors()[name]), name


def test_every_image_in_every_view_draws_its_own() -> None:
    drawn = sample_parameters(AugmentConfig(jitter=1.0, views=3), 50, (64, 64), seed=0)
    factors = drawn.jitter.flatten(0, 1)
    assert len(factors.unique(dim=0)) == 150
    # Between two views of an image, and between neighbours in a batch, nothing is correlated: |r| < 4 / sqrt(n).
    brightness = sample_parameters(AugmentConfig(jitter=1.0), 4000, (32, 32), seed=0).jitter[..., 0]
    for a, b in ((brightness[0], brightness[1]), (brightness[0, 1:], brightness[0, :-1])):
        assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1].item()) < 4 / math.sqrt(len(a))


@pytest.mark.parametrize("index", [slice(8, 16), [3, 1, 2], torch.tensor([5, 0]), slice(None, None, 4)])
def test_rows_selects_images_in_every_view(index: slice | list[int] | Tensor) -> None:
    drawn = sample_parameters(EVERYTHING, 24, (40, 48), seed=3)
    part = drawn.rows(index)
    positions = torch.arange(24)[index].tolist()
    assert (part.views, part.batch, part.image_size) == (2, len(positions), (40, 48))
    for view, (row, image) in itertools.product(range(2), enumerate(positions)):
        assert part.describe(view, row) == drawn.describe(view, image)


def test_one_row_keeps_its_batch_dimension() -> None:
    assert sample_parameters(EVERYTHING, 4, (32, 32), seed=0).rows(2).crop.shape == (2, 1, 4)


@pytest.mark.parametrize(
    ("image_size", "scale", "ratio"),
    [
        ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((60, 100), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((100, 30), (0.7, 1.0), (3 / 4, 4 / 3)),  # no try ever fits: the central crop
        ((48, 48), (0.8, 1.0), (0.5, 2.0)),  # some tries fit
    ],
)
def test_crops_have_the_distribution_of_torchvisions_random_resized_crop(
    image_size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    config = AugmentConfig(crop_scale=scale, crop_ratio=ratio, views=1)
    ours = sample_parameters(config, 4000, image_size, seed=0).crop[0].double()
    torch.manual_seed(0)
    canvas = torch.empty(1, *image_size)
    theirs = torch.tensor([RandomResizedCrop.get_params(canvas, scale, ratio) for _ in range(4000)]).double()
    for boxes in (ours, theirs):
        top, left, height, width = boxes.unbind(-1)
        assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
        assert (top + height <= image_size[0]).all() and (left + width <= image_size[1]).all()
    for statistic in (
        *[lambda boxes, k=k: boxes[:, k] for k in range(4)],
        *[lambda boxes, k=k: boxes[:, k] ** 2 for k in range(4)],
        lambda boxes: boxes[:, 2] * boxes[:, 3],
        lambda boxes: boxes[:, 0] * boxes[:, 2],
    ):
        assert_same_mean(statistic(ours), statistic(theirs))


def test_a_central_crop_where_no_try_fits() -> None:
    config = AugmentConfig(crop_scale=(0.9, 1.0), views=1)
    for image_size in ((20, 90), (90, 20)):
        torch.manual_seed(0)
        expected = RandomResizedCrop.get_params(torch.empty(1, *image_size), (0.9, 1.0), (3 / 4, 4 / 3))
        assert sample_parameters(config, 50, image_size, seed=0).crop.unique(dim=1).tolist() == [[list(expected)]]


def test_the_whole_image_can_be_asked_for() -> None:
    drawn = sample_parameters(AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1)), 20, (17, 17), seed=0)
    assert drawn.crop.unique(dim=1).tolist() == [[[0, 0, 17, 17]]] * 2


def test_jitter_factors_have_the_distribution_of_torchvisions_color_jitter() -> None:
    config = AugmentConfig(jitter=1.0, brightness=1.3, contrast=0.5, saturation=0.3, hue=0.2, views=1)
    ours = sample_parameters(config, 4000, (32, 32), seed=0).jitter[0]
    torch.manual_seed(0)
    jitter = ColorJitter(1.3, 0.5, 0.3, 0.2)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs = torch.tensor([ColorJitter.get_params(*ranges)[1:] for _ in range(4000)])
    for op, (low, high) in enumerate(ranges):
        assert (ours[:, op] >= low).all() and (ours[:, op] <= high).all()
        for power in (1, 2):
            assert_same_mean(ours[:, op] ** power, theirs[:, op] ** power)
        # The whole distribution, not only its moments.
        assert stats.kstest(ours[:, op].numpy(), "uniform", args=(low, high - low)).pvalue > 1e-4


def test_the_jitter_order_is_a_uniform_permutation() -> None:
    order = sample_parameters(AugmentConfig(), 6000, (32, 32), seed=0).order.flatten(0, 1)
    assert torch.equal(order.sort(-1).values, torch.arange(4).expand_as(order))
    keys = (order * torch.tensor([64, 16, 4, 1])).sum(-1)
    counts = keys.unique(return_counts=True)[1].numpy()
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    ("field", "acts"),
    [
        ("horizontal_flip", lambda drawn: drawn.flip),
        ("affine", lambda drawn: drawn.affine[..., 0] != 0),
        ("jitter", lambda drawn: drawn.jitter[..., 0] != 1),
        ("gray", lambda drawn: drawn.gray),
        ("blur", lambda drawn: drawn.blur > 0),
        ("solarize", lambda drawn: drawn.solarize),
    ],
)
def test_probabilities_are_the_configured_ones(field: str, acts: object) -> None:
    for probability in (0.0, 0.3, 1.0):
        drawn = sample_parameters(AugmentConfig(**{field: probability}), 4000, (32, 32), seed=0)
        share = acts(drawn).double().mean().item()  # type: ignore[operator]
        assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / 8000)


def test_each_view_may_have_a_probability_of_its_own() -> None:
    asymmetric = AugmentConfig(blur=(1.0, 0.1), solarize=(0.0, 0.2))
    drawn, alike = (sample_parameters(one, 4000, (32, 32), seed=0) for one in (asymmetric, AugmentConfig(blur=1.0)))
    for tensor, probabilities in ((drawn.blur > 0, (1.0, 0.1)), (drawn.solarize, (0.0, 0.2))):
        for share, p in zip(tensor.double().mean(1).tolist(), probabilities, strict=True):
            assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 4000)
    assert torch.equal(drawn.crop, alike.crop) and torch.equal(drawn.blur[0], alike.blur[0])
    sigmas = drawn.blur[1]
    assert torch.equal(sigmas[sigmas > 0], alike.blur[1][sigmas > 0])  # a probability moves no other draw
    equal, plain = (sample_parameters(AugmentConfig(blur=p), 50, (32, 32), seed=0) for p in ((0.5, 0.5), 0.5))
    assert torch.equal(equal.blur, plain.blur)


def test_an_operation_that_does_not_act_carries_values_that_change_nothing() -> None:
    drawn = sample_parameters(AugmentConfig(affine=0.0, jitter=0.0, blur=0.0), 100, (32, 32), seed=0)
    assert drawn.affine.unique(dim=1).tolist() == [[[0, 0, 0, 1, 0]]] * 2
    assert drawn.jitter.unique(dim=1).tolist() == [[[1, 1, 1, 0]]] * 2
    assert not drawn.blur.any()
    # A strength of 0 is exactly no change too, though the jitter acts.
    still = sample_parameters(
        AugmentConfig(jitter=1, brightness=0, contrast=0, saturation=0, hue=0), 100, (9, 9), seed=0
    )
    assert still.jitter.unique(dim=1).tolist() == [[[1, 1, 1, 0]]] * 2


def test_affine_and_blur_cover_their_ranges_evenly() -> None:
    config = AugmentConfig(size=50, affine=1.0, degrees=20, translate=(0.1, 0.2), scale=(0.5, 1.5), shear=8, blur=1.0)
    drawn = sample_parameters(config, 4000, (64, 64), seed=0)
    columns = [*drawn.affine.flatten(0, 1).unbind(-1), drawn.blur.flatten()]
    for column, (low, high) in zip(
        columns, [(-20, 20), (-5, 5), (-10, 10), (0.5, 1.5), (-8, 8), (0.1, 2.0)], strict=True
    ):
        assert stats.kstest(column.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-4


def test_describe_names_what_acted_in_the_order_it_acted() -> None:
    drawn = ViewParameters(
        image_size=(32, 32),
        crop=torch.tensor([[[1, 2, 20, 10], [0, 0, 32, 32]]]),
        flip=torch.tensor([[True, False]]),
        affine=torch.tensor([[[5.0, 1.5, -2.0, 1.25, 3.0], [0, 0, 0, 1, 0]]]),
        jitter=torch.tensor([[[0.5, 1.0, 1.5, -0.1], [1, 1, 1, 0]]]),
        order=torch.tensor([[[3, 2, 1, 0], [0, 1, 2, 3]]]),
        gray=torch.tensor([[True, False]]),
        blur=torch.tensor([[1.5, 0.0]]),
        solarize=torch.tensor([[True, False]]),
    )
    assert drawn.describe(0, 0) == [
        "crop 10x20 +2+1",
        "flip",
        "rotate +5°",
        "shift +1.5,-2.0",
        "scale ×1.25",
        "shear +3°",
        "hue -36°",
        "saturation ×1.50",
        "brightness ×0.50",
        "gray",
        "blur σ1.5",
        "solarize",
    ]
    assert drawn.describe(0, 1) == []


@pytest.mark.parametrize(("batch", "image_size"), [(0, (32, 32)), (4, (0, 32)), (4, (32, -1))])
def test_an_impossible_batch_is_refused(batch: int, image_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"batch is .* image_size"):
        sample_parameters(AugmentConfig(), batch, image_size)
