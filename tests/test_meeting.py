"""Three real processes that meet, differ, fall and miss each other: what each of them is told, and which one says it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simclr.errors import ConfigError, DataError, LaunchError, LostProcessError
from simclr.processes import agree, meeting, together

Ranks = Callable[..., None]
Port = Callable[[], int]


def met_on(rank: int, world: int, ports: list[int], path: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    said: dict[str, tuple[str, str, bool]] = {}

    def told(name: str, error: Exception) -> None:
        said[name] = (type(error).__name__, str(error), getattr(error, "said", False))

    def at(port: int) -> None:
        os.environ["MASTER_PORT"] = str(port)

    at(ports[0])
    with together():
        with together():  # of simclr.pretrain inside of a command
            agree({"a learning rate of": 0.1}, "mend it")
        try:
            agree({"a seed of": 7, "a learning rate of": 0.1 if rank < 2 else 0.2}, "start the same command")
        except ConfigError as error:
            told("differs", error)

    at(ports[1])
    try:
        with together():
            if rank == 1:
                raise DataError("pictures/7.png is gone")
            raise RuntimeError("Connection closed by peer [127.0.0.1]:4711")  # of a collective that waited for it
    except (DataError, LostProcessError) as error:
        told("falls", error)

    at(ports[2])
    try:
        with together():
            raise DataError("no such folder")
    except DataError as error:
        told("alike", error)

    at(ports[3])
    meeting.PATIENCE = 0.5
    if rank < 2:
        try:
            with together():
                pass
        except LaunchError as error:
            told("missing", error)
    torch.save(said, f"{path}/{rank}.pt")


def test_three_processes_are_told_what_they_have_to_know(ranks: Ranks, free_port: Port, tmp_path: Path) -> None:
    ranks(3, met_on, 3, ports := [free_port() for _ in range(4)], str(tmp_path))
    first, second, third = (torch.load(tmp_path / f"{rank}.pt") for rank in range(3))
    host = socket.gethostname()
    differs = "has a learning rate of 0.2 and not 0.1, as process 0"
    differs = f"process 2 (on {host}) {differs} (on {host}) has; start the same command"
    assert {found["differs"][:2] for found in (first, second, third)} == {("ConfigError", differs)}

    assert second["falls"][:2] == ("DataError", "pictures/7.png is gone")
    others = first["falls"], third["falls"]
    assert {kind for kind, _, _ in others} == {"LostProcessError"}
    assert sorted(words for _, words, _ in others) == ["", f"process 1 (on {host}): pictures/7.png is gone"]
    assert [said for _, words, said in others] == [not words for _, words, _ in others]
    assert second["falls"][2]  # one of the others says it

    assert [found["alike"] for found in (first, second, third)] == [
        ("DataError", "no such folder", said) for said in (False, True, True)
    ]
    assert first["missing"][1].startswith(
        f"2 of 3 processes met at 127.0.0.1 port {ports[3]} within 0 minutes, without number 2"
    )
    assert second["missing"][0] == "LaunchError"


def test_nobody_at_the_address_is_told_in_words(monkeypatch: pytest.MonkeyPatch, free_port: Port) -> None:
    monkeypatch.setattr(meeting, "PATIENCE", 0.0)
    monkeypatch.setattr(meeting, "take_launch", lambda: None)
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(LaunchError, match=r"found no process 0 at MASTER_ADDR=127.0.0.1 .*: nobody answers"),
        together(),
    ):
        pass
    monkeypatch.setenv("MASTER_ADDR", "no-such-machine.invalid")
    with pytest.raises(LaunchError, match=r"no machine of the name no-such-machine.invalid is known here"), together():
        pass
    monkeypatch.setenv("MASTER_PORT", "eighty")
    with pytest.raises(ConfigError, match="MASTER_PORT='eighty' is no port"), together():
        pass


def test_a_port_that_another_job_has_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "take_launch", lambda: None)
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(LaunchError, match=f"process 0 cannot open port {port} .* set another MASTER_PORT"),
            together(),
        ):
            pass


def test_processes_on_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        uuid = "GPU-1"

    mates = [meeting.Mate(rank, "gpu7", 100 + rank, "") for rank in range(3)]
    found = [{"gpu": name, "local": str(local), "count": "2"} for local, name in enumerate(("GPU-1", "GPU-2", "GPU-1"))]
    asked: list[str] = []

    class Met(meeting._Meeting):
        def ask(self, own: dict[str, str], judge: Callable[[list[dict[str, str]]], str]) -> None:
            assert own["gpu"] == "GPU-1"
            asked.extend((judge(found), judge([*found[:2], {**found[2], "gpu": "GPU-3"}])))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Gpu)
    meeting._refuse_shared_gpus(Met(2, mates, None, None))  # type: ignore[arg-type]
    assert asked[0].startswith(
        "process 2 (on gpu7) is on the GPU of process 0 (on gpu7), by its LOCAL_RANK of 2: start as many"
    )
    assert asked[1] == ""
