"""The process itself: the memory it keeps."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]


# glibc's malloc.h. The thresholds are C ints.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


_LARGEST_BLOCK = 2**30


def keep_freed_memory() -> bool:
    """Let this process, and those it forks, keep up to its peak of memory; whether the allocator took the advice.

    For a process that does one job, such as the commands in ``scripts/``: what it once used stays with it until it
    ends. Blocks above 1 GiB are still given back. Where the allocator is not glibc's (macOS, Windows, musl, jemalloc
    by ``LD_PRELOAD``), nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
