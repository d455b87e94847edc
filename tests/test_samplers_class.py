"""P x K batches: the right classes and numbers, no image twice, every class in its turn, ranks that share one batch."""

import pytest
import torch

from simclr.data.samplers import ClassSampler
from simclr.errors import ConfigError, DataError

LONG_TAIL = torch.cat([torch.full((n,), c) for c, n in enumerate([50, 20, 8, 5, 4, 3, 2, 1, 1, 1, 1])])


def test_p_classes_of_k_images() -> None:
    labels = torch.arange(20).repeat(10)
    sampler = ClassSampler(labels=labels, batch_size=32, classes=8, per_class=4, seed=1)
    for step in range(50):
        batch = sampler.indices(step)
        assert len(batch.unique()) == 32
        counts = torch.bincount(labels[batch], minlength=20)
        assert sorted(counts[counts > 0].tolist()) == [4] * 8
        assert torch.equal(batch, sampler.indices(step))


def test_classes_take_turns() -> None:
    labels = torch.arange(12).repeat(6)
    sampler = ClassSampler(labels=labels, batch_size=12, classes=4, per_class=3)
    for turn in range(5):
        seen = torch.cat([labels[sampler.indices(3 * turn + s)].unique() for s in range(3)])
        assert seen.sort().values.tolist() == list(range(12))


@pytest.mark.parametrize(("batch", "classes", "per_class"), [(16, 4, 4), (24, 2, 8), (90, 3, 30)])
def test_small_classes_and_random_negatives(batch: int, classes: int, per_class: int) -> None:
    sampler = ClassSampler(labels=LONG_TAIL, batch_size=batch, classes=classes, per_class=per_class)
    singles = 0
    for step in range(40):
        chosen = sampler.indices(step)
        assert len(chosen) == len(chosen.unique()) == batch
        counts = torch.bincount(LONG_TAIL[chosen], minlength=11)
        whole = torch.bincount(LONG_TAIL)
        enough = (counts >= torch.minimum(whole, torch.tensor(per_class))) & (whole >= 2)
        assert enough.sum() >= classes
        singles += int(counts[7:].sum())
    assert singles > 0  # classes of one image appear too, as negatives


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_batch_and_mix_its_classes(world: int) -> None:
    labels = torch.arange(10).repeat(20)
    sampler = ClassSampler(labels=labels, batch_size=32, classes=4, per_class=8, seed=5)
    slices = [sampler.indices(9, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat(slices), sampler.indices(9))
    assert all(len(labels[part].unique()) > 1 for part in slices)


def test_what_cannot_work_is_refused() -> None:
    labels = torch.arange(10).repeat(2)
    with pytest.raises(ConfigError, match=r"sampler\.classes=8 x sampler\.per_class=4 is 32 images.*batch_size=16"):
        ClassSampler(labels=labels, batch_size=16, classes=8, per_class=4)
    with pytest.raises(ConfigError, match="expected at least 1 and 2"):
        ClassSampler(labels=labels, batch_size=16, classes=8, per_class=1)
    with pytest.raises(DataError, match="no class has two images"):
        ClassSampler(labels=torch.arange(40), batch_size=16, classes=4, per_class=4)
    with pytest.raises(DataError, match="20 images, fewer than one batch of 32"):
        ClassSampler(labels=labels, batch_size=32, classes=4, per_class=4)
