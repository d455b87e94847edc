"""Two "machines" of one: two launchers that find each other by an address, and two network namespaces with a wire between."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.skipif(not sys.platform.startswith("linux"), reason="addresses of Linux"), pytest.mark.long]

FLAGS = [
    "--data.size", "16", "--augment.size", "16", "--data.limit", "64", "--train.batch-size", "16", "--train.epochs", "2",
    "--train.precision", "fp32", "--train.knn-every", "0", "--train.no-evaluate", "--encoder.channels", "4", "8", "8", "16",
    "--encoder.layers", "1", "1", "1", "1", "--schedule.warmup-epochs", "0",
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]


def started(
    folder: Path, launcher: list[str], name: str, more: dict[str, str], inside: list[str]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*inside, *launcher, str(ROOT / "scripts" / "pretrain.py"), *FLAGS, "--name", name],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def whole(
    folder: Path,
    name: str,
    launchers: list[list[str]],
    more: dict[str, str] | None = None,
    spaces: tuple[str, ...] = (),
):
    inside = [["ip", "netns", "exec", space] for space in spaces] or [[]] * len(launchers)
    processes = [
        started(folder, words, name, more or {}, where) for words, where in zip(launchers, inside, strict=True)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return load_file(folder / "runs" / name / "encoder" / "encoder.safetensors")


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The weights of two processes on one machine."""
    return whole(tmp_path_factory.mktemp("one"), "one", [[*TORCHRUN, "--standalone", "--nproc_per_node", "2"]])


def assert_equal(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys() and all((found[name] == wanted[name]).all() for name in wanted)


@pytest.mark.parametrize("launcher", ["torchrun", "torchrun without rendezvous", "accelerate"])
def test_two_launchers_give_the_weights_of_one(
    launcher: str, one_machine: dict, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = str(free_port())
    both = {
        "torchrun": [*TORCHRUN, "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"],
        "torchrun without rendezvous": [*TORCHRUN, "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port],
        "accelerate": [
            *ACCELERATE, "--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1",
            "--main_process_port", port,
        ],
    }[launcher]  # fmt: skip
    number = {"torchrun": [], "torchrun without rendezvous": ["--node-rank"], "accelerate": ["--machine_rank"]}[
        launcher
    ]
    launchers = [[*both, *[word for flag in number for word in (flag, str(node))]] for node in range(2)]
    assert_equal(whole(tmp_path, "two", launchers), one_machine)


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, that share nothing but a wire called `wire` in both."""
    names = f"simclr-a{os.getpid()}", f"simclr-b{os.getpid()}"
    commands = [f"ip netns add {name}" for name in names]
    commands += [f"ip link add wire netns {names[0]} type veth peer name wire netns {names[1]}"]
    for number, name in enumerate(names, start=1):
        commands += [f"ip -n {name} addr add 10.77.0.{number}/24 dev wire", f"ip -n {name} link set wire up"]
        commands += [f"ip -n {name} link set lo up"]
    try:
        for command in commands:
            if subprocess.run(command.split(), capture_output=True).returncode:
                pytest.skip(f"no network namespaces here: {command}")
        yield names
    except FileNotFoundError:
        pytest.skip("no ip command here")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_machines_with_a_wire_between_them(
    one_machine: dict, spaces: tuple[str, str], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    both = [*TORCHRUN, "--nnodes", "2", "--master-addr", "10.77.0.1", "--master-port", str(free_port())]
    launchers = [[*both, "--node-rank", str(node)] for node in range(2)]
    assert_equal(whole(tmp_path, "two", launchers, {"GLOO_SOCKET_IFNAME": "wire"}, spaces), one_machine)


def test_a_wire_that_is_cut_ends_both_within_a_minute(
    spaces: tuple[str, str], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Nothing is closed and nobody is killed: each machine merely hears no more of the other."""
    port, more = str(free_port()), {"GLOO_SOCKET_IFNAME": "wire", "WORLD_SIZE": "2", "MASTER_ADDR": "10.77.0.1"}
    more |= {"MASTER_PORT": port, "LOCAL_RANK": "0"}
    flags = FLAGS.index("--train.epochs")
    FLAGS[flags + 1], kept = "4000", FLAGS[flags + 1]
    processes = [
        started(tmp_path, [sys.executable], "cut", more | {"RANK": str(rank)}, ["ip", "netns", "exec", space])
        for rank, space in enumerate(spaces)
    ]
    FLAGS[flags + 1] = kept
    try:
        deadline = time.monotonic() + 200
        while not any((tmp_path / "runs" / "cut").glob("metrics.jsonl")):
            assert time.monotonic() < deadline and processes[0].poll() is None
            time.sleep(0.2)
        subprocess.run(["ip", "-n", spaces[0], "link", "set", "wire", "down"], check=True)
        said = [process.communicate(timeout=75)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [1, 1], said
    assert "error: process 1 (on " in said[0] and "has been silent" in said[0], said[0]
    assert "error: process 0 (on " in said[1], said[1]
