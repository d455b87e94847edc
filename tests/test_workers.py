"""Reading by worker processes: their errors arrive as they were, their death is said where a batch is asked for."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from linear_eval.features.images import image_batches
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source, workers
from simclr.data.workers import read_by_workers
from simclr.errors import ConfigError, DataError

CPU = torch.device("cpu")


class Doubled:
    """Twice the numbers it is asked for, or what the number 13 stands for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, key: list[int]) -> Tensor:
        if self.error is not None and 13 in key:
            raise self.error
        return 2 * torch.tensor(key)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_key_is_answered_in_order(workers: int) -> None:
    keys = [[0, 1], [2], [5, 4, 3], []]
    found = [part.tolist() for part in read_by_workers(Doubled(), keys, workers=workers)]
    assert found == [[2 * number for number in key] for key in keys]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [DataError("x.png: cut off"), ConfigError("y is 3; it must be 4")], ids=repr)
def test_an_error_of_the_users_is_the_one_line_that_it_was(workers: int, error: Exception) -> None:
    source = read_by_workers(Doubled(error), [[1], [2], [13], [4]], workers=workers)
    assert [next(source).tolist(), next(source).tolist()] == [[2], [4]]
    with pytest.raises(type(error)) as raised:
        next(source)
    assert str(raised.value) == str(error)


def test_an_error_of_ours_keeps_the_workers_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match=r"(?s)Traceback.*raise self\.error"):
        list(read_by_workers(Doubled(ZeroDivisionError("ours")), [[13]], workers=1))


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="no such signal")
@pytest.mark.slow
def test_a_worker_that_is_killed_is_said_at_the_next_batch_and_nowhere_else() -> None:
    source = read_by_workers(Doubled(), [[number] for number in range(1000)], workers=2, prefetch=1)
    assert next(source).tolist() == [0]
    handler = signal.getsignal(signal.SIGCHLD)
    victim = multiprocessing.active_children()[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{victim.pid}/stat").exists() and victim.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)  # here a training step would be under way: nothing is raised in it
    with pytest.raises(DataError, match=r"DataLoader worker .*\d.*Killed|exited unexpectedly") as raised:
        list(source)
    assert "\n" not in str(raised.value) and "--data.workers" in str(raised.value)
    assert signal.getsignal(signal.SIGCHLD) is not handler  # torch's own is back


@pytest.mark.parametrize("workers", [0, 1])
def test_scoring_names_the_file_and_nothing_else(image_folder: Path, workers: int) -> None:
    images: ImageSet = load_source(DataConfig(source="folder", path=image_folder, size=16), "train")
    assert images.paths is not None
    images.paths[7].write_bytes(b"spoilt")
    with pytest.raises(DataError) as raised:
        list(image_batches(images, torch.arange(len(images)), 4, CPU, workers))
    assert str(raised.value) == f"{images.paths[7]}: not an image that can be read"


def test_scoring_no_image_at_all_gives_no_batch(image_folder: Path) -> None:
    images = load_source(DataConfig(source="folder", path=image_folder, size=16), "train")
    assert list(image_batches(images, torch.arange(0), 4, CPU)) == []


@pytest.mark.slow
def test_a_disk_that_answers_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 1)
    with pytest.raises(DataError, match="the disk or network folder hangs"):
        next(read_by_workers(time.sleep, [30], workers=1))


def test_no_room_for_shared_memory_is_an_error_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, whose /dev/shm is 64 MB: a queue's thread fails, in which nobody hears it."""

    def full(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(DataError, match=r"/dev/shm \(\d+ MB\) has no room .* docker run --shm-size 8g"):
        list(read_by_workers(Doubled(), [[1], [2]], workers=1))
