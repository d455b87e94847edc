"""How many threads a launched command trains with, asked of a process that was really launched."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from augment import AugmentConfig
from simclr.config import DataConfig
from simclr.cores import Crowd, _cores
from simclr.data import load_source
from simclr.data.check import check_folder
from simclr.data.decode import Reader
from simclr.data.embed import embed_images

CPU = torch.device("cpu")

SCRIPT = """
import sys, torch
from simclr.command_line import run_command
sys.exit(run_command(lambda words: print("threads", torch.get_num_threads()) or 0))
"""


def threads(tmp_path: Path, launcher: list[str], **variables: str) -> int:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | variables
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, *launcher, str(script)], capture_output=True, text=True, env=environment, check=True
    )
    return int(done.stdout.split("threads ")[1].split()[0])


ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "1"]


def test_accelerate_leaves_all_cores(tmp_path: Path) -> None:
    assert threads(tmp_path, ACCELERATE) == _cores()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="what a launcher was told is read from /proc")
@pytest.mark.parametrize("way", ["variable", pytest.param("flag", marks=pytest.mark.long)])
def test_what_the_user_asked_for_stays(way: str, tmp_path: Path) -> None:
    if way == "flag":
        assert threads(tmp_path, [*ACCELERATE, "--num_cpu_threads_per_process", "1"]) == 1
    else:
        assert threads(tmp_path, ACCELERATE, OMP_NUM_THREADS="1") == 1


def test_a_crowd_is_told_from_waiting_and_from_work(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [(0.0, 0.0, 0)]
    monkeypatch.setattr(Crowd, "_counts", lambda self: counts[-1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def after(wall: float, used: float, taken: int) -> str | None:
        crowd = Crowd()
        counts.append(tuple(a + b for a, b in zip(counts[-1], (wall, used, taken))))
        return crowd.words()

    assert after(10, 19, 3000) is None  # both cores
    assert after(10, 3, 30) is None  # it waits for a disk
    assert after(2, 0.5, 600) is None  # too early to tell
    assert "2 threads got 0.6 of them" in (after(10, 6, 2000) or "")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert after(10, 3, 2000) is None


@pytest.mark.long
def test_without_a_launcher_nothing_is_changed(tmp_path: Path) -> None:
    assert threads(tmp_path, [], OMP_NUM_THREADS="1") == 1


def test_a_folder_is_decoded_by_the_share_of_cores_of_this_process(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six cores for two processes: three threads meet, and there is no fourth."""
    monkeypatch.setattr("simclr.cores._cores", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for method, call in (
        ("square", lambda images: images.resident(torch.device("cpu"))),
        ("read", lambda images: check_folder(DataConfig(source="folder", path=image_folder, size=16))),
        ("square", lambda images: embed_images(images, means, AugmentConfig(size=16), CPU)),
    ):
        meeting, threads, read = threading.Barrier(3, timeout=20), set(), getattr(Reader, method)

        def decoded(
            *given: object,
            read: Callable[..., Any] = read,
            meeting: threading.Barrier = meeting,
            threads: set[int] = threads,
        ) -> Any:
            threads.add(threading.get_ident())
            meeting.wait()
            return read(*given)

        images = load_source(DataConfig(source="folder", path=image_folder, size=16, test_fraction=0.1), "train")
        images = images.subset(torch.arange(21))
        with monkeypatch.context() as patch:
            patch.setattr(Reader, method, decoded)
            call(images)
        assert len(threads) == 3


def means(x: Tensor) -> Tensor:
    return x.mean((2, 3))
