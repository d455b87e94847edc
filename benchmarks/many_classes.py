"""ArcFace at many classes: labels of which a fifth are wrong, with and without sub-centres; 100,000 classes on a CPU.

    python benchmarks/many_classes.py --data DIR       # wrong labels: DIR/ALPHABET/CHARACTER/*.png, such as Omniglot's background
    python benchmarks/many_classes.py                  # memory and time of a step at 100,000 classes, and does it learn?
    python benchmarks/many_classes.py --processes 1 2 4   # the same divided among processes
    python benchmarks/many_classes.py --quick          # a few steps of each

Wrong labels (Deng et al. 2020, "Sub-center ArcFace"): a small network is trained on 80 % of the classes, 16 drawings of each,
after a fifth of the labels were replaced by others. Rows: one direction a class; three; three, then without the drawings
that are more than 75 degrees from the centre of their class that most of its drawings are nearest to, from the start with one
(the paper's procedure); and one with the labels that are right. Scores: the other drawings of these classes, by the nearest
direction, and Recall@1 and MAP@R over all drawings of the classes left out.

Memory: a step of ArcFace at many classes in a process of its own, comparing with all classes or with a share of them (An et
al. 2021, "Partial FC"). The images are synthetic: a point a class, and points around it.

Processes: the same batch on several, with directions whole in each and divided among them. Embeddings are drawn, so that there
is nothing but the loss and AdamW. Bytes are what a process receives as good algorithms have it, see tests/test_ranks.py.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import simclr
from linear_eval import map_at_r, recall_at_k
from simclr.command_line import run_command
from simclr.losses import ArcFaceLoss, EmbeddedBatch
from simclr.sharding import cut, local

SIZE, DIM, TRAINED, BATCH = 28, 64, 16, 128
"""Pixels, width of the embedding, drawings of a class to train on, drawings a step."""

PLACES = 64
"""Dimensions in which the synthetic classes lie."""


def drawings(folder: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) float, strokes 1 on 0, and labels (N,): one for each folder that holds files."""
    files = sorted(folder.rglob("*.png"))
    if not files:
        raise simclr.DataError(f"{folder} holds no PNG files; expected DIR/ALPHABET/CHARACTER/*.png")
    names = {parent: number for number, parent in enumerate(sorted({file.parent for file in files}))}
    pixels = [np.asarray(Image.open(file).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)) for file in files]
    return 1 - torch.from_numpy(np.stack(pixels))[:, None] / 255, torch.tensor([names[file.parent] for file in files])


