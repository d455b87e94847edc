"""NT-Xent forward + backward against lightly, pytorch-metric-learning and the textbook form; and gradient caching.

    python benchmarks/loss.py             # on the GPU where there is one; --quick takes one small size

Times are the minimum over rounds in which all methods take turns, so that a busy machine slows all of them alike. Extra
memory is the peak above what was held before: on the CPU of a fresh process for each figure, on CUDA of the allocator.
A method that is predicted to need more than --memory is reported as unable to run, and never started.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cost import peak_bytes, seconds
from simclr.command_line import run_command
from simclr.errors import MissingExtraError
from simclr.losses.ntxent.loss import NTXentLoss, nt_xent_reference
from simclr.run.grad_cache import cached_step

WIDTH = 128
TEMPERATURE = 0.5
GIB = 2**30
PAIRS = {"cpu": (256, 1024, 4096, 16384), "cuda": (256, 1024, 4096, 16384, 65536)}

Loss = Callable[[Tensor], Tensor]


def ours() -> Loss:
    return NTXentLoss(TEMPERATURE)


def lightly() -> Loss:
    from lightly.loss import NTXentLoss as Lightly

    loss = Lightly(temperature=TEMPERATURE)
    return lambda views: loss(views[0], views[1])


def metric_learning() -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss as MetricLearning

    loss = MetricLearning(temperature=TEMPERATURE)
    return lambda views: loss(views.flatten(0, 1), torch.arange(views.shape[1], device=views.device).repeat(2))


def textbook() -> Loss:
    return lambda views: nt_xent_reference(views, TEMPERATURE)


METHODS: dict[str, Callable[[], Loss]] = {
    "ours": ours,
    "lightly": lightly,
    "pytorch-metric-learning": metric_learning,
    "textbook": textbook,
}


def predicted_bytes(method: str, pairs: int) -> float:
    """What a method will allocate for N = 2 * pairs rows, from fits to its peaks at 256 and 1,024 pairs."""
    rows = 2 * pairs
    if method == "pytorch-metric-learning":
        return 16.0 * rows**3  # one row for each of N positive pairs times N (N - 2) negatives
    if method in ("lightly", "textbook"):
        return (17.0 if method == "lightly" else 32.0) * rows**2
    return 400e6 + 40.0 * rows * WIDTH


def embeddings(pairs: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, pairs, WIDTH, generator=generator).to(device).requires_grad_()


def forward_backward(loss: Loss, views: Tensor) -> float:
    """One forward and backward pass; the loss."""
    views.grad = None
    value = loss(views)
    value.backward()
    return value.item()  # on CUDA this waits for the forward pass only, so callers synchronize


def in_fresh_process(measurement: dict[str, object]) -> dict[str, float]:
    """Run `measure(**measurement)` in a process of its own, whose memory nothing else has touched."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", json.dumps(measurement)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{measurement} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(what: str, device: str, **arguments: int | str) -> dict[str, float]:
    """The memory of one loss or of one way to take a large-batch step, after a small one that loads what is needed."""
    if what == "loss":
        loss = METHODS[str(arguments["method"])]()
        views = embeddings(int(arguments["pairs"]), device)
        forward_backward(loss, embeddings(16, device))
        return {"bytes": peak_bytes(lambda: forward_backward(loss, views), device)}
    batch, chunk = int(arguments["batch"]), int(arguments["chunk"])
    model = small_encoder().to(device)
    images = torch.rand(2, batch, 3, 32, 32, device=device)
    cached_step(model, images[:, :16], NTXentLoss(TEMPERATURE), 8)
    memory = peak_bytes(lambda: cached_step(model, images, NTXentLoss(TEMPERATURE), chunk), device)
    rounds = [seconds(lambda: cached_step(model, images, NTXentLoss(TEMPERATURE), chunk), device) for _ in range(2)]
    return {"bytes": memory, "seconds": min(rounds)}


