"""Images through a module: decoded by threads and shared among processes, with the outputs of one process and one thread."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from augment import AugmentConfig, preprocess
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.data.decode import decode
from simclr.data.embed import embed_images
from simclr.data.left_out import LeftOut
from simclr.errors import DataError

CPU = torch.device("cpu")
AUGMENT = AugmentConfig(size=16)


def files(folder: Path, broken: str = "refuse") -> ImageSet:
    config = DataConfig(source="folder", path=folder, size=16, test_fraction=0.1, broken=broken)
    return load_source(config, "train")


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)
    ).eval()


def one_thread(images: ImageSet, batch: int) -> Tensor:
    assert images.paths is not None
    pixels = torch.stack([decode(path, 16) for path in images.paths])
    with torch.no_grad():
        return torch.cat([module()(preprocess(x, 16, AUGMENT.mean, AUGMENT.std)) for x in pixels.split(batch)])


@pytest.mark.parametrize("batch", [1, 5, 21, 512])
@pytest.mark.parametrize("resident", [False, True])
def test_outputs_are_those_of_one_thread_to_the_bit(image_folder: Path, batch: int, resident: bool) -> None:
    images = files(image_folder)
    z, rows = embed_images(images.resident(CPU) if resident else images, module(), AUGMENT, CPU, batch=batch)
    assert torch.equal(z, one_thread(images, batch)) and rows.tolist() == list(range(len(images)))


@pytest.mark.parametrize(("batch", "workers"), [(4, 0), (4, 2), (512, 0)])
def test_a_file_that_breaks_is_left_out_and_said_once_or_refused(
    image_folder: Path, batch: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr.data.embed._FEW", 0)
    monkeypatch.setattr("simclr.data.embed._AT_ONCE", 3)  # parts of a batch, of which the last is smaller
    monkeypatch.setattr("simclr.data.embed.way_to_start", lambda read: "fork")  # in no time
    images = files(image_folder, "skip")
    whole = one_thread(images, batch)
    assert torch.equal(embed_images(images, module(), AUGMENT, CPU, batch=batch, workers=workers)[0], whole)
    assert images.paths is not None
    for number in (0, 3, 4, 5, 6, 7):  # with a batch of 4: all of the second
        images.paths[number].write_bytes(b"spoilt")
    said: list[str] = []
    left_out = LeftOut(said.append)
    for _ in range(2):
        z, rows = embed_images(images, module(), AUGMENT, CPU, left_out, batch, workers)
        assert rows.tolist() == [number for number in range(len(images)) if number not in (0, 3, 4, 5, 6, 7)]
        torch.testing.assert_close(z, whole[rows])
    assert len(said) == 6 and all(any(str(images.paths[n]) in line for line in said) for n in (0, 3, 4, 5, 6, 7))
    with pytest.raises(DataError, match=f"^{images.paths[0]}: not an image that can be read$"):
        embed_images(replace(images, broken="refuse"), module(), AUGMENT, CPU, batch=batch, workers=workers)
    for path in images.paths:
        path.write_bytes(b"spoilt")
    with pytest.raises(DataError, match=r"none of the .* decodes"):
        embed_images(images, module(), AUGMENT, CPU, batch=batch, workers=workers)


def embed_on(rank: int, port: int, folder: str, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    images = files(Path(folder))
    assert images.paths is not None
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return net(x)

    net = module()
    found = {batch: embed_images(images, counted, AUGMENT, CPU, batch=batch) for batch in (4, 512)}
    dist.barrier()
    if rank == 1:
        images.paths[5].write_bytes(b"spoilt")  # in the second batch of four: that of rank 1
    dist.barrier()
    said: list[str] = []
    left = embed_images(replace(images, broken="skip"), net, AUGMENT, CPU, LeftOut(said.append), 4)
    try:
        embed_images(images, net, AUGMENT, CPU, batch=4)
    except DataError as error:
        said.append(str(error))
    torch.save((found, calls, left, said), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_work_and_both_have_the_whole(
    ranks: Callable[..., None], free_port: Callable[[], int], image_folder: Path, tmp_path: Path
) -> None:
    images = files(image_folder)
    assert images.paths is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = {batch: one_thread(images, batch) for batch in (4, 512)}
    torch.set_num_threads(threads)
    ranks(2, embed_on, free_port(), str(image_folder), str(tmp_path))
    for rank in (0, 1):
        found, calls, (left, kept), said = torch.load(tmp_path / f"{rank}.pt")
        for batch, (z, rows) in found.items():
            assert torch.equal(z, alone[batch]) and rows.tolist() == list(range(22))
        assert calls == ([4, 4, 4, 22] if rank == 0 else [4, 4, 2])
        assert kept.tolist() == [number for number in range(22) if number != 5]
        torch.testing.assert_close(left, alone[4][kept])
        assert len(said) == 2 and all(str(images.paths[5]) in line for line in said)
