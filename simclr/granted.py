"""What this process may use of the machine: a container or a scheduler grants less than is there (Linux control groups).

Both versions are read, and of nested groups the tightest: a pod's, its container's, a job's, its step's.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["available_memory", "granted_cores"]

_UNKNOWN = 8 << 30


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: what is free of the machine and of each group it is in, divided among the
    processes that a launcher started on this machine."""
    free = [_free_in(limit, usage, folder) for folder, limit, usage in _memory_groups(root)]
    free.append(_free_of_machine(root))
    return min(free) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def granted_cores(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the tightest group grants, which may be a fraction; None where none is set."""
    found = []
    for folder in _groups(root, ("", "unified"), None):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            found.append(int(words[0]) / int(words[1]))
    for folder in _groups(root, ("cpu", "cpu,cpuacct"), "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _free_of_machine(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return _UNKNOWN


def _memory_groups(root: Path) -> Iterator[tuple[Path, int, str]]:
    """(folder, limit, name of the file of what is in use) of every group with a limit."""
    for folder in _groups(root, ("", "unified"), None):
        for name in ("memory.max", "memory.high"):
            if (limit := _read(folder / name).strip()).isdigit():
                yield folder, int(limit), "memory.current"
    for folder in _groups(root, ("memory",), "memory"):
        if (limit := _read(folder / "memory.limit_in_bytes").strip()).isdigit():
            yield folder, int(limit), "memory.usage_in_bytes"


def _free_in(limit: int, usage: str, folder: Path) -> int:
    """What is left of ``limit``: files that the kernel keeps and nobody has used of late go when memory is wanted."""
    used = _read(folder / usage).strip()
    statistics = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
    kept = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
    return max(0, limit - (int(used) if used.isdigit() else 0) + int(kept))


def _groups(root: Path, mounts: tuple[str, ...], controller: str | None) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own to the top one.

    A container mostly sees its own group as the top, and reads its path as the host has it, of which no folder is there.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        mine = number == "0" and not controllers if controller is None else controller in controllers.split(",")
        if not mine:
            continue
        for mount in mounts:
            top = root / "sys/fs/cgroup" / mount
            inner = top / path.strip("/")
            for folder in (inner, *inner.parents):
                if folder.is_dir():
                    yield folder
                if folder == top:
                    break


def _read(file: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text()
    return ""