def network(channels: int) -> nn.Module:
    """Four convolutions with a stride of 2, BatchNorm between them, and a linear layer to the embedding."""
    layers: list[nn.Module] = []
    for given in (1, channels, channels, channels):
        layers += [nn.Conv2d(given, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels, DIM))


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 15 degrees and moved by up to a tenth."""
    turn, across, down = (2 * torch.rand(3, len(images), generator=generator) - 1) * torch.tensor(
        [[0.26], [0.2], [0.2]]
    )
    rows = [torch.stack([turn.cos(), -turn.sin(), across], 1), torch.stack([turn.sin(), turn.cos(), down], 1)]
    return F.grid_sample(images, F.affine_grid(torch.stack(rows, 1), list(images.shape), False), align_corners=False)


def train(
    images: Tensor, labels: Tensor, subcenters: int, arguments: argparse.Namespace
) -> tuple[nn.Module, ArcFaceLoss]:
    """The network and its ArcFace after ``epochs`` over the images."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = network(arguments.channels)
    loss = ArcFaceLoss(int(labels.max()) + 1, DIM, scale=30.0, margin=0.2, subcenters=subcenters)
    steps = arguments.epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=3e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, max(steps, 2))
    for _ in range(arguments.epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(BATCH)[: len(images) // BATCH]:
            optimizer.zero_grad()
            loss(model(moved(images[rows], generator)), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval(), loss.eval()


@torch.no_grad()
def embedded(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part) for part in images.split(512)])


@torch.no_grad()
def near_the_dominant(z: Tensor, labels: Tensor, loss: ArcFaceLoss, farthest: float) -> Tensor:
    """Which rows are within ``farthest`` degrees of the centre of their class that most rows of it are nearest to."""
    directions = F.normalize(loss.weight, dim=1).unflatten(0, (loss.num_classes, -1))  # (C, K, D)
    cosines = (F.normalize(z, dim=1).unsqueeze(1) * directions[labels]).sum(2)  # (N, K)
    nearest = F.one_hot(cosines.argmax(1), loss.subcenters)
    votes = torch.zeros(loss.num_classes, loss.subcenters, dtype=torch.int64).index_add_(0, labels, nearest)
    own = cosines.gather(1, votes.argmax(1)[labels, None])[:, 0]
    return own.clamp(-1, 1).acos().rad2deg() <= farthest


def wrong_labels(arguments: argparse.Namespace, images: Tensor, labels: Tensor) -> None:
    """Train every way, and print what each is worth."""
    generator = torch.Generator().manual_seed(arguments.seed)
    classes = int(labels.max()) + 1
    known = torch.randperm(classes, generator=generator)[: classes * 4 // 5].sort().values
    place = torch.full((classes,), -1).index_put_((known,), torch.arange(len(known)))
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    number = torch.arange(len(order)) - torch.searchsorted(labels[order], labels[order])  # of the drawing in its class
    is_known, is_trained = place[labels[order]] >= 0, number < TRAINED
    fit, test, new = (order[mask] for mask in (is_known & is_trained, is_known & ~is_trained, ~is_known))
    right = place[labels[fit]]
    spoilt = torch.rand(len(fit), generator=generator) < arguments.wrong
    elsewhere = (right + torch.randint(1, len(known), (len(fit),), generator=generator)) % len(known)
    given = torch.where(spoilt, elsewhere, right)

    table = Table("labels, directions a class", "known classes", "Recall@1, new classes", "MAP@R", "seconds", "dropped")
    rows = {}

    def score(name: str, model: nn.Module, loss: ArcFaceLoss, seconds: float, dropped: str = "") -> None:
        z = embedded(model, images[new]).numpy()
        known_right = (loss.scores(embedded(model, images[test])).argmax(1) == place[labels[test]]).float().mean()
        row = [float(known_right), recall_at_k(z, labels[new].numpy(), ks=(1,))[1], map_at_r(z, labels[new].numpy())]
        rows[name] = dict(zip(("known", "recall_at_1", "map_at_r", "seconds"), [*row, seconds]), dropped=dropped)
        table.add_row(name, *(f"{100 * value:.1f}" for value in row), f"{seconds:.0f}", dropped)
        print(name, rows[name], flush=True)

    ways = {f"{arguments.wrong:.0%} wrong, 1": (given, 1), f"{arguments.wrong:.0%} wrong, 3": (given, 3)}
    for name, (told, subcenters) in {**ways, "all right, 1": (right, 1)}.items():
        began = time.process_time()
        model, loss = train(images[fit], told, subcenters, arguments)
        score(name, model, loss, time.process_time() - began)
        if subcenters > 1:
            kept = near_the_dominant(embedded(model, images[fit]), told, loss, arguments.farthest)
            found = (~kept & spoilt).sum().item()
            said = f"{(~kept).sum()} of {len(fit)}: {found} of the {spoilt.sum()} wrong ones"
            began = time.process_time()
            score(
                f"{name}, then 1 without the far",
                *train(images[fit[kept]], told[kept], 1, arguments),
                time.process_time() - began,
                said,
            )
    Console(width=130).print(table)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"wrong-labels-{arguments.seed}.json").write_text(json.dumps(rows, indent=2) + "\n")


def resident(peak: bool) -> float:
    """MiB of this process in memory, now or at most so far (Linux; elsewhere NaN)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM" if peak else "VmRSS")) / 1024


def one_share(arguments: argparse.Namespace) -> None:
    """Train on synthetic classes with a share of them a step; print memory, time and accuracy as JSON."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    centres = F.normalize(torch.randn(arguments.classes, PLACES, generator=generator), dim=1)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(arguments.classes, (count,), generator=generator)
        return centres[labels] + 0.1 * torch.randn(count, PLACES, generator=generator), labels

    test, own = draw(min(2000, arguments.classes))
    before = resident(peak=False)
    model = nn.Sequential(nn.Linear(PLACES, 256), nn.ReLU(), nn.Linear(256, arguments.dim))
    loss = ArcFaceLoss(arguments.classes, arguments.dim, scale=30.0, margin=0.2, sample_share=arguments.share)
    groups = [{"params": model.parameters(), "lr": 1e-3}, {"params": loss.parameters(), "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0)
    seconds = []
    for _ in range(arguments.steps):
        x, labels = draw(arguments.batch_size)
        began = time.process_time()
        optimizer.zero_grad()
        loss(model(x), labels, generator=generator).backward()
        optimizer.step()
        seconds.append(time.process_time() - began)
    grown = resident(peak=True) - before
    with torch.no_grad():
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in test.split(200)])
        found = torch.cat([loss.eval().cosines(model(part)).argmax(1) for part in test.split(200)])
    right, possible = ((guess == own).float().mean().item() for guess in (found, nearest))
    print(json.dumps({"mib": grown, "seconds": float(np.median(seconds)), "accuracy": right, "possible": possible}))


def many_classes(arguments: argparse.Namespace) -> None:
    """Every share in a process of its own."""
    table = Table(
        "share of the classes", "memory of the steps, MiB", "CPU seconds a step", "steps", "accuracy", "nearest centre"
    )
    for share in arguments.shares:
        words = {name: getattr(arguments, name) for name in ("classes", "dim", "batch_size", "steps", "seed")}
        flags = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        done = subprocess.run([sys.executable, __file__, *flags, "--share", str(share)], capture_output=True, text=True)
        if done.returncode:
            raise simclr.PipelineError(f"the run with {share} of the classes ended: {done.stderr.strip()[-500:]}")
        row = json.loads(done.stdout)
        accuracy, possible = f"{100 * row['accuracy']:.1f}", f"{100 * row['possible']:.1f}"
        table.add_row(
            f"{share:g}", f"{row['mib']:.0f}", f"{row['seconds']:.2f}", str(arguments.steps), accuracy, possible
        )
        print(share, row, flush=True)
    Console(width=110).print(table)


def on_process(rank: int, world: int, port: int, folder: str, divided: bool, arguments: argparse.Namespace) -> None:
    """Steps of one of ``world`` processes, what they hold and receive, as JSON in ``folder``."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(rank)
    warm = ArcFaceLoss(world, arguments.dim)  # what is imported for the first step belongs to no loss
    warm.weight = nn.Parameter(cut(warm.weight, torch.device("cpu")))
    before, received = resident(peak=False), 0.0

    def counted(name: str, times: float) -> Any:
        taken = getattr(dist, name)

        def count(first: Any, *others: Any, **more: Any) -> Any:
            nonlocal received
            one = first if isinstance(first, Tensor) else first[0]
            received += times * one.numel() * one.element_size()
            return taken(first, *others, **more)

        return patch.object(dist, name, count)

    torch.manual_seed(arguments.seed)
    loss = ArcFaceLoss(arguments.classes, arguments.dim, scale=30.0, margin=0.2)
    if divided:
        loss.weight = nn.Parameter(cut(loss.weight, torch.device("cpu")))
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2, weight_decay=0, foreach=True)
    with suppress(OSError):  # Linux: the peak begins here, not with the draw of all directions
        Path("/proc/self/clear_refs").write_text("5")
    seconds, images = [], arguments.batch_size // world
    with counted("all_gather", world - 1), counted("reduce_scatter", world - 1), counted("all_reduce", 2 - 2 / world):
        for step in range(arguments.steps):
            z = torch.randn(1, images, arguments.dim, generator=generator, requires_grad=True)
            labels = torch.randint(arguments.classes, (images,), generator=generator)
            began = time.process_time()
            loss.on_ranks(EmbeddedBatch(z, labels, torch.arange(images), step)).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.process_time() - began)
    kept = [loss.weight, *(value for value in optimizer.state[loss.weight].values() if value.ndim)]
    held = sum(local(tensor).numel() * 4 for tensor in kept) / 2**20
    row = {"held": held, "mib": resident(peak=True) - before, "seconds": float(np.median(seconds))}
    Path(folder, f"{rank}.json").write_text(json.dumps({**row, "mb": received / arguments.steps / 1e6}))
    dist.destroy_process_group()


def on_processes(arguments: argparse.Namespace) -> None:
    """Every number of processes, with directions whole in each and divided among them."""
    table = Table(
        "processes",
        "directions",
        "they and AdamW's averages, MiB",
        "memory of the steps, MiB",
        "received a step, MB",
        "CPU s a step",
    )
    for world in arguments.processes:
        for divided in (False, True)[: 1 if world == 1 else 2]:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(on_process, (world, port, folder, divided, arguments), nprocs=world)
                rows = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
            row = {key: max(one[key] for one in rows) for key in rows[0]}  # of the process that has most of it
            how = "divided" if divided else "whole in each"
            table.add_row(
                str(world), how, f"{row['held']:.0f}", f"{row['mib']:.0f}", f"{row['mb']:.2f}", f"{row['seconds']:.2f}"
            )
            print(world, how, row, flush=True)
    Console(width=130).print(table)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of drawings; without it the memory at many classes")
    parser.add_argument("--wrong", type=float, default=0.2, help="share of the labels that are wrong")
    parser.add_argument("--farthest", type=float, default=75.0, help="degrees beyond which a drawing is dropped")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.1, 0.01])
    parser.add_argument("--share", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, nargs="+", help="numbers of processes to divide the classes among")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the scores of --data as JSON")
    parser.add_argument("--quick", action="store_true", help="a few steps of both: do they run at all?")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    if arguments.share is not None:
        one_share(arguments)
    elif arguments.quick:
        arguments.epochs, arguments.channels, arguments.classes, arguments.steps = 1, 4, 1000, 3
        many_classes(arguments)
        arguments.processes = [1, 2]
        on_processes(arguments)
        with tempfile.TemporaryDirectory() as folder:
            arguments.farthest = 180.0
            images, labels = torch.rand(20 * 20, 1, SIZE, SIZE), torch.arange(20).repeat_interleave(20)
            for number, pixels in enumerate(images):
                path = Path(folder) / f"character{labels[number]:02}" / f"{number}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray((255 * pixels[0]).byte().numpy()).save(path)
            wrong_labels(arguments, *drawings(Path(folder)))
    elif arguments.processes:
        on_processes(arguments)
    elif arguments.data is not None:
        wrong_labels(arguments, *drawings(arguments.data))
    else:
        many_classes(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
