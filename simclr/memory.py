"""Memory that ran out, in one line: how much was in use, what takes it, and what helps."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from simclr.errors import ConfigError, OutOfMemoryError, PipelineError

__all__ = ["memory_in_words", "peak_memory", "ran_out"]

_SIGNS = re.compile(
    r"can('|no)t allocate memory|not enough memory|out of memory|bad_alloc|alloc_failed|unable to allocate|"
    r"failed to allocate|storage size calculation overflowed",
    re.IGNORECASE,
)
"""What torch's allocators, its libraries, numpy and the system say; each has an exception of its own."""

_ASKED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) ?(bytes|[KMGTP]i?B)", re.IGNORECASE)


@contextmanager
def memory_in_words(causes: str, helps: str) -> Iterator[None]:
    """Turn what is raised inside when memory runs out, on the host or a device, into one OutOfMemoryError.

    Args:
        causes: what takes the memory, as a list in words.
        helps: what needs less, as a list in words.
    """
    try:
        yield
    except PipelineError as error:
        # A network that cannot be built, or does not take its images: for want of memory? All else has its own words.
        if not isinstance(error, ConfigError) or error.__cause__ is None or not ran_out(error.__cause__):
            raise
        raise OutOfMemoryError(_words(error.__cause__, causes, helps)) from error
    except (MemoryError, OSError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemoryError(_words(error, causes, helps)) from error


def ran_out(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out.

    >>> ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes"))
    True
    >>> ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied")), ran_out(MemoryError())
    (False, True)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and _SIGNS.search(str(error)) is not None


def _words(error: BaseException, causes: str, helps: str) -> str:
    asked = _ASKED.search(str(error))
    more = ""
    if asked is not None:
        size, unit = asked.groups()
        more = f" when {_gib(float(size)) if unit == 'bytes' else f'{size} {unit}'} more were asked for"
    return f"memory ran out: at most {peak_memory()} were in use{more}. What takes it: {causes}. What helps: {helps}"


def peak_memory() -> str:
    """The most memory that was in use at once: of the GPU, where this process has used one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"{_gib(torch.cuda.max_memory_allocated())} of the GPU"
    try:
        status = Path("/proc/self/status").read_text()
        return _gib(1024 * int(status.split("VmHWM:")[1].split()[0]))
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return "an unknown number of bytes"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _gib(peak if sys.platform == "darwin" else 1024 * peak)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
