"""Every objective with its defaults under one budget, scored on what it has not been trained on.

    python benchmarks/objectives.py                        # digits: the classes it was trained on, images it was not
    python benchmarks/objectives.py --data DIR             # folder of images: classes it was not trained on
    python benchmarks/objectives.py --only triplet margin  # some of them
    python benchmarks/objectives.py --quick                # a few steps of two, and of one on a folder

On digits, whose ten classes are all trained on, a row scores the test images. On a folder 40 % of the classes are held
out of training: retrieval and one-shot are over all test images of these classes, and the linear probe is fitted on their
training images. Features are the encoder's, before any head. Runs go to --out, so that a stopped command goes on.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import simclr
from cifar10.few_images import few_images
from linear_eval import Features, extract_features, linear_probe, map_at_r, recall_at_k
from linear_eval.matching.identification import one_shot
from simclr.command_line import run_command
from simclr.config import EncoderConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.data import ImageSet, load_source, place
from simclr.data.splits import divide_classes
from simclr.losses import ArcFaceConfig, NTXentConfig
from simclr.objectives import OBJECTIVES


def recipe(arguments: argparse.Namespace, objective: type) -> TrainConfig:
    """The preset of the images with this objective at its defaults."""
    config = simclr.preset("digits" if arguments.data is None else "cifar10-cpu")
    own = config.objective if objective is type(config.objective) else objective()
    loop = replace(config.train, evaluate=False, knn_every=0)
    data = config.data
    if arguments.data is not None:
        data = replace(data, source="folder", path=arguments.data, held_out_classes=0.4)
        loop = replace(loop, epochs=arguments.epochs, batch_size=256)
        # Of the preset the network alone: an optimizer that all objectives are at ease with, and views of one size.
        config = replace(
            config,
            augment=simclr.preset("cifar10").augment,
            optim=OptimConfig(name="adamw", learning_rate=2e-3, scaling="sqrt"),
            schedule=ScheduleConfig(warmup_epochs=0.5),
        )
        own = NTXentConfig(temperature=0.2) if objective is NTXentConfig else own
    if arguments.quick:
        small = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))
        config = replace(config, encoder=small, schedule=ScheduleConfig(warmup_epochs=0))
        data, loop = replace(data, limit=256), replace(loop, epochs=1, batch_size=64)
    return replace(config, name=objective.name, out=arguments.out, data=data, objective=own, train=loop)


def scored(config: TrainConfig) -> tuple[ImageSet, ImageSet]:
    """Images to fit a linear probe on, and images to score, decoded."""
    if not config.data.held_out_classes:
        return load_source(config.data, "train"), load_source(config.data, "test")
    whole = replace(config.data, held_out_classes=0.0)
    train, test = load_source(whole, "train"), load_source(whole, "test")
    _, unknown = divide_classes(train, config.data)
    return place(unknown(train), torch.device("cpu")), place(unknown(test), torch.device("cpu"))


def score(encoder: torch.nn.Module, train: ImageSet, test: ImageSet) -> dict[str, Any]:
    """Recall@1, MAP@R, linear and 4-way (or 5-way) one-shot accuracy."""
    fitted: Features = extract_features(encoder, train, 256)
    tested: Features = extract_features(encoder, test, 256)
    ways = min(5, len(tested.y.unique()))
    return {
        "recall_at_1": recall_at_k(tested.x, tested.y, ks=(1,))[1],
        "map_at_r": map_at_r(tested.x, tested.y),
        "linear": linear_probe(fitted, tested).accuracy,
        "one_shot": one_shot(tested.x, tested.y, ways, trials=10_000, seed=0).accuracy,
        "ways": ways,
    }


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of images; without it digits")
    parser.add_argument("--epochs", type=int, default=3, help="epochs on the folder (digits: its preset's)")
    parser.add_argument("--only", nargs="+", help="names of objectives")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of two, and nothing kept: does it run at all?"
    )
    arguments = parser.parse_args(words)
    if not arguments.quick:
        compare(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        arguments.data, arguments.out = None, Path(folder) / "digits"
        arguments.only = [NTXentConfig.name, ArcFaceConfig.name]
        compare(arguments)
        arguments.data, arguments.out = few_images(Path(folder) / "images"), Path(folder) / "folder"
        arguments.only = [NTXentConfig.name]
        compare(arguments)
    return 0


def compare(arguments: argparse.Namespace) -> None:
    """Train and score the objectives, print their table and leave scores.json."""
    chosen = [o for o in OBJECTIVES if arguments.only is None or o.name in arguments.only]
    rows: dict[str, dict[str, Any]] = {}
    for objective in chosen:
        config = recipe(arguments, objective)
        began = time.perf_counter()
        run = simclr.pretrain(config)
        seconds = time.perf_counter() - began
        train, test = scored(config)
        rows[objective.name] = score(simclr.load_encoder(run.encoder), train, test) | {"seconds": seconds}
        print(objective.name, rows[objective.name], flush=True)
    if not rows:
        raise simclr.ConfigError(f"no objective is called {arguments.only}; there are {[o.name for o in OBJECTIVES]}")
    rows["untrained"] = score(simclr.load_encoder(run.encoder, untrained=True), train, test)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "scores.json").write_text(json.dumps(rows, indent=2) + "\n")
    ways = rows["untrained"]["ways"]
    table = Table("objective", "Recall@1", "MAP@R", "linear", f"{ways}-way one-shot", "seconds")
    for name, row in rows.items():
        cells = [f"{100 * row[key]:.1f}" for key in ("recall_at_1", "map_at_r", "linear", "one_shot")]
        table.add_row(name, *cells, f"{row['seconds']:.0f}" if "seconds" in row else "")
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
