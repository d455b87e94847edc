"""Which processes a launcher started, in the names of torch.distributed, which all else reads.

torchrun and ``accelerate launch`` set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. srun (whose
tasks submitit's are, too) and mpirun number their processes by names of their own: without this each of them would train
alone, and write the others' folder. Nothing but the standard library is imported here.
"""

import os
import re
import zlib
from collections.abc import MutableMapping
from pathlib import Path

from simclr.errors import ConfigError

__all__ = ["leave_launch", "note_on_accelerate", "take_launch"]

Variables = MutableMapping[str, str]

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""What Open MPI, MVAPICH and the Hydra of MPICH and Intel call the same."""


def take_launch(variables: Variables = os.environ, parent: Path | None = None) -> None:
    """Say in torch's names what the launcher said in its own. Called again, or without a launcher, it does nothing.

    Args:
        variables: the environment, which is changed.
        parent: the launcher's folder of /proc, by default that of the process which started this one.

    Raises:
        ConfigError: numbers that contradict each other; processes on several machines without an address to meet at; or
            ``accelerate launch``, which was asked for several processes and started one.
    """
    if "RANK" in variables or "WORLD_SIZE" in variables:
        found = dict(zip(_TORCH, _counted(variables, _TORCH), strict=True))
        if found["WORLD_SIZE"] > 1:
            _say(variables, found, "RANK and WORLD_SIZE")
        return
    for names in _MPI:
        if _number(variables, names[1], 1) > 1 and not (names[1] == "PMI_SIZE" and _is_step(variables)):
            _say(variables, dict(zip(_TORCH, _counted(variables, names), strict=True)), f"mpirun ({names[1]})")
            return
    if _is_step(variables):
        world, rank = _number(variables, "SLURM_STEP_NUM_TASKS", 1), _number(variables, "SLURM_PROCID", 0)
        local = _tasks_on(variables.get("SLURM_STEP_TASKS_PER_NODE", "1"), _number(variables, "SLURM_NODEID", 0))
        numbers = (rank, world, _number(variables, "SLURM_LOCALID", 0), local)
        _say(variables, dict(zip(_TORCH, numbers, strict=True)), "srun (SLURM_STEP_NUM_TASKS)")
        return
    if "ACCELERATE_MIXED_PRECISION" in variables and "MASTER_ADDR" in variables:
        _refuse_one_of_several(Path(f"/proc/{os.getppid()}") if parent is None else parent)


def note_on_accelerate(variables: Variables = os.environ, parent: Path | None = None) -> str | None:
    """What a person should know of the warning that ``accelerate launch`` begins with, where it has just said it; else None.

    It says so before it starts a process of ours, which can neither hear nor stop it.
    """
    if "ACCELERATE_MIXED_PRECISION" not in variables or variables.get("RANK", "0") != "0":
        return None
    cache = Path(variables.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "huggingface"
    home = Path(variables.get("HF_HOME", cache)) / "accelerate"
    try:
        launcher = Path(f"/proc/{os.getppid()}") if parent is None else parent
        words = (launcher / "cmdline").read_bytes().decode(errors="replace").replace("-", "_")
    except OSError:
        return None
    told = any((home / f"default_config.{ending}").exists() for ending in ("yaml", "json")) and "__cpu" not in words
    asked = ("__num_processes", "__num_machines", "__mixed_precision", "__dynamo_backend")
    if told or "__config_file" in words or all(word in words for word in asked):
        return None
    return (
        "the lines above are accelerate's, and nothing is wrong: `accelerate config default`, once, ends them. The run chooses "
        "its precision itself"
    )


def leave_launch(variables: Variables = os.environ) -> None:
    """Forget the other processes: this one does its work alone, with all of its machine's cores."""
    for name in (*_TORCH, "MASTER_ADDR", "MASTER_PORT"):
        variables.pop(name, None)
    variables.update(RANK="0", WORLD_SIZE="1")


