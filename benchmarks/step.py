"""One pretraining step against the same step put together from lightly's parts: ``python benchmarks/step.py``.

The same timm backbone, the same batch, the same optimizer, the same images from memory. Ours: uint8 tensor, views on the
device, all views in one pass, our loss. lightly's: PIL images, its SimCLR transform in a worker a core, its projection
head and loss, one pass a view, as its SimCLR example does. Each side runs in processes of its own, in turns; a time is
the best of its turns, a memory the largest. Our processes keep the memory that they free, as our commands do, and
lightly's do not (``--keep``). The rows of the encoder alone say what of our step is not its own forward and
backward, and how much of the device's peak it reaches. The second table splits our step into its parts, each waited for.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from augment import AugmentConfig, ViewGenerator
from simclr.config import EncoderConfig, HeadConfig, OptimConfig
from simclr.losses.ntxent.loss import NTXentLoss
from simclr.model.contrastive import ContrastiveModel
from simclr.model.encoder import build_backbone, feature_width
from simclr.model.heads import projection_head
from simclr.optim.optimizers import build_optimizer, parameter_groups
from simclr.run.flops import model_flops, peak_flops
from simclr.run.process import keep_freed_memory
from simclr.run.profile import PARTS, StepProfile

ENCODERS = {
    "small": EncoderConfig(name="resnet18", stem="small", layers=(1, 1, 1, 1), channels=(16, 32, 64, 256)),
    "resnet18": EncoderConfig(name="resnet18", stem="small"),
}
SIZE = 32
EPOCH = 50_000
"""Images of CIFAR-10's epoch."""


def model_and_optimizer(encoder: str, device: torch.device) -> tuple[ContrastiveModel, torch.optim.Optimizer]:
    backbone = build_backbone(ENCODERS[encoder], SIZE, seed=0)
    head = projection_head(feature_width(backbone, SIZE), HeadConfig())
    model = ContrastiveModel(backbone, head, torch.channels_last).to(device)
    return model, build_optimizer(parameter_groups(model, 1e-4), OptimConfig(name="adamw", learning_rate=1e-3), 1e-3)


def pixels(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4 * batch, 3, 8, 8, generator=generator)  # smooth images, as photographs are
    return (torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 1) * 255).byte()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def our_steps(
    encoder: str, batch: int, precision: str, device: torch.device, profile: StepProfile | None = None
) -> Iterator[None]:
    images = pixels(batch).to(device)
    model, optimizer = model_and_optimizer(encoder, device)
    views, loss = ViewGenerator(AugmentConfig(size=SIZE)), NTXentLoss(0.5)
    profile = StepProfile(0, device) if profile is None else profile
    for step in range(1 << 30):
        index = torch.randperm(len(images), device=device)[:batch]
        chosen = images[index]
        profile.mark("augment")
        x = views(chosen, seed=step)  # (2, B, 3, S, S)
        profile.mark("encoder")
        with autocast(device, precision):
            z = model(x)  # (2, B, D)
        profile.loss(loss)(z).backward()
        profile.mark("optimizer")
        optimizer.step()
        optimizer.zero_grad()
        profile.end_step()
        yield


