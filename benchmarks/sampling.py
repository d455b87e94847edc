"""How negatives are sampled, and what comes of it: margin loss under four strategies (Wu et al. 2017, section 3).

    python benchmarks/sampling.py --data DIR      # a folder of images with train/ and test/ parts; --seeds 0 1 2
    python benchmarks/sampling.py --quick         # a few steps on a few images

For each strategy a network is trained, with the same budget, on 60 % of the classes. The table gives Recall@1 on test
images of the other classes and of the classes trained on. Then one common network, that of random sampling, looks at the
same batches with every strategy: how far the chosen negatives are, and how much the gradient of all weights differs from
batch to batch (its variance over the squared length of its mean). One picture, sampling.png.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

import simclr
from cifar10.few_images import few_images
from linear_eval import extract_features, recall_at_k
from simclr.command_line import run_command
from simclr.config import EncoderConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.data import ImageSet, load_source, place
from simclr.data.splits import divide_classes
from simclr.distances import pairwise_distance
from simclr.exchange.classifier import Classifier, load_classifier
from simclr.losses import MarginConfig
from simclr.losses.mined import Miner, Mining
from simclr.numerics import l2_normalize

STRATEGIES: tuple[Mining, ...] = ("random", "hard", "semi-hard", "distance-weighted")
COLOURS = ("#a9a9a9", "#c1443c", "#e09f3e", "#2a6f97")


def recipe(arguments: argparse.Namespace, mining: Mining, seed: int) -> TrainConfig:
    """The network of the preset `cifar10-cpu` with margin loss and AdamW, on some of the classes."""
    config = simclr.preset("cifar10-cpu")
    data = replace(config.data, source="folder", path=arguments.data, held_out_classes=0.4, limit=arguments.images)
    loop = replace(config.train, epochs=arguments.epochs, batch_size=arguments.batch_size, evaluate=False, knn_every=0)
    if arguments.quick:
        small = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))
        config = replace(config, encoder=small)
    return replace(
        config,
        name=f"{mining}-{seed}",
        seed=seed,
        out=arguments.out,
        data=data,
        objective=MarginConfig(mining=mining),
        augment=simclr.preset("cifar10").augment,
        optim=OptimConfig(name="adamw", learning_rate=2e-3, scaling="sqrt"),
        schedule=ScheduleConfig(warmup_epochs=0.5),
        train=loop,
    )


def recalls(config: TrainConfig) -> tuple[float, float]:
    """Recall@1 on test images of classes not trained on, and of classes trained on."""
    encoder = simclr.load_encoder(config.run_dir)
    whole = replace(config.data, held_out_classes=0.0, limit=None)
    known, unknown = divide_classes(load_source(whole, "train"), config.data)
    test = load_source(whole, "test")
    parts = [place(of_classes(test), torch.device("cpu")) for of_classes in (unknown, known)]
    found = [extract_features(encoder, images, 256) for images in parts]
    new, old = (recall_at_k(f.x, f.y, ks=(1,))[1] for f in found)
    return new, old


def batches(images: ImageSet, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """``count`` random batches of ``images``, the same on every call."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    drawn = [images.subset(rows) for rows in order[: count * size].split(size)]
    return [(part.pixels, part.labels) for part in drawn if part.pixels is not None and part.labels is not None]


def chosen_distances(z: Tensor, labels: Tensor, mining: Mining, seed: int) -> Tensor:
    """Distances of the negatives that a strategy takes from a batch."""
    generator = torch.Generator().manual_seed(seed)
    miner = Miner(strategy=mining, distance="euclidean", margin=0.2)
    mined = miner(l2_normalize(z), labels, generator)
    return mined.negative[mined.triplets.valid]


def gradient_noise(model: Classifier, drawn: list[tuple[Tensor, Tensor]], mining: Mining) -> float:
    """Variance of the gradient of all weights between batches, over the squared length of its mean."""
    loss = MarginConfig(mining=mining).build(0, 0, 0)
    parameters = [p for p in [*model.encoder.parameters(), *model.head.parameters()] if p.requires_grad]
    gradients = []
    for number, (pixels, labels) in enumerate(drawn):
        generator = torch.Generator().manual_seed(number)
        value = loss(model.embed(pixels), labels, generator=generator)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
    every = torch.stack(gradients)  # (batches, weights)
    mean = every.mean(0)
    return float((every - mean).square().sum(1).sum() / (len(every) - 1) / mean.square().sum())


