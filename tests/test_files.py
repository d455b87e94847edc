"""Writing: a file is whole or as it was, whatever library writes it and whatever the disk says."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import load_file

from simclr.errors import CheckpointError
from simclr.files import atomically, is_leftover, refused, write_json, write_state, write_tensors

SmallDisk = Callable[[int], AbstractContextManager[None]]


def write_picture(path: Path) -> None:
    figure = Figure(dpi=100)
    FigureCanvasAgg(figure)
    figure.add_subplot().imshow(np.random.default_rng(0).random((200, 200)))
    atomically(path, lambda file: figure.savefig(file, format="png"))


def write_program(path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(100, 100), (torch.zeros(1, 100),))
    atomically(path, lambda file: torch.export.save(program, file))


NOISE = torch.arange(30_000.0)
WRITERS: dict[str, Callable[[Path], None]] = {
    "safetensors": lambda path: write_tensors(path, {"x": NOISE}),
    "torch.save": lambda path: write_state(path, {"x": NOISE}),
    "torch.export": write_program,
    "json": lambda path: write_json(path, NOISE.tolist()),
    "numpy": lambda path: atomically(path, lambda file: np.savez(file, x=NOISE.numpy())),
    "parquet": lambda path: atomically(path, lambda file: pq.write_table(pa.table({"x": NOISE.numpy()}), file)),
    "picture": write_picture,
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_line_whatever_the_library_makes_of_it(
    library: str, tmp_path: Path, small_disk: SmallDisk
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"as it was")
    with small_disk(5_000), pytest.raises(CheckpointError) as error:
        WRITERS[library](path)
    said = str(error.value)
    assert said.startswith(f"{path} could not be written (") and said.count("\n") == 0
    assert "File too large" in said and said.endswith("; free some space or choose another --out")
    assert path.read_bytes() == b"as it was" and list(tmp_path.iterdir()) == [path]
    WRITERS[library](path)  # with space again
    assert path.stat().st_size > 5_000 and list(tmp_path.iterdir()) == [path]


def test_what_was_written_is_read_back_by_the_libraries(tmp_path: Path) -> None:
    for library in ("safetensors", "torch.save", "json", "numpy"):
        WRITERS[library](tmp_path / library)
    assert torch.equal(load_file(tmp_path / "safetensors")["x"], NOISE)
    assert torch.equal(torch.load(tmp_path / "torch.save", weights_only=True)["x"], NOISE)
    assert json.loads((tmp_path / "json").read_text()) == NOISE.tolist()
    assert np.array_equal(np.load(tmp_path / "numpy")["x"], NOISE.numpy())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_is_as_readable_as_the_umask_says(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        for library in ("safetensors", "torch.save", "json"):
            WRITERS[library](tmp_path / library)
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("error", [RuntimeError("mine"), ValueError("mine"), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_disk_passes_through(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"as it was")

    def fail(file: Any) -> None:
        file.write(b"half of it")
        raise error

    with pytest.raises(type(error)):
        atomically(path, fail)
    with pytest.raises(type(error)), refused("a file"):
        raise error
    assert path.read_bytes() == b"as it was" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("complaint", [None, LookupError("no idea why")])
def test_a_refusal_that_a_library_swallows_is_told_all_the_same(
    complaint: Exception | None, tmp_path: Path, small_disk: SmallDisk
) -> None:
    def careless(file: Any) -> None:
        try:
            file.write(bytes(50_000))
        except OSError:
            file.seek(0)  # and goes on as if nothing had been
            if complaint is not None:
                raise complaint from None

    with small_disk(5_000), pytest.raises(CheckpointError, match="File too large"):
        atomically(tmp_path / "file", careless)
    assert list(tmp_path.iterdir()) == []


def test_who_knows_what_was_being_done_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as error, refused("the answer", "ask again"):
        write_json(tmp_path / "file" / "below.json", 42)
    assert str(error.value) == f"the answer could not be written ({os.strerror(17)}); ask again"


def test_a_leftover_is_known_by_its_name(tmp_path: Path) -> None:
    names: list[str] = []
    atomically(tmp_path / "config.yaml", lambda file: names.extend(path.name for path in tmp_path.iterdir()))
    assert len(names) == 1 and is_leftover(tmp_path / names[0])
    assert not any(is_leftover(Path(name)) for name in ("config.yaml", ".hidden", "a.partial"))