def lightly_steps(encoder: str, batch: int, precision: str, device: torch.device) -> Iterator[None]:
    from lightly.loss import NTXentLoss as TheirLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torchvision.transforms.functional import to_pil_image

    transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)
    pictures = [to_pil_image(image) for image in pixels(batch)]

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> list[torch.Tensor]:
            return transform(pictures[index])

    backbone = build_backbone(ENCODERS[encoder], SIZE, seed=0)
    head = SimCLRProjectionHead(feature_width(backbone, SIZE), feature_width(backbone, SIZE), 128)
    model = torch.nn.Sequential(backbone, head).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = TheirLoss(temperature=0.5)
    workers = torch.get_num_threads()
    loader = torch.utils.data.DataLoader(
        Views(), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    while True:
        for x0, x1 in loader:
            with autocast(device, precision):
                z = [model(x.to(device).contiguous(memory_format=torch.channels_last)) for x in (x0, x1)]
            loss(z[0].float(), z[1].float()).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield


def encoder_steps(encoder: str, batch: int, precision: str, device: torch.device) -> Iterator[None]:
    """The encoder's and head's forward and backward alone, on views that are already there."""
    model, _ = model_and_optimizer(encoder, device)
    x = torch.rand(2, batch, 3, SIZE, SIZE, device=device)
    while True:
        with autocast(device, precision):
            z = model(x)
        z.float().sum().backward()
        for p in model.parameters():
            p.grad = None
        yield


SIDES: dict[str, Callable[..., Iterator[None]]] = {
    "ours": our_steps,
    "lightly": lightly_steps,
    "encoder": encoder_steps,
}


def split(encoder: str, batch: int, precision: str, steps: int) -> dict[str, float]:
    """Seconds of each part of our step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    profile = StepProfile(steps, device, warmup=2, traced=0)
    run = our_steps(encoder, batch, precision, device, profile)
    for _ in range(2 + steps):
        next(run)
    return profile.seconds()


def measure(side: str, encoder: str, batch: int, precision: str, steps: int) -> dict[str, Any]:
    """Seconds a step and bytes of one side; for the encoder alone also its operations."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    run = SIDES[side](encoder, batch, precision, device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        next(run)
    wait()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        next(run)
        wait()
        times.append(time.perf_counter() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    # A worker's memory counts: it is there for as long as training is.
    grown += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 if side == "lightly" else 0
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else grown
    # The mean, not the best step: a loader that lags shows in every few steps only.
    found = {"seconds": sum(times) / len(times), "memory": memory}
    if side == "encoder":
        model, _ = model_and_optimizer(encoder, device)
        flops = model_flops(model, torch.empty(2, batch, 3, SIZE, SIZE, device="meta"))
        peak = peak_flops(device, precision)
        found |= {"flops": flops or 0, "peak": peak.flops, "source": peak.source}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=ENCODERS, default="small")
    parser.add_argument("--batch", type=int, default=256, help="images in a batch")
    parser.add_argument(
        "--steps", type=int, default=24, help="timed steps in a turn: many more than the loader prefetches"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--keep", choices=("ours", "all", "none"), default="ours", help="whose processes keep the memory they free"
    )
    parser.add_argument("--quick", action="store_true", help="one turn of two steps of 32 images in bf16: does it run?")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.batch, options.steps, options.turns = 32, 2, 1
    precisions = ("bf16",) if options.quick else ("fp32", "bf16")
    if options.measure:
        side, precision = options.measure
        if options.keep == "all" or (options.keep == "ours" and side != "lightly"):
            keep_freed_memory()
        sizes = options.encoder, options.batch, precision, options.steps
        print(json.dumps(split(*sizes) if side == "parts" else measure(side, *sizes)))
        return 0
    try:
        import lightly  # noqa: F401 - its absence is the user's to mend
    except ImportError:
        print("error: lightly is not installed: pip install 'simclr-pipeline[bench]'", file=sys.stderr)
        return 2

    rows = [(side, precision) for precision in precisions for side in ("lightly", "ours", "encoder")]

    def in_a_process(row: tuple[str, str]) -> dict[str, Any]:
        words = ["--encoder", options.encoder, "--batch", str(options.batch), "--steps", str(options.steps)]
        command = [sys.executable, __file__, *words, "--keep", options.keep, "--measure", *row]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    found: dict[tuple[str, str], list[dict[str, Any]]] = {row: [] for row in rows}
    for _ in range(options.turns):
        for row in rows:
            found[row].append(in_a_process(row))
    table = Table(title=f"one step, {options.batch} images of {SIZE} px, two views, {options.encoder}")
    for column in ("", "precision", "seconds", "times lightly's speed", "peak memory MB", "share of lightly's"):
        table.add_column(column, justify="right" if column else "left")
    best = {row: min(one["seconds"] for one in turns) for row, turns in found.items()}
    peak = {row: max(one["memory"] for one in turns) / 1e6 for row, turns in found.items()}
    for side, precision in rows:
        if side == "encoder":
            outside = 1 - best[side, precision] / best["ours", precision]
            table.add_row(
                "encoder and head alone", precision, f"{best[side, precision]:.3f}", f"{100 * outside:.1f} % outside"
            )
            continue
        ratio, share = (d[side, precision] / d["lightly", precision] for d in (best, peak))
        table.add_row(
            side,
            precision,
            f"{best[side, precision]:.3f}",
            f"{1 / ratio:.2f}",
            f"{peak[side, precision]:.0f}",
            f"{share:.2f}",
        )
    console = Console(width=110)
    console.print(table)
    for precision in precisions:
        alone = found["encoder", precision][0]
        speed, peak = alone["flops"] / best["encoder", precision], max(a["peak"] for a in found["encoder", precision])
        console.print(
            f"{precision}: {EPOCH / options.batch * best['ours', precision]:.1f} s an epoch of {EPOCH:,} images; encoder "
            f"{alone['flops'] / 1e9:.4g} GFLOP a step, {speed / 1e12:.3g} TFLOP/s, {100 * speed / peak:.0f} % of "
            f"{peak / 1e12:.3g} ({alone['source']})"
        )
    split_table = Table(title="our step by part, waiting for the device between parts")
    for column in ("precision", *(f"{part}, ms" for part in PARTS), "outside the encoder"):
        split_table.add_column(column, justify="right")
    for precision in precisions:
        seconds = in_a_process(("parts", precision))
        outside = 1 - seconds["encoder"] / sum(seconds.values())
        split_table.add_row(precision, *(f"{1e3 * seconds[part]:.2f}" for part in PARTS), f"{100 * outside:.1f} %")
    console.print(split_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
