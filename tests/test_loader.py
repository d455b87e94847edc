"""Batches: the resident and the decoded way bring the same images, from any step on, on any number of ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simclr.config import DataConfig
from simclr.data import Batches, EpochSampler, ImageSet, load_source, place
from simclr.data.loader import Batch, fits_on
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
    monkeypatch.setattr("simclr.data.loader._available_ram", lambda: 4 * files.nbytes)
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
