"""How negatives are sampled, and what comes of it: margin and triplet loss under five strategies (Wu et al. 2017, section 3).

    python benchmarks/sampling.py --data DIR --seeds 0 1 2   # DIR as --data.path of the source omniglot
    python benchmarks/sampling.py --quick                    # a few steps on a few drawings

For each loss and strategy a network is trained, with the same budget, on Omniglot's background alphabets, by the preset
`omniglot`. The table gives Recall@1 over all drawings of the 659 evaluation characters, of which training saw none, a figure a
seed. Then one common network, the margin loss's of random sampling, looks at the same batches with every strategy: how far the
chosen negatives are, and how much the gradient of all weights differs from batch to batch (its variance over the squared
length of its mean). One picture, sampling.png. Scores stay in --out, so that a stopped command goes on.
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
from linear_eval import extract_features, recall_at_k
from omniglot import few_drawings
from simclr.command_line import run_command
from simclr.config import EncoderConfig, TrainConfig
from simclr.data import load_source, make_sampler, place
from simclr.data.rotations import with_rotations
from simclr.distances import pairwise_distance
from simclr.exchange.classifier import Classifier, load_classifier
from simclr.losses import MarginConfig, TripletConfig
from simclr.losses.mined import Miner, Mining
from simclr.numerics import l2_normalize

LOSSES = {"margin": MarginConfig, "triplet": TripletConfig}
STRATEGIES: tuple[Mining, ...] = ("random", "hard", "semi-hard", "distance-weighted", "all")
COLOURS = ("#a9a9a9", "#c1443c", "#e09f3e", "#2a6f97", "#5b8c5a")
CPU = torch.device("cpu")


def recipe(arguments: argparse.Namespace, loss: str, mining: Mining, seed: int) -> TrainConfig:
    """The preset `omniglot` with this loss and strategy, all else at its defaults."""
    config = simclr.preset("omniglot")
    loop = replace(config.train, epochs=arguments.epochs, evaluate=False, knn_every=0)
    if arguments.quick:
        small = EncoderConfig(name="resnet18", stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
        config = replace(config, encoder=small, sampler=replace(config.sampler, classes=4))
        loop = replace(loop, batch_size=16)
    return replace(
        config,
        name=f"{loss}-{mining}-{seed}",
        seed=seed,
        out=arguments.out,
        data=replace(config.data, path=arguments.data),
        objective=LOSSES[loss](mining=mining),
        train=loop,
    )


def recall(config: TrainConfig) -> float:
    """Recall@1 over the drawings of characters that training never saw."""
    found = extract_features(simclr.load_encoder(config.run_dir), place(load_source(config.data, "held-out"), CPU), 256)
    return recall_at_k(found.x, found.y, ks=(1,))[1]


def batches(config: TrainConfig, count: int) -> list[tuple[Tensor, Tensor]]:
    """``count`` batches of the training images, as the run's sampler fills them."""
    images = with_rotations(place(load_source(config.data, "train"), CPU))
    sampler = make_sampler(config.sampler, images, config.train.batch_size, config.seed)
    drawn = [images.subset(sampler.indices(step)) for step in range(count)]
    return [(part.pixels, part.labels) for part in drawn if part.pixels is not None and part.labels is not None]


def chosen_distances(z: Tensor, labels: Tensor, mining: Mining, seed: int) -> Tensor:
    """Distances of the negatives that a strategy takes from a batch; "all" takes those that are there."""
    if mining == "all":
        return pairwise_distance(l2_normalize(z))[labels[:, None] != labels]
    miner = Miner(strategy=mining, distance="euclidean", margin=0.2)
    mined = miner(l2_normalize(z), labels, torch.Generator().manual_seed(seed))
    return mined.negative[mined.triplets.valid]


def gradient_noise(model: Classifier, drawn: list[tuple[Tensor, Tensor]], loss_name: str, mining: Mining) -> float:
    """Variance of the gradient of all weights between batches, over the squared length of its mean."""
    loss = LOSSES[loss_name](mining=mining).build(0, 0, 0)
    parameters = [p for p in [*model.encoder.parameters(), *model.head.parameters()] if p.requires_grad]
    gradients = []
    for number, (pixels, labels) in enumerate(drawn):
        value = loss(model.embed(pixels), labels, generator=torch.Generator().manual_seed(number))
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
    every = torch.stack(gradients)  # (batches, weights)
    mean = every.mean(0)
    return float((every - mean).square().sum(1).sum() / (len(every) - 1) / mean.square().sum())


