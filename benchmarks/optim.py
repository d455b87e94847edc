"""One optimizer step against its peers: ``python benchmarks/optim.py``.

LARS on the parameters of a ResNet-50 against timm's and lightly's. Muon on those of a ResNet-18 and of a ViT-Tiny against
timm's and torch's: with all three, convolutions count as matrices and vectors take AdamW's step (torch's Muon takes
matrices alone: it gets flattened copies, and AdamW beside it). Times are the best of rounds in which all take turns, so
that a busy machine slows all of them alike. "error" is the largest relative error of a matrix's first update against
Muon's formula in float64: the quintic applied to the singular values. OMP_NUM_THREADS sets the threads.
"""

import argparse
import sys
import time
from collections.abc import Callable

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS, parameter_groups

MOMENTUM = 0.95

Step = Callable[[], object]


def model(name: str, device: torch.device) -> nn.Module:
    """A timm model, the same at every call, with gradients in place."""
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=0).to(device)
    for p in made.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    return made


def split(made: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices and convolutions; vectors."""
    parameters = list(made.parameters())
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def lars(name: str, device: torch.device) -> dict[str, Step]:
    """The step of each LARS, every one on a model of its own."""
    from lightly.utils.lars import LARS as LightlyLARS
    from timm.optim.lars import Lars as TimmLars

    def groups(made: nn.Module) -> list[dict[str, object]]:
        decayed, plain = split(made)
        return [{"params": decayed, "weight_decay": 1e-4}, {"params": plain, "weight_decay": 0.0}]

    return {
        "ours": LARS(parameter_groups(model(name, device), 1e-4), lr=0.1).step,
        "timm Lars": TimmLars(groups(model(name, device)), lr=0.1, momentum=0.9).step,
        "lightly LARS": LightlyLARS(groups(model(name, device)), lr=0.1, momentum=0.9).step,
    }


def muons(name: str, device: torch.device, lr: float) -> dict[str, tuple[Step, list[nn.Parameter]]]:
    """The step of each Muon and its matrices, every one on a model of its own."""
    from timm.optim import Muon as TimmMuon

    ours, theirs, torchs = (model(name, device) for _ in range(3))
    matrices, vectors = split(theirs)
    # With Nesterov momentum timm's vectors would take NAdamW's step.
    timm_muon = TimmMuon(
        [{"params": matrices, "use_muon": True}, {"params": vectors, "use_fallback": True, "nesterov": False}],
        lr=lr,
        momentum=MOMENTUM,
        nesterov=True,
        betas=(0.9, 0.999),
        ns_coefficients="original",
        adjust_lr_fn="match_rms_adamw",
    )
    flat = []
    for p in split(torchs)[0]:
        assert p.grad is not None
        flat.append(nn.Parameter(p.detach().flatten(1).clone()))
        flat[-1].grad = p.grad.flatten(1).clone()
    for_matrices = torch.optim.Muon(flat, lr=lr, weight_decay=0.0, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    for_vectors = torch.optim.AdamW(split(torchs)[1], lr=lr, weight_decay=0.0, foreach=True)
    return {
        "ours": (Muon(parameter_groups(ours, 0.0), lr=lr, momentum=MOMENTUM).step, split(ours)[0]),
        "timm Muon": (timm_muon.step, matrices),
        "torch Muon and AdamW": (lambda: (for_matrices.step(), for_vectors.step()), flat),
    }


def exact(gradient: Tensor) -> Tensor:
    """Muon's first update of a matrix (R, C) without its rate, by the singular values of the gradient in float64."""
    u, values, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (u * values) @ v


def largest_errors(name: str, device: torch.device) -> dict[str, float]:
    """By name of a Muon: the largest relative error of a matrix's first update."""
    made = muons(name, device, lr=1.0)
    before = {peer: [p.detach().double().flatten(1) for p in matrices] for peer, (_, matrices) in made.items()}
    wanted = [exact(p.grad.flatten(1)) for p in made["ours"][1] if p.grad is not None]
    found = {}
    for peer, (step, matrices) in made.items():
        step()
        errors = []
        for old, new, right in zip(before[peer], matrices, wanted, strict=True):
            update = (old - new.detach().double().flatten(1)) / (0.2 * max(old.shape) ** 0.5)
            errors.append(float((update - right).norm() / right.norm()))
        found[peer] = max(errors)
    return found


def best_of(rounds: int, steps: dict[str, Step], device: torch.device) -> dict[str, float]:
    """Seconds of the fastest round of each."""
    best = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round makes the buffers
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one round on small models: does it run at all?")
    options = parser.parse_args()
    try:
        import lightly  # noqa: F401 - its absence is the user's to mend
    except ImportError:
        print("error: lightly is not installed: pip install 'simclr-pipeline[bench]'", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = 1 if options.quick else options.rounds
    console = Console(width=100)

    def show(what: str, name: str, steps: dict[str, Step], errors: dict[str, float]) -> None:
        weights = list(model(name, torch.device("cpu")).parameters())
        size = f"{len(weights)} tensors, {sum(p.numel() for p in weights) / 1e6:.1f}M parameters"
        table = Table(title=f"one {what} step, {name} ({size}), {device.type}, {torch.get_num_threads()} threads")
        for column in ("", "ms", "ours is faster by", *(["error"] if errors else [])):
            table.add_column(column, justify="right" if column else "left")
        best = best_of(rounds, steps, device)
        for peer, seconds in best.items():
            error = [f"{errors[peer]:.0e}"] if errors else []
            table.add_row(peer, f"{1000 * seconds:.1f}", f"{seconds / best['ours']:.2f}", *error)
        console.print(table)

    resnet50 = "test_resnet" if options.quick else "resnet50"
    show("LARS", resnet50, lars(resnet50, device), {})
    for name in ("test_resnet", "test_vit") if options.quick else ("resnet18", "vit_tiny_patch16_224"):
        steps = {peer: step for peer, (step, _) in muons(name, device, lr=1e-3).items()}
        show("Muon", name, steps, largest_errors(name, device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
