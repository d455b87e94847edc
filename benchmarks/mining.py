"""Triplet mining and loss, forward + backward, against pytorch-metric-learning.

    python benchmarks/mining.py           # on the GPU where there is one; --quick takes seconds instead of minutes

Embeddings of 128 dimensions, 4 samples a class. Times are the minimum over rounds in which both take turns, so that a
busy machine slows them alike; what takes longer than 20 s runs once. Extra memory is the peak above what was held
before: on the CPU of a fresh process for each figure, on CUDA of the allocator. What is predicted to need more than
--memory is reported as unable to run, and never started.

Both batch-all and both hard losses are the same number, compared in every run. Semi-hard is not the same set of triplets:
ours takes the hardest semi-hard negative of every positive pair (FaceNet), theirs every semi-hard triplet. Both
distance-weighted losses draw.
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
from simclr.losses.margin import MarginLoss
from simclr.losses.triplet import TripletLoss

WIDTH = 128
A_CLASS = 4
GIB = 2**30
MEASURE_MEMORY_FROM = 512  # below, it is a few MB
SAMPLES = (256, 512, 1024, 4096)
OURS: dict[str, Callable[[], nn.Module]] = {
    "batch-all": lambda: TripletLoss(0.2, "all"),
    "semi-hard": lambda: TripletLoss(0.2, "semi-hard"),
    "hard": lambda: TripletLoss(0.2, "hard"),
    "distance-weighted, margin loss": MarginLoss,
}

Loss = Callable[[Tensor, Tensor], Tensor]


def metric_learning(strategy: str, device: str) -> Loss:
    """The same strategy and loss put together from pytorch-metric-learning."""
    from pytorch_metric_learning import losses, miners

    if strategy == "batch-all":
        return losses.TripletMarginLoss(margin=0.2)
    loss, miner = {
        "semi-hard": lambda: (losses.TripletMarginLoss(margin=0.2), miners.TripletMarginMiner(0.2, "semihard")),
        "hard": lambda: (losses.TripletMarginLoss(margin=0.2), miners.BatchHardMiner()),
        "distance-weighted, margin loss": lambda: (losses.MarginLoss(), miners.DistanceWeightedMiner()),
    }[strategy]()
    loss = loss.to(device)
    return lambda z, labels: loss(z, labels, miner(z, labels))


def build(library: str, strategy: str, device: str) -> Loss:
    return OURS[strategy]().to(device) if library == "ours" else metric_learning(strategy, device)


def predicted_bytes(library: str, strategy: str, samples: int) -> float:
    """What it will allocate, from fits to its peaks at 512 and 1,024 samples."""
    if library == "theirs" and strategy in ("batch-all", "semi-hard"):
        return 1.1 * samples**3  # a byte for every (anchor, positive, negative), before any is looked at
    return 60.0 * samples**2


def batch(samples: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(samples, WIDTH, generator=generator)
    return z.to(device).requires_grad_(), (torch.arange(samples) // A_CLASS).to(device)


def forward_backward(loss: Loss, z: Tensor, labels: Tensor) -> float:
    z.grad = None
    value = loss(z, labels)
    value.backward()
    return value.item()


def interleaved_minimum(
    losses: dict[str, Loss], z: Tensor, labels: Tensor, device: str, budget: float
) -> dict[str, float]:
    """Seconds of the fastest round of each. What takes more than 20 s runs once, more than 2 s twice."""
    times = dict.fromkeys(losses, float("inf"))
    rounds, start = 0, time.perf_counter()
    while rounds < 3 or (rounds < 100 and time.perf_counter() < start + budget):
        for name, loss in losses.items():
            if rounds == 0 or times[name] < (20 if rounds == 1 else 2):
                times[name] = min(times[name], seconds(partial(forward_backward, loss, z, labels), device))
        rounds += 1
    return times


def measure(library: str, strategy: str, samples: int, device: str) -> int:
    """Extra memory of one forward and backward pass, after a small one that loads what is needed."""
    loss = build(library, strategy, device)
    z, labels = batch(samples, device)
    forward_backward(loss, *batch(32, device))
    return peak_bytes(lambda: forward_backward(loss, z, labels), device)


def memory(library: str, strategy: str, samples: int, device: str) -> int:
    if device == "cuda":
        return measure(library, strategy, samples, device)
    words = json.dumps({"library": library, "strategy": strategy, "samples": samples, "device": device})
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words} failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def table(samples_list: tuple[int, ...], device: str, limit: float, quick: bool) -> None:
    print(f"\nforward + backward, d = {WIDTH}, {A_CLASS} samples a class, float32\n")
    print("| strategy | samples | ours (ms) | pytorch-metric-learning (ms) | times faster | ours (MB) | theirs (MB) |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for strategy in OURS:
        for samples in samples_list:
            z, labels = batch(samples, device)
            able = {
                library: build(library, strategy, device)
                for library in ("ours", "theirs")
                if predicted_bytes(library, strategy, samples) <= limit
            }
            times = interleaved_minimum(able, z, labels, device, 0.0 if quick else 10.0)
            sizes = dict.fromkeys(("ours", "theirs"), "-")
            if samples >= MEASURE_MEMORY_FROM and not (quick and strategy != "hard"):
                # What takes minutes is not run again for its memory.
                weighed = [library for library in able if times[library] < 20]
                sizes |= {library: f"{memory(library, strategy, samples, device) / 1e6:,.0f}" for library in weighed}
            if "theirs" in able:
                cells = f"{times['theirs'] * 1e3:,.1f} | {times['theirs'] / times['ours']:.1f}"
                if strategy in ("batch-all", "hard"):
                    values = [forward_backward(loss, z, labels) for loss in able.values()]
                    worst = max(worst, abs(values[0] / values[1] - 1))
            else:
                needed = predicted_bytes("theirs", strategy, samples) / GIB
                cells = f"cannot run: needs about {needed:,.0f} GiB | "
            cells += f" | {sizes['ours']} | {sizes['theirs']}"
            print(f"| {strategy} | {samples:,} | {times['ours'] * 1e3:,.1f} | {cells} |", flush=True)
    print(f"\nLargest relative difference between the batch-all and hard losses of the two: {worst:.0e}")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only, the memory of one strategy")
    parser.add_argument("--samples", type=int, nargs="+", help="batch sizes, in place of the usual ones")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that a method may need")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.measure:
        print(measure(**json.loads(options.measure)))
        return 0
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        raise MissingExtraError(
            "pytorch-metric-learning is not installed; install it with: pip install 'simclr-pipeline[bench]'"
        )
    cuda = options.device == "cuda"
    hardware = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{hardware} of {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    samples = tuple(options.samples) if options.samples else (64, 512) if options.quick else SAMPLES
    table(samples, options.device, options.memory * GIB, options.quick)
    return 0


if __name__ == "__main__":
    # With the allocator as it comes: memory that is kept could not be measured.
    sys.exit(run_command(main, keep_memory=False))