def picture(rows: dict[str, Any], negatives: Tensor, path: Path) -> None:
    """Distances of the chosen negatives, gradient noise and Recall@1, by strategy."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2.2, 1, 1.3))
    bins = np.linspace(0, 2, 61)
    left.hist(negatives.numpy(), bins, density=True, color="#e6e6e6", label="all negatives")
    for (name, row), colour in zip(rows.items(), COLOURS, strict=True):
        left.hist(
            row["distances"].numpy(), bins, density=True, histtype="step", linewidth=1.6, color=colour, label=name
        )
    left.set_xlabel("distance of the chosen negatives, one common network")
    left.set_ylabel("density")
    left.legend(frameon=False, fontsize=9)
    x = np.arange(len(rows))
    middle.bar(x, [row["noise"] for row in rows.values()], color=COLOURS)
    middle.set_ylabel("variance of the gradient / |mean|²")
    means = np.array([np.mean(row["new"]) for row in rows.values()]) * 100
    spread = np.array([np.std(row["new"], ddof=1) if len(row["new"]) > 1 else 0.0 for row in rows.values()]) * 100
    right.bar(x, means, yerr=spread if spread.any() else None, color=COLOURS, capsize=3)
    for position, mean, wide in zip(x, means, spread, strict=True):
        right.text(position, mean + wide + 0.4, f"{mean:.1f}", ha="center", fontsize=9)
    right.set_ylabel("Recall@1, classes not trained on, %")
    right.set_ylim(0, 1.15 * means.max())
    for axes in (middle, right):
        axes.set_xticks(x, [name.replace("-", "-\n", 1) for name in rows], fontsize=9)
    for axes in (left, middle, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150, facecolor="white")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted = "--quick" not in words  # which has images of its own
    parser.add_argument("--data", type=Path, required=wanted, help="a folder of images with train/ and test/ parts")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batches", type=int, default=16, help="batches for the gradient's variance")
    parser.add_argument("--out", type=Path, default=Path("runs/sampling"))
    parser.add_argument(
        "--quick", action="store_true", help="as small as it gets, and nothing kept: does it run at all?"
    )
    arguments = parser.parse_args(words)
    arguments.batch_size = 256
    if not arguments.quick:
        compare(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        arguments.data, arguments.out = few_images(Path(folder) / "images"), Path(folder) / "out"
        arguments.epochs, arguments.batch_size, arguments.batches = 1, 64, 2
        compare(arguments)
    return 0


def compare(arguments: argparse.Namespace) -> None:
    """Train and look at every strategy, print the table and leave sampling.json and sampling.png."""
    rows: dict[str, Any] = {}
    for mining in STRATEGIES:
        scores = []
        for seed in arguments.seeds:
            config = recipe(arguments, mining, seed)
            simclr.pretrain(config)
            scores.append(recalls(config))
            print(mining, seed, scores[-1], flush=True)
        rows[mining] = {"new": [new for new, _ in scores], "old": [old for _, old in scores]}
    common = recipe(arguments, "random", arguments.seeds[0])
    model = load_classifier(common.run_dir)
    images = place(load_source(common.data, "train"), torch.device("cpu"))
    drawn = batches(images, arguments.batches, arguments.batch_size)
    with torch.no_grad():
        embedded = [(model.embed(pixels), labels) for pixels, labels in drawn]
    for mining, row in rows.items():
        row["distances"] = torch.cat([chosen_distances(z, y, mining, i) for i, (z, y) in enumerate(embedded)])  # type: ignore[arg-type]  # a key is a strategy
        row["noise"] = gradient_noise(model, drawn, mining)  # type: ignore[arg-type]  # a key is a strategy
    negatives = torch.cat([pairwise_distance(l2_normalize(z))[y[:, None] != y] for z, y in embedded])
    picture(rows, negatives, arguments.out / "sampling.png")
    table = Table(
        "sampling", "Recall@1, new classes", "Recall@1, trained classes", "mean distance", "gradient variance"
    )
    for name, row in rows.items():
        row["distances"] = float(row["distances"].mean())
        new, old = (" ".join(f"{100 * value:.1f}" for value in row[key]) for key in ("new", "old"))
        table.add_row(name, new, old, f"{row['distances']:.3f}", f"{row['noise']:.2f}")
    (arguments.out / "sampling.json").write_text(json.dumps(rows, indent=2) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