def loss_table(pairs_list: tuple[int, ...], device: str, limit: float, quick: bool) -> None:
    print(f"\nNT-Xent, forward + backward, d = {WIDTH}, temperature {TEMPERATURE}, float32")
    print("\n| pairs | method | time (ms) | x ours | extra memory (MB) | x ours |\n|---|---|---|---|---|---|")
    for pairs in pairs_list:
        views = embeddings(pairs, device)
        able = {name: METHODS[name]() for name in METHODS if predicted_bytes(name, pairs) <= limit}
        values = {name: forward_backward(loss, views) for name, loss in able.items()}
        times = interleaved_minimum(able, views, device, *((2, 0.0) if quick else (10, 20.0)))
        weighed = ["ours"] if quick else able  # each takes a process of its own
        memory = {name: loss_memory(name, pairs, device, views, able[name]) for name in weighed}
        for name in METHODS:
            if name not in able:
                needed = predicted_bytes(name, pairs) / GIB
                print(f"| {pairs:,} | {name} | cannot run: needs about {needed:,.0f} GiB | | | |")
                continue
            took, held, size = times[name], "-", "-"
            if name in memory:
                held = f"{memory[name] / 1e6:,.0f}"
                # Below, it is the page that counts.
                size = f"{memory[name] / memory['ours']:.2f}" if memory["ours"] > 1e6 else "-"
            cells = f"{took * 1e3:,.2f} | {took / times['ours']:.2f} | {held} | {size}"
            print(f"| {pairs:,} | {name} | {cells} |")
        if len(able) > 1:
            spread = max(abs(value / values["ours"] - 1) for value in values.values())
            print(f"| {pairs:,} | largest relative difference between the losses | {spread:.0e} | | | |", flush=True)


def interleaved_minimum(
    losses: dict[str, Loss], views: Tensor, device: str, least: int, budget: float
) -> dict[str, float]:
    """Seconds of the fastest round of each loss. Losses of more than 2 s a round take part in the first two only."""
    times = dict.fromkeys(losses, float("inf"))
    deadline = time.perf_counter() + budget
    rounds = 0
    while rounds < least or (rounds < 200 and time.perf_counter() < deadline):
        for name, loss in losses.items():
            if rounds < 2 or times[name] < 2:
                times[name] = min(times[name], seconds(partial(forward_backward, loss, views), device))
        rounds += 1
    return times


def loss_memory(name: str, pairs: int, device: str, views: Tensor, loss: Loss) -> float:
    if device == "cuda":
        views.grad = None
        return peak_bytes(lambda: forward_backward(loss, views), device)
    return in_fresh_process({"what": "loss", "device": device, "method": name, "pairs": pairs})["bytes"]


def small_encoder() -> nn.Module:
    """Views (V, b, 3, 32, 32) to z (V, b, 128): a small convolutional encoder without batch statistics."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2)):
                layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, WIDTH))

        def forward(self, views: Tensor) -> Tensor:
            return self.layers(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    torch.manual_seed(0)
    return Encoder()


def cache_table(batch: int, chunk: int, device: str) -> None:
    print(f"\nGradient caching: one step of {batch:,} images, two views of 32 px, a small convolutional encoder")
    print("\n| step | extra memory (MB) | time (s) |\n|---|---|---|")
    rows = [
        (f"plain, batch {chunk:,}", chunk, chunk),
        (f"plain, batch {batch:,}", batch, batch),
        (f"cached, batch {batch:,} by {chunk:,}", batch, chunk),
    ]
    results = []
    for name, images, at_once in rows:
        results.append(in_fresh_process({"what": "step", "device": device, "batch": images, "chunk": at_once}))
        print(f"| {name} | {results[-1]['bytes'] / 1e6:,.0f} | {results[-1]['seconds']:.2f} |", flush=True)
    small, plain, cached = results
    print(
        f"\nThe cached step takes {cached['bytes'] / small['bytes']:.2f} x the memory of a plain step of {chunk:,}, "
        f"{cached['bytes'] / plain['bytes']:.3f} x that of a plain step of {batch:,}, "
        f"and {cached['seconds'] / plain['seconds'] - 1:+.0%} time."
    )


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, the memory of ours alone")
    parser.add_argument("--pairs", type=int, nargs="+", help="numbers of pairs, in place of the usual ones")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", type=float, help="GiB a method may need (8, on CUDA 0.8 of the device)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
        return 0
    for package in ("lightly", "pytorch_metric_learning"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"{package} is not installed; install it with: pip install 'simclr-pipeline[bench]'"
            )
    cuda = options.device == "cuda"
    hardware = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{hardware} of {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    memory = options.memory or (0.8 * torch.cuda.get_device_properties(0).total_memory / GIB if cuda else 8.0)
    pairs = tuple(options.pairs) if options.pairs else (64,) if options.quick else PAIRS[options.device]
    loss_table(pairs, options.device, memory * GIB, options.quick)
    cache_table(*((64, 16) if options.quick else (4096, 256)), options.device)
    return 0


if __name__ == "__main__":
    # With the allocator as it comes: memory that is kept could not be measured.
    sys.exit(run_command(main, keep_memory=False))
