"""Memory that is freed stays with the process: counted in page faults, in processes of their own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from simclr.run.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**24).fill_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
taken = keep_freed_memory()
for _ in range(6):
    faults()  # the peak: small blocks between the large ones make the heap grow for a while
print(taken, given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator takes the advice")
def test_freed_memory_is_not_fetched_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    taken, given_back, kept = done.stdout.split()
    assert taken == "True"
    assert int(given_back) > 5 * 16  # at least once for every 4 MiB, however large the system's pages are
    assert int(kept) < int(given_back) / 10


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr.run.process import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
