"""Memory and cores that control groups grant, read from files as the kernel writes them, and once from a real group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simclr.cores import share_of_cores
from simclr.data.loader import fits_on
from simclr.granted import available_memory, granted_cores

GIB = 1 << 30


def written(root: Path, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {64 * GIB // 1024} kB\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_2_nested_in_a_pod(tmp_path: Path) -> None:
    pod = "sys/fs/cgroup/kubepods/pod1"
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/main\n",
            f"{pod}/main/memory.max": "max\n",
            f"{pod}/main/memory.current": "1\n",
            f"{pod}/main/cpu.max": "max 100000\n",
            f"{pod}/memory.max": f"{8 * GIB}\n",
            f"{pod}/memory.current": f"{5 * GIB}\n",
            f"{pod}/memory.stat": f"anon 1\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\n",
            f"{pod}/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
        },
    )
    assert (
        available_memory(root) == 5 * GIB
    )  # the pod's limit, less what it has, and what of that goes when it is wanted
    assert granted_cores(root) == 2.5
    written(root, {f"{pod}/memory.high": f"{6 * GIB}\n"})
    assert available_memory(root) == 3 * GIB
    written(
        root,
        {f"{pod}/memory.high": "max\n", f"{pod}/main/memory.max": f"{GIB}\n", f"{pod}/main/cpu.max": "50000 100000\n"},
    )
    assert available_memory(root) == GIB - 1 and granted_cores(root) == 0.5


def test_version_1_as_a_container_sees_it(tmp_path: Path) -> None:
    """Its path is the host's, its own group is the top."""
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/ab12\n4:cpu,cpuacct:/docker/ab12\n3:cpuset:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"cache 9\ninactive_file 7\ntotal_inactive_file {GIB // 2}\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert available_memory(root) == 3 * GIB // 2 and granted_cores(root) == 3
    written(
        root,
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        },
    )
    assert available_memory(root) == 64 * GIB and granted_cores(root) is None


def test_without_groups_the_machine_counts_and_processes_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written(tmp_path, {})
    assert available_memory(root) == 64 * GIB and granted_cores(root) is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_memory(root) == 16 * GIB
    monkeypatch.setattr("simclr.data.loader.available_memory", lambda: available_memory(root))
    assert fits_on(torch.device("cpu"), 4 * GIB - 1) and not fits_on(torch.device("cpu"), 4 * GIB)
    assert available_memory(tmp_path / "nothing") > 0


def test_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    own, launchers = 16, 16
    monkeypatch.setattr("simclr.cores._usable", lambda process: launchers if process else own)
    monkeypatch.setattr("simclr.cores.psutil.cpu_count", lambda logical: 64)
    monkeypatch.setattr("simclr.cores.granted_cores", lambda: None)
    assert share_of_cores() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert share_of_cores() == 4
    monkeypatch.setattr("simclr.cores.granted_cores", lambda: 6.5)
    assert share_of_cores() == 1
    monkeypatch.setattr("simclr.cores.granted_cores", lambda: None)
    own = 4  # mpirun --map-by :PE=4 binds each to its own
    assert share_of_cores() == 4
    own = 16
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert share_of_cores() == 2
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert share_of_cores() == 3


@pytest.mark.slow
def test_a_real_group(tmp_path: Path) -> None:
    """A group of version 1 with 512 MB, made inside this process's own."""
    line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None) \
        if Path("/proc/self/cgroup").exists() else None  # fmt: skip
    if line is None:
        pytest.skip("no memory controller of version 1")
    group = Path("/sys/fs/cgroup/memory") / line.split(":", 2)[2].strip("/") / f"simclr-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(512 << 20))
    except OSError as error:
        pytest.skip(f"no group can be made here: {error}")
    code = (
        f"open('{group}/cgroup.procs', 'w').write('0')\n"
        "from simclr.granted import available_memory\nheld = bytearray(100 << 20)\nprint(available_memory() >> 20)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        group.rmdir()
    assert 350 < int(done.stdout) <= 412
