"""What a loss costs one of W processes: time, bytes from the others, and the memory of an epoch's end.

    python benchmarks/ranks.py            # --rows 1024 for a look; --quick in seconds

One process on one thread plays rank 0 of W: it is handed the other processes' rows where it would gather them, and nothing is
sent, so that W may be more than the machine has cores. Times are of the processor, so that other work counts little, and the
minimum over rounds in which all take turns, forward and backward. The bytes are what a process receives in a step with the usual
algorithms: of a gather all other parts, of a sum twice (W - 1) / W of it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.testing._internal.distributed.fake_pg import FakeStore

from cost import peak_bytes
from simclr.command_line import run_command
from simclr.losses import (
    CircleConfig,
    EmbeddedBatch,
    LeJEPAConfig,
    Loss,
    MoCoConfig,
    NTXentLoss,
    SIGRegLoss,
    SupConConfig,
    TripletConfig,
)
from simclr.losses.share import Share
from simclr.run.diagnostics import contrastive_diagnostics

DIM, CLASSES = 128, 64
WORLDS = (1, 2, 4)

Call = Callable[[EmbeddedBatch], Tensor]


class Others:
    """The other processes: what is gathered from them are their parts of ``z`` (V, B, D), and the bytes are counted."""

    def __init__(self, world: int, z: Tensor) -> None:
        self.world, self.bytes, self.z = world, 0.0, z

    def gather(self, parts: list[Tensor], x: Tensor, **_: Any) -> None:
        self.bytes += x.numel() * x.element_size() * (self.world - 1)
        theirs = self.z.chunk(self.world, dim=1)
        for part, z in zip(parts, theirs, strict=True):
            # Numbers that are no embeddings are everywhere the same. lightly asks for one view after the other.
            part.copy_(x if x.numel() < z.numel() // 2 else z.reshape(x.shape) if x.numel() == z.numel() else z[0])

    def scatter(self, out: Tensor, parts: list[Tensor], **_: Any) -> None:
        self.bytes += out.numel() * out.element_size() * (self.world - 1)
        out.copy_(parts[0])

    def reduce(self, x: Tensor, *_: Any, **__: Any) -> None:
        self.bytes += 2 * x.numel() * x.element_size() * (self.world - 1) / self.world


@contextmanager
def one_of(world: int, z: Tensor) -> Iterator[Others]:
    """Inside, this process is the first of ``world`` with the rows ``z``."""
    others = Others(world, z)
    if world == 1:
        yield others
        return
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        with (
            patch.object(dist, "all_gather", others.gather),
            patch.object(dist, "reduce_scatter", others.scatter),
            patch.object(dist, "all_reduce", others.reduce),
        ):
            yield others
    finally:
        dist.destroy_process_group()


def embedded(rows: int) -> EmbeddedBatch:
    """Two views of ``rows`` / 2 images, of length 1 around a point a class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows // 2) % CLASSES
    points = torch.randn(CLASSES, DIM, generator=generator)
    z = F.normalize(points[labels] + torch.randn(2, rows // 2, DIM, generator=generator), dim=-1)
    return EmbeddedBatch(z, labels, torch.arange(rows // 2), 0)


def part_of(batch: EmbeddedBatch, world: int) -> EmbeddedBatch:
    """The first of ``world`` parts of ``batch``."""
    size = len(batch.labels) // world
    return EmbeddedBatch(batch.z[:, :size].clone().requires_grad_(), batch.labels[:size], batch.indices[:size], 0)


def whole(loss: Loss) -> Call:
    """Every process computes all of it from the gathered rows, as a loss does that does not share."""
    return lambda batch: loss.on_batch(Share.of(batch).whole(batch))


def lightly() -> Call:
    from lightly.loss import NTXentLoss as Lightly

    losses: dict[bool, Any] = {}

    def call(batch: EmbeddedBatch) -> Tensor:
        several = dist.is_initialized()
        loss = losses.setdefault(several, Lightly(temperature=0.5, gather_distributed=several))
        return loss(batch.z[0], batch.z[1])

    return call


def nt_xent_calls() -> dict[str, Call]:
    return {
        "NT-Xent": NTXentLoss(0.5).on_ranks,
        "NT-Xent, bf16 on the wire": lambda batch: NTXentLoss(0.5).on_ranks(batch, narrow=True),
        "NT-Xent, all of it in every process": whole(NTXentLoss(0.5)),
        "lightly, gather_distributed": lightly(),
    }


def other_calls() -> dict[str, Call]:
    configs = (SupConConfig(), TripletConfig(), CircleConfig(), LeJEPAConfig())
    moco = MoCoConfig().build(CLASSES, DIM, 1)
    return {
        **{config.name: config.build(CLASSES, DIM, 1).on_ranks for config in configs},
        "moco": lambda batch: moco.on_ranks(replace(batch, keys=batch.z.detach())),
    }


def forward_backward(call: Call, batch: EmbeddedBatch) -> None:
    batch.z.grad = None
    call(batch).backward()


def table(title: str, calls: dict[str, Call], rows: int, rounds: int) -> None:
    """A row a loss: milliseconds of one of W processes, how they fall, and megabytes received."""
    print(f"\n{title}, N = {rows:,} rows, D = {DIM}, one thread, float32")
    print(
        "\n| loss | "
        + " | ".join(f"W = {w} (ms)" for w in WORLDS)
        + " | times less at W = 4 | MB received at W = 2, 4 |"
    )
    print("|---" * (len(WORLDS) + 3) + "|", flush=True)
    times = {name: dict.fromkeys(WORLDS, float("inf")) for name in calls}
    sent: dict[str, dict[int, float]] = {name: {} for name in calls}
    everything = embedded(rows)
    for _ in range(rounds):
        for world in WORLDS:
            batch = part_of(everything, world)
            with one_of(world, everything.z) as others:
                for name, call in calls.items():
                    others.bytes = 0.0
                    start = time.process_time()
                    forward_backward(call, batch)
                    times[name][world] = min(times[name][world], time.process_time() - start)
                    sent[name][world] = others.bytes
    for name, took in times.items():
        cells = " | ".join(f"{1e3 * took[world]:,.0f}" for world in WORLDS)
        bytes_ = ", ".join(f"{sent[name][world] / 1e6:.2f}" for world in WORLDS[1:])
        print(f"| {name} | {cells} | {took[1] / took[WORLDS[-1]]:.1f} | {bytes_} |", flush=True)


def gradient_error(rows: int) -> None:
    """How far the gradient of bf16 on the wire is from that of full precision, at three temperatures."""
    everything = embedded(rows)
    batch = part_of(everything, 2)
    print(f"\nbf16 on the wire, N = {rows:,}: relative error of the loss and of the gradient of z\n")
    print("| loss | loss | gradient |\n|---|---|---|")
    for name, loss in {
        **{f"NT-Xent, temperature {tau:g}": NTXentLoss(tau) for tau in (0.5, 0.1, 0.05)},
        "SupCon": SupConConfig().build(CLASSES, DIM, 1),
        "semi-hard triplets": TripletConfig().build(CLASSES, DIM, 1),
        "LeJEPA": SIGRegLoss(),
    }.items():
        found = []
        with one_of(2, everything.z):
            for narrow in (False, True):
                batch.z.grad = None
                value = loss.on_ranks(batch, narrow)
                value.backward()
                found.append((value.item(), batch.z.grad))
        (exact, gradient), (rough, other) = found
        error = ((other - gradient).norm() / gradient.norm()).item()
        print(f"| {name} | {abs(rough / exact - 1):.0e} | {error:.1e} |", flush=True)


def epochs_end(rows: int) -> dict[str, float]:
    """Seconds and bytes of an epoch's figures of ``rows`` embeddings, in this process."""
    generator = torch.Generator().manual_seed(0)
    views, features = torch.randn(2, rows // 2, DIM, generator=generator), torch.randn(rows, 512, generator=generator)
    contrastive_diagnostics(views[:, :64], features[:128])
    start = time.process_time()
    size = peak_bytes(lambda: contrastive_diagnostics(views, features), "cpu")
    return {"seconds": time.process_time() - start, "bytes": size}


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=8192, help="embeddings N of all processes together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few rows, one round")
    parser.add_argument("--end-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    if arguments.end_of:
        print(json.dumps(epochs_end(arguments.end_of)))
        return
    rows, rounds, last = (256, 1, 512) if arguments.quick else (arguments.rows, arguments.rounds, 32768)
    table("NT-Xent", nt_xent_calls(), rows, rounds)
    table("Other losses", other_calls(), rows // 2, rounds)
    gradient_error(rows // 2)
    command = [sys.executable, str(Path(__file__).resolve()), "--end-of", str(last)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    print(
        f"\nan epoch's end at {last:,} rows: {found['seconds']:.1f} s, {found['bytes'] / 1e6:,.0f} MB above its input"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
