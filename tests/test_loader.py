"""Batches: the resident and the decoded way bring the same images, from any step on, on any number of ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simclr.config import DataConfig
from simclr.data import Batches, EpochSampler, ImageSet, load_source, place
from simclr.data.left_out import LeftOut
from simclr.data.loader import Batch, fits_on
from simclr.data.samplers import MinedSampler, Sampler, random_triplets
from simclr.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def files(image_folder: Path) -> ImageSet:
    return load_source(DataConfig(source="folder", path=image_folder, size=16, test_fraction=0.1), "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_resident_and_decoded_batches_are_equal(files: ImageSet, workers: int) -> None:
    sampler = EpochSampler(images=len(files), batch_size=8, seed=1)
    ways = [
        list(Batches(images, sampler, CPU, start=1, stop=5, workers=workers))
        for images in (place(files, CPU, "yes"), place(files, CPU, "no"))
    ]
    assert [len(way) for way in ways] == [4, 4]
    for one, other in zip(*ways):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels, files.labels[one.indices])


def test_ranks_share_a_batch(files: ImageSet) -> None:
    sampler = EpochSampler(images=len(files), batch_size=8, seed=1)
    resident = place(files, CPU, "yes")
    whole = next(iter(Batches(resident, sampler, CPU, start=3, stop=4)))
    halves = [next(iter(Batches(resident, sampler, CPU, start=3, stop=4, rank=r, world=2))) for r in (0, 1)]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)


def test_a_worker_names_the_file_it_cannot_decode(files: ImageSet) -> None:
    files.paths[5].write_bytes(b"spoilt")
    sampler = EpochSampler(images=len(files), batch_size=len(files), seed=0)
    with pytest.raises(DataError, match=files.paths[5].name):
        list(Batches(files, sampler, CPU, start=0, stop=1, workers=2))


def test_auto_keeps_only_what_fits(files: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(files, CPU, "auto").pixels is not None
    monkeypatch.setattr("simclr.data.loader.available_memory", lambda: 4 * files.nbytes)
    assert not fits_on(CPU, files.nbytes)
    assert place(files, CPU, "auto").pixels is None


@pytest.mark.parametrize("resident", ["yes", "no"])
@pytest.mark.parametrize("start", [0, 2, 3, 7])
def test_what_is_called_every_few_steps_comes_before_anything_behind_it_is_read(
    files: ImageSet, resident: str, start: int
) -> None:
    """The sampler gives what the latest call left; a worker that read ahead would show an older one."""

    class Latest(EpochSampler):
        def indices(self, step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
            return torch.tensor([latest["number"], step])

    latest = {"number": start}
    calls, done = [], []
    images = place(files, CPU, resident)
    batches = Batches(images, Latest(images=len(files), batch_size=2, seed=0), CPU, start=start, stop=8, workers=1)

    def refresh(step: int) -> None:
        assert done == list(range(start, step))  # the step before it is done
        calls.append(step)
        latest["number"] = step

    batches.call_every(3, refresh)
    for step, batch in enumerate(batches, start=start):
        assert batch.indices.tolist() == [max([start, *(s for s in (0, 3, 6) if s <= step and s >= start)]), step]
        done.append(step)
    assert done == list(range(start, 8))
    assert calls == [step for step in (0, 3, 6) if step >= start]


def test_targets_of_a_batch() -> None:
    labels, nothing = torch.tensor([1, 0]), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    numbers = torch.tensor([0.5, 2.0])
    plain = Batch(nothing, labels, labels)
    assert plain.targets(3) is labels
    assert plain.targets(3, soft=True).tolist() == [[0, 1, 0], [1, 0, 0]]
    valued = Batch(nothing, labels, labels, numbers)
    assert valued.targets(3) is labels  # an objective on hard labels has no use for their quality
    assert valued.targets(3, soft=True).tolist() == [[0, 0.5, 0], [2, 0, 0]]
    assert Batch(nothing, torch.tensor([-1, -1]), labels, numbers).targets(0) is numbers


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_values_come_with_their_images(files: ImageSet, resident: str) -> None:
    valued = replace(files, values=torch.arange(len(files)) / 10)
    sampler = EpochSampler(images=len(files), batch_size=8, seed=1)
    for batch in Batches(place(valued, CPU, resident), sampler, CPU, start=0, stop=2, workers=1):
        assert torch.equal(batch.values, batch.indices / 10)


def broken_in_a_batch(files: ImageSet, sampler: Sampler, step: int, rows: list[int]) -> tuple[ImageSet, list[Batch]]:
    """The set with ``broken=skip`` after the files at ``rows`` of the batch of ``step`` broke, and its batches 0 to 5."""
    assert files.paths is not None
    for index in sampler.indices(step)[rows].tolist():
        files.paths[index].write_bytes(b"spoilt")
    skipping = replace(files, broken="skip")
    return skipping, list(Batches(skipping, sampler, CPU, start=0, stop=6, workers=0))


def test_another_image_of_the_class_that_is_not_in_the_batch_takes_a_broken_ones_place(files: ImageSet) -> None:
    sampler = EpochSampler(images=len(files), batch_size=8, seed=1)
    wanted = [sampler.indices(step) for step in range(6)]
    whole = list(Batches(place(files, CPU, "yes"), sampler, CPU, start=0, stop=6))
    spoilt = wanted[2][[0, 3, 7]].tolist()
    images, batches = broken_in_a_batch(files, sampler, 2, [0, 3, 7])
    for step, (batch, before) in enumerate(zip(batches, whole, strict=True)):
        gone = torch.isin(wanted[step], torch.tensor(spoilt))
        assert torch.equal(batch.indices[~gone], wanted[step][~gone])
        assert torch.equal(batch.images[~gone], before.images[~gone])
        assert torch.equal(batch.labels, before.labels)  # as many of each class
        assert len(batch.indices.unique()) == 8 and not torch.isin(batch.indices, torch.tensor(spoilt)).any()
        for index, image, label in zip(batch.indices.tolist(), batch.images, batch.labels.tolist(), strict=True):
            assert torch.equal(image, images[index][0]) and label == images.labels[index]
    # A pure function of the step, however many processes take part in it and wherever they begin.
    for world in (2, 4):
        ways = [
            list(Batches(images, sampler, CPU, start=2, stop=4, rank=rank, world=world, workers=1))
            for rank in range(world)
        ]
        for step in (2, 3):
            shares = [way[step - 2] for way in ways]
            assert torch.equal(torch.cat([share.indices for share in shares]), batches[step].indices)
            assert torch.equal(torch.cat([share.images for share in shares]), batches[step].images)


def test_triplets_stay_triplets(files: ImageSet) -> None:
    sampler = MinedSampler(images=len(files), batch_size=9, mine_every=3)
    sampler.triplets = random_triplets(files.labels, 18, 0)
    _, batches = broken_in_a_batch(files, sampler, 1, [0, 1, 2])
    anchor, positive, negative = batches[1].labels.view(-1, 3).T
    assert torch.equal(anchor, positive) and (anchor != negative).all()
    assert (batches[1].indices.view(-1, 3)[:, 0] != batches[1].indices.view(-1, 3)[:, 1]).all()


def test_each_broken_file_is_said_once_and_a_disk_that_is_gone_ends_it(files: ImageSet) -> None:
    sampler = EpochSampler(images=len(files), batch_size=len(files), seed=0)
    said: list[str] = []
    images = replace(files, broken="skip")
    images.paths[5].write_bytes(b"spoilt")
    batches = list(Batches(images, sampler, CPU, start=0, stop=3, workers=1, left_out=LeftOut(said.append)))
    assert said == [f"left out, since it broke after the start: {images.paths[5]}: not an image that can be read"]
    assert all(len(batch.indices.unique()) == len(files) - 1 for batch in batches)  # none is free: one is there twice
    for path in images.paths:
        path.write_bytes(b"spoilt")
    with pytest.raises(DataError, match="and so do the 16 files tried in its place"):
        list(Batches(images, sampler, CPU, start=0, stop=1, workers=1))
