"""Batches: the resident and the decoded way bring the same images, from any step on, on any number of ranks."""

from pathlib import Path

import pytest
import torch

from simclr.config import DataConfig
from simclr.data import Batches, EpochSampler, ImageSet, load_source, place
from simclr.data.loader import fits_on
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