def _counted(variables: Variables, names: tuple[str, str, str, str]) -> tuple[int, int, int, int]:
    rank, world = _number(variables, names[0], 0), _number(variables, names[1], 1)
    if not 0 <= rank < world:
        raise ConfigError(
            f"{names[0]}={rank} and {names[1]}={world} in the environment: of {world} processes the first is 0 and the "
            f"last {world - 1}; a launcher (torchrun, accelerate launch) sets both"
        )
    return rank, world, _number(variables, names[2], 0), _number(variables, names[3], 1)


def _number(variables: Variables, name: str, default: int) -> int:
    text = variables.get(name, str(default))
    if not re.fullmatch(r"\s*\d{1,9}\s*", text):
        raise ConfigError(f"{name}={text!r} in the environment is no whole number; a launcher sets it, or leave it out")
    return int(text)


def _say(variables: Variables, found: dict[str, int], by: str) -> None:
    for name, number in found.items():
        if name != "LOCAL_WORLD_SIZE" or number > 1:
            variables.setdefault(name, str(number))
    if not variables.get("MASTER_ADDR"):
        variables["MASTER_ADDR"] = _address(variables, found, by)
    if not variables.get("MASTER_PORT"):
        variables["MASTER_PORT"] = str(_port(variables))


def _address(variables: Variables, found: dict[str, int], by: str) -> str:
    """Where the first process is."""
    if found["LOCAL_WORLD_SIZE"] == found["WORLD_SIZE"]:
        return "127.0.0.1"
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST")
    if nodes:
        return first_host(nodes)
    raise ConfigError(
        f"{by} says that there are {found['WORLD_SIZE']} processes, and nothing where they meet: set MASTER_ADDR to the "
        "first one's machine and MASTER_PORT to a free port there, in the environment of all (mpirun -x MASTER_ADDR=HOST)"
    )


def first_host(nodes: str) -> str:
    """The first of a list of hosts as Slurm writes it, without asking Slurm, which a container may lack.

    >>> first_host("gpu[007-012,3]-ib[0-1],cpu4"), first_host("login")
    ('gpu007-ib0', 'login')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group() if first else nodes)


def _tasks_on(counts: str, node: int) -> int:
    """Tasks of the ``node``-th machine of ``2(x3),1``.

    >>> [_tasks_on("2(x3),1", node) for node in range(4)]
    [2, 2, 2, 1]
    """
    each = [(int(m[1]), int(m[2] or 1)) for m in re.finditer(r"(\d+)(?:\(x(\d+)\))?", counts)]
    spread = [tasks for tasks, machines in each for _ in range(machines)]
    return spread[node] if node < len(spread) else 1


def _port(variables: Variables) -> int:
    """A port that all processes of a job choose, and another job on the same machine most likely does not."""
    job = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
    known = [variables[name] for name in job if name in variables]
    return 15000 + zlib.crc32(".".join(known).encode()) % 15000 if known else 29500


def _is_step(variables: Variables) -> bool:
    """Whether this is one of several tasks of one srun; an sbatch file itself, and a shell of salloc, are not."""
    tasks, hydra = _number(variables, "SLURM_STEP_NUM_TASKS", 1), _number(variables, "PMI_SIZE", 0)
    return "SLURM_PROCID" in variables and tasks > 1 and hydra in (0, tasks)


def _refuse_one_of_several(launcher: Path) -> None:
    """``accelerate launch`` names a place to meet only where it was asked for several processes or machines."""
    try:
        if b"MASTER_ADDR=" in (launcher / "environ").read_bytes():
            return  # it was there before
        words = (launcher / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        words = ""
    asked = re.search(r"--num[_-]processes[\0=](\d+)", words)
    count = asked[1] if asked else "N"
    raise ConfigError(
        f"accelerate launch was asked for {asked[1] if asked else 'several'} processes (num_processes), and has started one, "
        f"as it does on CPUs: write torchrun --nproc_per_node {count} in its place, or --num_processes 1 for one"
    )
