"""A set decoded at once: the same pixels and the same faults from threads and from processes, whatever becomes of these."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor

from simclr.data import ImageSet, decode_all, workers
from simclr.data.decode import Reader
from simclr.errors import ConfigError, DataError

CPU = torch.device("cpu")
COUNT = 300
BROKEN = {130: b"spoilt", 131: b"", 299: b"\xff\xd8\xff\xe0 cut off"}

forks = pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="threads decode here")


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, however few and however large the images."""
    monkeypatch.setattr(decode_all, "FEW", 16)
    monkeypatch.setattr(decode_all, "LOCKED", 100.0)
    monkeypatch.setattr(decode_all, "_PART", 16)
    monkeypatch.setattr(decode_all, "share_of_cores", lambda: 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Squares, lying and standing pictures, in colours and gray, turned by EXIF; three are broken."""
    folder, rng, paths = tmp_path_factory.mktemp("files"), np.random.default_rng(0), []
    for number in range(COUNT):
        height, width = [(16, 16), (20, 20), (16, 24), (50, 18), (9, 9)][number % 5]
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        exif = picture.getexif()
        exif[0x0112] = 1 + number % 8
        picture = picture.convert("L") if number % 7 == 0 else picture
        paths.append(folder / f"{number:03d}.{'png' if number % 3 else 'jpg'}")
        picture.save(paths[-1], exif=exif)
        if number in BROKEN:
            paths[-1].write_bytes(BROKEN[number])
    return paths


def who(index: int) -> tuple[Tensor, None]:
    """The process that decodes an image, and the image's number."""
    numbers = [*os.getpid().to_bytes(4, "little"), *index.to_bytes(4, "little")]
    return torch.tensor(numbers, dtype=torch.uint8).reshape(2, 2, 2), None


def processes_of(into: Tensor) -> list[int]:
    """Which process decoded each row, after a look at whether every row is the image that it should be."""
    rows = [bytes(row.flatten().tolist()) for row in into]
    assert [int.from_bytes(row[4:], "little") for row in rows] == list(range(len(rows)))
    return [int.from_bytes(row[:4], "little") for row in rows]


def decoded(read: Callable[[int], tuple[Tensor, None]], count: int = COUNT) -> list[int]:
    into = torch.empty(count, 2, 2, 2, dtype=torch.uint8)
    assert decode_all.decode_all(read, count, into, None) == {}
    assert not multiprocessing.active_children()
    return processes_of(into)


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_processes_give_the_bits_of_one_image_after_another(files: list[Path], fit: str, channels: int) -> None:
    reader = Reader(size=16, fit=fit, channels=channels)  # type: ignore[arg-type]
    images = ImageSet.from_files(files, reader, labels=torch.arange(COUNT), classes=(), name="x", broken="skip")
    broken: dict[int, str] = {}
    squares, kept = images.resident(CPU, broken=broken), images.resident(CPU, shapes=True)
    good = [number for number in range(COUNT) if number not in BROKEN]
    assert squares.labels is not None and squares.labels.tolist() == good
    assert torch.equal(squares.pixels, torch.stack([reader.square(files[i]) for i in good]))  # type: ignore[arg-type]
    assert torch.equal(kept.pixels, torch.stack([reader.square_and_whole(files[i], longest=2)[0] for i in good]))  # type: ignore[arg-type]
    assert kept.originals is not None
    for row, size, i in zip(kept.originals.pixels, kept.originals.sizes.tolist(), good, strict=True):
        whole = reader.square_and_whole(files[i], longest=2)[1]
        assert list(whole.shape[1:]) == size
        upright = whole if size[0] >= size[1] else whole.transpose(1, 2)
        assert torch.equal(row[:, : max(size)], upright)
    assert list(broken) == list(BROKEN)
    for i, reason in broken.items():
        with pytest.raises(DataError) as raised:
            reader.square(files[i])
        assert str(raised.value) == reason
    assert len(images.intact()) == len(good)


@pytest.mark.usefixtures("by_processes")
def test_a_set_that_refuses_broken_files_says_so_in_the_same_words(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, said = ImageSet.from_files(files, 16, labels=None, classes=(), name="x"), []
    for few in (16, 10_000):
        monkeypatch.setattr(decode_all, "FEW", few)
        with pytest.raises(DataError) as raised:
            images.resident(CPU)
        said.append(str(raised.value))
    assert said[0] == said[1] and all(str(files[number]) in said[0] for number in BROKEN)


@forks
@pytest.mark.usefixtures("by_processes")
def test_processes_decode_what_is_small_and_much_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(decoded(who))) == 2 and os.getpid() not in decoded(who)
    for name, value in [("FEW", 301), ("LOCKED", 0.0), ("share_of_cores", lambda: 1)]:
        with monkeypatch.context() as patch:
            patch.setattr(decode_all, name, value)
            assert set(decoded(who)) == {os.getpid()}


@pytest.mark.usefixtures("by_processes")
def test_how_a_set_was_decoded_does_not_show_in_what_is_drawn_behind_it() -> None:
    before = torch.get_rng_state()
    decoded(who)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("by_processes")
def test_what_a_worker_leaves_that_is_killed_is_decoded_here() -> None:
    def read(index: int) -> tuple[Tensor, None]:
        if index == 170 and multiprocessing.parent_process() is not None and os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return who(index)

    own = os.getpid()
    found = decoded(read)
    assert found[-1] == own
    assert multiprocessing.get_all_start_methods()[0] != "fork" or own not in found[:16]


@forks
@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("started", [0, 1])
def test_a_system_that_starts_no_process_has_threads(started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, fork = [], os.fork

    def refused() -> int:
        calls.append(1)
        if len(calls) > started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", refused)
    into = torch.empty(COUNT, 2, 2, 2, dtype=torch.uint8)
    assert decode_all.decode_all(who, COUNT, into, None) == {}
    assert set(processes_of(into)) == {os.getpid()}
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("by_processes")
def test_an_error_that_is_no_files_is_raised_as_it_is(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(index: int) -> tuple[Tensor, None]:
        if index == 201:  # not among those that are timed
            raise ConfigError("y is 3; it must be 4")
        return who(index)

    with pytest.raises(ConfigError, match="y is 3; it must be 4"):
        decoded(read)
    assert not multiprocessing.active_children()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES is set"):
        ImageSet.from_files(files, 16, labels=None, classes=(), name="x").resident(CPU)


@pytest.mark.usefixtures("by_processes")
def test_a_disk_that_hangs_is_said_and_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 1)
    own = os.getpid()

    def read(index: int) -> tuple[Tensor, None]:
        time.sleep(60 if os.getpid() != own else 0)
        return who(index)

    if multiprocessing.get_all_start_methods()[0] == "fork":
        with pytest.raises(DataError, match="the disk or network folder hangs"):
            decoded(read)
        assert not multiprocessing.active_children()


PROGRAM = """
    import sys
    from simclr.stopping import Stopped, exit_code, imports_are_done, listen
    listen()
    import os, time
    import torch
    from simclr.data import decode_all
    imports_are_done()
    decode_all.FEW, decode_all.LOCKED, decode_all._PART, decode_all.share_of_cores = 16, 100.0, 16, lambda: 2
    own, seconds = os.getpid(), float(sys.argv[1])
    def read(index):
        if os.getpid() != own:
            time.sleep(seconds)
        return torch.tensor([[[index % 256, os.getpid() != own]]], dtype=torch.uint8), None
    into = torch.empty(3000, 1, 1, 2, dtype=torch.uint8)
    try:
        failed = decode_all.decode_all(read, 3000, into, None)
    except Stopped:
        sys.exit(exit_code())
    assert not failed and into[:, 0, 0, 0].tolist() == [index % 256 for index in range(3000)]
    print("processes" if into[:, 0, 0, 1].all() else "threads" if not into[:, 0, 0, 1].any() else "both")
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    return [sys.executable, str(tmp_path / "program.py")]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while len(found := psutil.Process(process.pid).children()) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # until they ignore requests, too
    return found


@forks
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
    ],
    ids=lambda number: number.name,
)
def test_asked_to_stop_or_killed_while_it_decodes_a_process_leaves_nobody(
    number: signal.Signals, program: list[str]
) -> None:
    process = subprocess.Popen(
        [*program, "0.05"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        found = workers_of(process)
        os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
        assert number == signal.SIGKILL or not said
        assert not psutil.wait_procs(found, timeout=30)[1]
    finally:
        process.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")
@pytest.mark.long
@pytest.mark.parametrize(("size", "by"), [("1m", "processes"), ("4k", "threads")])
def test_a_small_shared_memory_is_enough(size: str, by: str, program: list[str]) -> None:
    own = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*own, "true"], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    done = subprocess.run([*own, *program, "0"], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == (f"{by}\n", "", 0)
