"""Mixup and CutMix against loops over pixels, the papers' distributions, and every way of asking for them wrongly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import simclr
from augment import Mix, MixConfig, soft_targets
from simclr.config import TrainConfig
from simclr.errors import ConfigError
from simclr.losses import CrossEntropyConfig

MIXUP, CUTMIX = MixConfig(mixup=0.4), MixConfig(cutmix=1.0)
BOTH = MixConfig(mixup=0.4, cutmix=1.0)


def by_pixels(views: torch.Tensor, share: list[float], box: list[list[int]]) -> torch.Tensor:
    """Each pixel of each image on its own: from the neighbour inside the box, else the two in their shares."""
    out = torch.empty_like(views)
    for b in range(views.shape[1]):
        other = b + 1 if b % 2 == 0 else b - 1
        top, bottom, left, right = box[b]
        is_cut = bottom > top and right > left
        for i in range(views.shape[3]):
            for j in range(views.shape[4]):
                own, theirs = views[:, b, :, i, j], views[:, other, :, i, j]
                if is_cut:
                    out[:, b, :, i, j] = theirs if top <= i < bottom and left <= j < right else own
                else:
                    out[:, b, :, i, j] = share[b] * own + (1 - share[b]) * theirs
    return out


@pytest.mark.parametrize("config", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])
def test_pixels_and_labels_equal_a_loop(config: MixConfig) -> None:
    torch.manual_seed(0)
    views = torch.rand(2, 8, 3, 7, 7, dtype=torch.float64)
    labels = torch.randint(5, (8,))
    for seed in range(6):
        mix = Mix.sample(config, 8, 7, seed)
        share, box = mix.share.tolist(), mix.box.tolist()
        torch.testing.assert_close(mix.apply(views), by_pixels(views, share, box), rtol=0, atol=1e-12)
        targets = mix.targets(soft_targets(labels, 5).double())
        for b in range(8):
            expected = [0.0] * 5
            expected[labels[b]] += share[b]
            expected[labels[b ^ 1]] += 1 - share[b]
            assert targets[b].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_share_is_what_is_left_of_the_image() -> None:
    """Images of one value each: the mean of a mixed image says how much of it is its own."""
    values = torch.tensor([1.0, 0.0] * 32)
    views = values.view(1, 64, 1, 1, 1).expand(1, 64, 3, 24, 24)
    for config in (MIXUP, CUTMIX, BOTH):
        mix = Mix.sample(config, 64, 24, 5)
        means = mix.apply(views).mean((0, 2, 3, 4))
        expected = torch.where(values == 1, mix.share, 1 - mix.share)
        torch.testing.assert_close(means, expected, rtol=0, atol=1e-6)


def test_a_box_of_no_area_leaves_the_image_whole() -> None:
    views = torch.rand(1, 2, 3, 6, 6)
    for box in ([0, 0, 0, 0], [2, 4, 3, 3], [3, 3, 1, 5]):
        mix = Mix(share=torch.ones(2), box=torch.tensor([box, box]))
        assert torch.equal(mix.apply(views), views)
    everything = Mix(share=torch.zeros(2), box=torch.tensor([[0, 6, 0, 6]] * 2))
    assert torch.equal(everything.apply(views), views.flip(1))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_share_of_mixup_is_beta(alpha: float) -> None:
    mix = Mix.sample(MixConfig(mixup=alpha), 8000, 8, seed=1)
    assert torch.equal(mix.share[::2], mix.share[1::2])
    assert not mix.box.any()
    assert stats.kstest(mix.share[::2].numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_boxes_are_the_papers() -> None:
    """Side sqrt(1 - share) around a uniform centre, cut off at the border, at a size where rounding is nothing."""
    size, pairs = 100_000, 4000
    mix = Mix.sample(MixConfig(cutmix=1.0), 2 * pairs, size, seed=3)
    top, bottom, left, right = mix.box[::2].double().T.numpy()
    assert torch.equal(mix.box[::2], mix.box[1::2])
    assert top.min() >= 0 and left.min() >= 0 and bottom.max() <= size and right.max() <= size
    area = (bottom - top) * (right - left) / size**2
    np.testing.assert_allclose(mix.share[::2].numpy(), 1 - area, atol=1e-6)
    # A box that no border cuts shows the side that was drawn: a square, whose sides' squares were uniform (Beta(1, 1)).
    whole = (top > 0) & (bottom < size) & (left > 0) & (right < size)
    np.testing.assert_allclose((bottom - top)[whole], (right - left)[whole], atol=2)
    drawn = np.random.default_rng(0)
    side = np.sqrt(drawn.uniform(0, 1, 200_000))
    centre = drawn.uniform(0, 1, (2, 200_000))
    low, high = np.clip(centre - side / 2, 0, 1), np.clip(centre + side / 2, 0, 1)
    for found, expected in ((area, (high - low).prod(0)), (top / size, low[0]), (right / size, high[1])):
        assert stats.ks_2samp(found, expected).pvalue > 0.01


def test_with_both_on_every_pair_takes_one_of_the_two() -> None:
    mix = Mix.sample(BOTH, 4000, 32, seed=0)
    cut = (mix.box[:, 1] > mix.box[:, 0])[::2]
    assert stats.binomtest(int(cut.sum()), 2000, 0.5).pvalue > 0.001
    alone = mix.share[::2][~cut].numpy()  # a few of them are boxes that were rounded away
    assert stats.kstest(alone[alone < 1 - 1e-6], stats.beta(0.4, 0.4).cdf).pvalue > 0.001


def test_a_slice_of_the_batch_keeps_its_pairs() -> None:
    torch.manual_seed(0)
    views, soft = torch.rand(1, 12, 3, 8, 8), torch.rand(12, 4)
    mix = Mix.sample(BOTH, 12, 8, seed=2)
    for rows in (slice(0, 6), slice(6, 12), slice(4, 8)):
        part = mix.rows(rows)
        assert torch.equal(part.apply(views[:, rows]), mix.apply(views)[:, rows])
        assert torch.equal(part.targets(soft[rows]), mix.targets(soft)[rows])
    for rows in (slice(1, 5), slice(0, 3)):
        with pytest.raises(ValueError, match="cut a pair"):
            mix.rows(rows)


def test_it_is_a_pure_function_of_the_seed() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator must not matter
    one = Mix.sample(BOTH, 16, 32, seed=2**62 + 11)
    torch.rand(5)
    other = Mix.sample(BOTH, 16, 32, seed=2**62 + 11)
    assert torch.equal(one.share, other.share) and torch.equal(one.box, other.box)
    assert not torch.equal(one.share, Mix.sample(BOTH, 16, 32, seed=2**62 + 12).share)


def test_types_stay_and_gradients_pass() -> None:
    mix = Mix.sample(BOTH, 4, 8, seed=0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert mix.apply(torch.rand(2, 4, 3, 8, 8).to(dtype)).dtype == dtype
        assert mix.targets(torch.rand(4, 3).to(dtype)).dtype == dtype
    views = torch.rand(1, 4, 3, 8, 8, requires_grad=True)
    mix.apply(views).sum().backward()
    torch.testing.assert_close(views.grad, torch.ones_like(views))  # every pixel is shown once in all


def test_soft_targets() -> None:
    hot = soft_targets(torch.tensor([2, 0]), 3)
    assert hot.tolist() == [[0, 0, 1], [1, 0, 0]] and hot.dtype == torch.float32
    weighed = soft_targets(torch.tensor([2, 0]), 3, torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert weighed.tolist() == [[0, 0, 0.5], [0, 0, 0]]


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_wrong_alpha_is_refused(name: str, alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"mix\.{name} is {alpha}"):
        MixConfig(**{name: alpha})


def test_odd_batches_and_hard_objectives_are_refused(tiny_run: TrainConfig) -> None:
    with pytest.raises(ValueError, match="a batch of 5 images cannot be mixed in pairs"):
        Mix.sample(MIXUP, 5, 8, 0)
    with pytest.raises(ConfigError, match=r"mix\.mixup=0\.4 .* the objective nt-xent does not take"):
        replace(tiny_run, mix=MIXUP)
    odd = replace(tiny_run, objective=CrossEntropyConfig(), mix=MIXUP, train=replace(tiny_run.train, batch_size=101))
    with pytest.raises(ConfigError, match="batch_size=101 does not divide among 1 processes in whole pairs"):
        simclr.pretrain(odd)
    assert not odd.run_dir.exists()
