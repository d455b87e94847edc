"""One LARS step on the parameters of a ResNet-50 against timm's and lightly's: ``python benchmarks/optim.py``.

Times are the best of rounds in which all take turns, so that a busy machine slows all of them alike.
"""

import argparse
import sys
import time
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

# Before this folder, whose augment.py would hide the package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simclr.optim import LARS, parameter_groups


def optimizers(device: torch.device) -> dict[str, torch.optim.Optimizer]:
    """The same model three times, each under its own LARS, with gradients in place."""
    try:
        from lightly.utils.lars import LARS as LightlyLARS
    except ImportError:
        print("error: lightly is not installed: pip install 'simclr-pipeline[bench]'", file=sys.stderr)
        raise SystemExit(2) from None
    from timm.optim.lars import Lars as TimmLars

    def model() -> nn.Module:
        made = timm.create_model("resnet50", num_classes=0).to(device)
        for p in made.parameters():
            p.grad = torch.randn_like(p) * 1e-3
        return made

    def split(made: nn.Module) -> list[dict[str, object]]:
        decayed = [p for p in made.parameters() if p.ndim > 1]
        plain = [p for p in made.parameters() if p.ndim <= 1]
        return [{"params": decayed, "weight_decay": 1e-4}, {"params": plain, "weight_decay": 0.0}]

    return {
        "ours": LARS(parameter_groups(model(), 1e-4), lr=0.1),
        "timm Lars": TimmLars(split(model()), lr=0.1, momentum=0.9),
        "lightly LARS": LightlyLARS(split(model()), lr=0.1, momentum=0.9),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two rounds: does it run at all?")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = optimizers(device)
    best = dict.fromkeys(made, float("inf"))
    for number in range(2 if options.quick else options.rounds + 1):
        for name, optimizer in made.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round makes the buffers
                best[name] = min(best[name], time.perf_counter() - began)
    table = Table(title=f"one LARS step, ResNet-50 (161 tensors, 23.5M parameters), {device.type}")
    for column in ("", "ms", "ours is faster by"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in best.items():
        table.add_row(name, f"{1000 * seconds:.1f}", f"{seconds / best['ours']:.2f}")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
