"""What each launcher says in the environment, as it was read there, in torch's names; and what is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simclr.command_line import run_command
from simclr.errors import ConfigError
from simclr.processes.launch import first_host, leave_launch, take_launch

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

SRUN = {  # of Slurm 22.05: task 5 of `srun -N 3 -n 5`, less what does not matter
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "gpu[007-008,011]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
OPEN_MPI = {  # of Open MPI 4.1.4, mpirun -np 2
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "139788289",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


def taken(given: dict[str, str]) -> dict[str, str]:
    variables = dict(given)
    take_launch(variables, Path("/nobody"))
    return {name: value for name, value in variables.items() if given.get(name) != value}


def test_srun_and_mpirun_in_torchs_names() -> None:
    found = taken(SRUN)
    port = int(found.pop("MASTER_PORT"))
    assert found == {"RANK": "4", "WORLD_SIZE": "5", "LOCAL_RANK": "0", "MASTER_ADDR": "gpu007"}
    assert 15000 <= port < 30000 and taken(SRUN | {"SLURM_PROCID": "0"})["MASTER_PORT"] == str(port)
    assert taken(SRUN | {"SLURM_JOB_ID": "4712"})["MASTER_PORT"] != str(port)
    assert taken(SRUN | {"SLURM_NODEID": "1"})["LOCAL_WORLD_SIZE"] == "2"
    assert "MASTER_ADDR" not in taken(SRUN | {"MASTER_ADDR": "10.0.0.1"})

    found = taken(OPEN_MPI)
    assert found.pop("MASTER_PORT") != "29500"
    assert found == {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    # An mpirun inside of a job of Slurm goes by mpirun's numbers: its daemons are srun's tasks.
    inside = SRUN | {"SLURM_STEP_NUM_TASKS": "2"}
    assert taken(inside | HYDRA)["WORLD_SIZE"] == taken(inside | HYDRA | {"MASTER_ADDR": "x"})["WORLD_SIZE"] == "4"
    assert taken(inside | OPEN_MPI)["RANK"] == "1"
    assert taken(SRUN | {"PMI_RANK": "4", "PMI_SIZE": "5"})["MASTER_ADDR"] == "gpu007"  # srun --mpi=pmi2


def test_one_process_is_left_alone() -> None:
    batch = {
        "SLURM_JOB_ID": "1",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "0",
    }  # an sbatch file itself
    for alone in ({}, batch, SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, SRUN | {"WORLD_SIZE": "1"}, {"PMI_SIZE": "1"}):
        assert not taken(alone)
    torchrun = dict.fromkeys(("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "1") | {"WORLD_SIZE": "2"}
    assert not taken(torchrun) and not taken(torchrun | SRUN)
    assert taken({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}) == {"LOCAL_RANK": "0"}
    leave_launch(variables := dict(torchrun))
    assert variables == {"RANK": "0", "WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2 in the environment: of 2 processes the first is 0"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one' in the environment is no whole number"),
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "RANK and WORLD_SIZE says that there are 2 processes, and nothing where they",
        ),
        (HYDRA, r"mpirun \(PMI_SIZE\) says that there are 4 processes, and nothing where they meet: set MASTER_ADDR"),
    ],
)
def test_numbers_that_cannot_be_are_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        taken(given)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="what a launcher was told is read from /proc")
def test_accelerate_that_starts_one_of_two_is_refused(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.mkdir()
    (launcher / "cmdline").write_bytes(b"python\0accelerate\0launch\0--cpu\0--num-processes\0" + b"3\0x.py\0")
    (launcher / "environ").write_bytes(b"HOME=/\0")
    variables = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    with pytest.raises(ConfigError, match=r"asked for 3 processes .* write torchrun --nproc_per_node 3 in its place"):
        take_launch(variables, launcher)
    (launcher / "environ").write_bytes(b"HOME=/\0MASTER_ADDR=10.0.0.1\0")  # the user's own
    take_launch(variables, launcher)


@pytest.mark.long
def test_accelerate_itself_still_leaves_that_trace(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("from simclr.processes import take_launch\ntake_launch()\n")
    words = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(tmp_path / "script.py")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=SCRIPTS.parent)
    assert done.returncode and "accelerate launch was asked for 2 processes" in done.stderr


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="Slurm is not installed")
@pytest.mark.parametrize("nodes", ["a", "a1,b2", "gpu[007-012,3],x", "r[1-2]n[03,07]", "n5-ib,m"])
def test_the_first_host_is_that_of_slurm(nodes: str) -> None:
    done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    assert first_host(nodes) == done.stdout.split()[0]


def test_of_several_processes_one_does_what_is_to_be_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str | None] = []
    for rank in ("1", "0"):
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        for name, value in (launched | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["export.py"])
        assert (
            run_command(lambda _: done.append(os.environ.get("LOCAL_WORLD_SIZE")) or 0, keep_memory=False, alone=True)
            == 0
        )
    assert done == [None]  # by the first, with the cores of both
    alone = {path.stem for path in SCRIPTS.glob("*.py") if "run_command(main, alone=True)" in path.read_text()}
    assert alone == {"export", "preview", "report", "check_data", "make_shards", "replay"}