def picture(rows: dict[str, dict[str, Any]], distances: dict[Mining, Tensor], path: Path) -> None:
    """Distances of the chosen negatives by strategy; gradient noise and Recall@1 by strategy and loss."""
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    left, *others = figure.subplots(1, 3, width_ratios=(1.9, 1.3, 1.5))
    bins = np.linspace(0, 2, 61)
    left.hist(distances["all"].numpy(), bins, density=True, color="#e6e6e6", label="all negatives")
    for mining, colour in zip(STRATEGIES, COLOURS, strict=True):
        if mining != "all":
            taken = distances[mining].numpy()
            left.hist(taken, bins, density=True, histtype="step", linewidth=1.6, color=colour, label=mining)
    left.set_xlabel("distance of the chosen negatives, one common network")
    left.set_ylabel("density")
    left.legend(frameon=False, fontsize=9)
    x = np.arange(len(STRATEGIES))
    for axes, key, words in zip(others, ("noise", "recall"), ("variance of the gradient / |mean|²", "Recall@1, %")):
        for side_by_side, (loss, hatch) in enumerate(zip(LOSSES, ("", "///"), strict=True)):
            drawn = [np.atleast_1d(rows[f"{loss} {mining}"][key]) for mining in STRATEGIES]
            scale = 100 if key == "recall" else 1
            means = [scale * values.mean() for values in drawn]
            spread = [scale * (values.std(ddof=1) if len(values) > 1 else 0) for values in drawn]
            axes.bar(
                x + 0.4 * side_by_side - 0.2, means, 0.38, yerr=spread if any(spread) else None, capsize=2,
                color=COLOURS, hatch=hatch, edgecolor="white", label=loss,
            )  # fmt: skip
        axes.set_ylabel(words)
        axes.set_xticks(x, [mining.replace("-", "-\n", 1) for mining in STRATEGIES], fontsize=9)
    others[0].set_title("plain: margin, hatched: triplet", fontsize=9)
    others[1].set_title("new characters, mean and deviation of seeds", fontsize=9)
    for axes in (left, *others):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150, facecolor="white")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where Omniglot is, or is downloaded to")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the 73,264 turned drawings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batches", type=int, default=16, help="batches for the gradient's variance")
    parser.add_argument("--out", type=Path, default=Path("runs/sampling"))
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of each, and nothing kept: does it run at all?"
    )
    arguments = parser.parse_args(words)
    if not arguments.quick:
        compare(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        arguments.data, arguments.out = few_drawings(Path(folder) / "data"), Path(folder) / "out"
        arguments.epochs, arguments.batches = 1, 2
        compare(arguments)
    return 0


def compare(arguments: argparse.Namespace) -> None:
    """Train and look at every strategy, print the table and leave sampling.json and sampling.png."""
    kept = arguments.out / "sampling.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in arguments.seeds:
        for loss in LOSSES:
            for mining in STRATEGIES:
                scores = rows.setdefault(f"{loss} {mining}", {"seeds": [], "recall": []})
                if seed in scores["seeds"]:
                    continue
                config = recipe(arguments, loss, mining, seed)
                simclr.pretrain(config)
                scores["seeds"].append(seed)
                scores["recall"].append(recall(config))
                kept.write_text(json.dumps(rows, indent=2) + "\n")
                print(loss, mining, seed, scores["recall"][-1], flush=True)
    common = recipe(arguments, "margin", "random", arguments.seeds[0])
    model = load_classifier(common.run_dir)
    drawn = batches(common, arguments.batches)
    with torch.no_grad():
        embedded = [(model.embed(pixels), labels) for pixels, labels in drawn]
    distances: dict[Mining, Tensor] = {}
    for mining in STRATEGIES:
        distances[mining] = torch.cat([chosen_distances(z, y, mining, i) for i, (z, y) in enumerate(embedded)])
        for loss in LOSSES:
            rows[f"{loss} {mining}"] |= {
                "distance": float(distances[mining].mean()),
                "noise": gradient_noise(model, drawn, loss, mining),
            }
    picture(rows, distances, arguments.out / "sampling.png")
    table = Table("loss", "sampling", "Recall@1", "mean distance", "gradient variance")
    for name, row in rows.items():
        recalls = " ".join(f"{100 * value:.1f}" for value in row["recall"])
        table.add_row(*name.split(" "), recalls, f"{row['distance']:.3f}", f"{row['noise']:.2f}")
    kept.write_text(json.dumps(rows, indent=2) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
