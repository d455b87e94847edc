"""What a step costs on 1 to 1,024 GPUs, by arithmetic alone: ``python benchmarks/plan.py``. Nothing here was measured.

Traffic of the gradients and of the gathered embeddings, their memory, what a loader must bring, what a checkpoint costs, and how
often a machine fails. Every assumption is a flag; docs/scale.md has the formulas.
"""

import argparse
import math
from dataclasses import dataclass

__all__ = ["GPUS", "Network", "lines"]

GPUS = (1, 8, 64, 256, 1024)
_FAILURES = 419 / 54 / 16_384
"""Unexpected interruptions a day and GPU: 419 in 54 days on 16,384 H100 (Grattafiori et al. 2024, arXiv 2407.21783)."""


@dataclass(frozen=True)
class Network:
    """A backbone with its head of two layers, and how fast a GPU takes it."""

    name: str
    parameters: float
    """Backbone (F outputs) + F² + 128 F of the head."""

    views: float
    """A second and GPU, forward and backward at 224 px: assumed."""

    states: int
    """Numbers that a checkpoint holds for each parameter: itself and the optimizer's (momentum; Adam's two)."""


NETWORKS = (
    Network("ResNet-50, LARS", 23.51e6 + 2048**2 + 2048 * 128, 2500, 2),
    Network("ViT-B/16, AdamW", 85.80e6 + 768**2 + 768 * 128, 1600, 3),
)


def lines(network: Network, given: argparse.Namespace) -> list[str]:
    """The table of one network, in Markdown."""
    found = [
        f"| {network.name}: GPUs | batch | step, s | gradients, MB (s) | z gathered, MB (s) | z held, MB | loss, GFLOP a GPU "
        "| loader, images/s | GB/s | cores a GPU | checkpoint every, min | failures a day | lost to them, % |",
        "|" + "---|" * 13,
    ]
    found += ["| " + " | ".join(row(network, gpus, given)) + " |" for gpus in GPUS]
    return found


def row(network: Network, gpus: int, given: argparse.Namespace) -> list[str]:
    """One row: see docs/scale.md for each formula."""
    rows = 2 * given.images  # of one GPU: two views
    step = rows / network.views
    speed = (given.inside if gpus <= 8 else given.between) * 1e9
    gradients = 2 * (gpus - 1) / gpus * 4 * network.parameters
    gathered = (gpus - 1) * rows * 4 * given.dimensions
    held = gpus * rows * 4 * given.dimensions
    loss = 6 * rows * gpus * rows * given.dimensions
    images = gpus * given.images / step
    size = 4 * network.parameters * network.states
    failures = gpus * _FAILURES
    between = 86_400 / failures
    write = size / (given.disk * 1e9)
    interval = math.sqrt(2 * write * between)
    lost = (interval / 2 + given.restart * 60) / between + write / interval
    return [
        str(gpus),
        f"{gpus * given.images:,}",
        f"{step:.2f}",
        f"{gradients / 1e6:.0f} ({gradients / speed:.4f})",
        f"{gathered / 1e6:.1f} ({gathered / speed:.4f})",
        f"{held / 1e6:.1f}",
        f"{loss / 1e9:.1f}",
        f"{images:,.0f}",
        f"{images * given.kilobytes / 1e6:.2f}",
        f"{images / gpus / given.decoded:.0f}",
        f"{interval / 60:.0f}",
        f"{failures:.4f}",
        f"{100 * lost:.2f}",
    ]


def parser() -> argparse.ArgumentParser:
    """The assumptions."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--images", type=int, default=128, help="a GPU and step")
    flags.add_argument("--dimensions", type=int, default=128, help="of an embedding, float32 on the wire")
    flags.add_argument(
        "--inside", type=float, default=300.0, help="GB/s a GPU sends within a machine of eight (NVLink)"
    )
    flags.add_argument(
        "--between", type=float, default=40.0, help="GB/s a GPU sends between machines (a 400 Gb/s card each)"
    )
    flags.add_argument("--kilobytes", type=float, default=110.0, help="of an image file (ImageNet's mean)")
    flags.add_argument(
        "--decoded", type=float, default=150.0, help="images a second and core, decoded and cut into two crops"
    )
    flags.add_argument("--disk", type=float, default=1.0, help="GB/s at which the first process writes a checkpoint")
    flags.add_argument("--restart", type=float, default=10.0, help="minutes from a failure to the next step")
    return flags


if __name__ == "__main__":
    given = parser().parse_args()
    print("\n\n".join("\n".join(lines(network, given)) for network in NETWORKS))
