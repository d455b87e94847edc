"""The order of the images: permutations, drawn afresh each epoch, the same whoever asks and however many share it."""

import pytest
import torch

from simclr.data import EpochSampler
from simclr.errors import DataError


@pytest.mark.parametrize(("images", "batch", "world"), [(10, 4, 1), (10, 4, 2), (64, 8, 4), (7, 7, 7)])
def test_an_epoch_is_a_permutation_cut_into_batches(images: int, batch: int, world: int) -> None:
    sampler = EpochSampler(images=images, batch_size=batch, seed=3)
    for epoch in range(3):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        seen = torch.cat([sampler.indices(s, r, world) for s in steps for r in range(world)])
        assert len(seen) == len(seen.unique()) == images // batch * batch
        assert set(seen.tolist()) <= set(range(images))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    one, same, other = (EpochSampler(images=100, batch_size=10, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.indices(57), same.indices(57))
    assert not torch.equal(one.indices(7), other.indices(7))
    assert not torch.equal(one.indices(7), one.indices(17))  # the same place in the next epoch


def test_every_image_is_left_out_about_equally_often() -> None:
    sampler = EpochSampler(images=10, batch_size=4, seed=0)
    counts = torch.zeros(10)
    epochs = 2000
    for step in range(2 * epochs):
        counts[sampler.indices(step)] += 1
    # Each epoch leaves 2 of 10 out: binomial with p = 0.8, five standard deviations.
    assert ((counts - 0.8 * epochs).abs() < 5 * (epochs * 0.8 * 0.2) ** 0.5).all()


def test_too_few_images_names_both_numbers() -> None:
    with pytest.raises(DataError, match=r"5 images.*batch of 8.*--train.batch-size"):
        EpochSampler(images=5, batch_size=8)
    with pytest.raises(DataError, match=r"1 image, .*batch of 8; add images$"):  # no batch is small enough
        EpochSampler(images=1, batch_size=8)
