"""How fast the wire between processes is, and how fast they read images, measured by all at the same time."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import cast

import torch
import torch.distributed as dist

from simclr.data.loader import Batch
from simclr.run.flops import wait_for
from simclr.run.parts import Run
from simclr.selftest.finding import Finding
from simclr.train import build, resume

__all__ = ["speeds"]

SECONDS = 3.0
"""For which images are read."""


def speeds(run: Run) -> Iterator[Finding]:
    """Of the wire and of reading images, measured by all processes at the same time."""
    device, world = run.accelerator.device, run.accelerator.num_processes
    learner = build(run)
    if world > 1:
        size = 4 * sum(p.numel() for p in learner.model.parameters())
        seconds = _seconds(lambda: dist.all_reduce(torch.zeros(size // 4, device=device)), device)
        moved = 2 * (world - 1) / world * size
        yield Finding(
            "sum of gradients", f"{size / 1e6:.1f} MB in {1e3 * seconds:.1f} ms, {moved / seconds / 1e9:.2f} GB/s"
        )
        rows = torch.zeros(len(run.sampler.indices(0)), learner.model.width, device=device)
        parts = [torch.empty_like(rows) for _ in range(world)]
        seconds = _seconds(lambda: dist.all_gather(parts, rows), device)
        yield Finding("gather of embeddings", f"{world} x {rows.numel() * 4 / 1e6:.2f} MB in {1e3 * seconds:.1f} ms")
    if run.images.pixels is not None:
        yield Finding("images", "decoded once and kept on the device")
        return
    batches, count = resume(run, learner), 0
    with closing(cast(Generator[Batch], iter(batches))) as reading:
        next(reading)
        began = time.perf_counter()
        for batch in reading:
            count += len(batch.indices) * world
            if time.perf_counter() - began > SECONDS:
                break
        speed = count / (time.perf_counter() - began)
    yield Finding("images", f"{speed:,.0f} a second, by {run.config.data.workers} workers in each process")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the middle one of some."""
    took = []
    for _ in range(6):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        took.append(time.perf_counter() - began)
    return sorted(took[1:])[2]
