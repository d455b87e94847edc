"""LeJEPA beside NT-Xent where batches are small: the same encoder, images and epochs, and what a linear probe makes of it.

    OMP_NUM_THREADS=1 python benchmarks/small_batches.py --data DIR    # a folder with train/ and test/ parts
    python benchmarks/small_batches.py --quick                          # a few steps on a few images

A ResNet of one block a stage, 0.8 million parameters, on images of 16 px, AdamW at 2e-3. NT-Xent has the preset's head, 128
dimensions and temperature 0.2; LeJEPA the head of its authors' example, three layers, here 512 wide, and 64 dimensions. Seconds
are those of the processor while training.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import simclr
from cifar10.few_images import few_images
from linear_eval import extract_features, knn_accuracy, linear_probe
from simclr.command_line import run_command
from simclr.config import EncoderConfig, HeadConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.data import load_source, place
from simclr.losses import LeJEPAConfig, LossConfig, NTXentConfig

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
METHODS: dict[str, tuple[LossConfig, HeadConfig]] = {
    "nt-xent": (NTXentConfig(temperature=0.2), HeadConfig(layers=2, out_dim=128)),
    "lejepa": (LeJEPAConfig(weight=0.05), HeadConfig(layers=3, hidden_dim=512, out_dim=64)),
}


def recipe(arguments: argparse.Namespace, method: str, batch: int, views: int, seed: int) -> TrainConfig:
    """One run: two views for ``epochs``, more for as many fewer."""
    config, (objective, head) = simclr.preset("cifar10-cpu"), METHODS[method]
    epochs = max(1, arguments.epochs * 2 // views)
    widths = (4, 8, 8, 16) if arguments.quick else (16, 32, 64, 256)
    small = EncoderConfig(name="resnet18", stem="small", layers=(1, 1, 1, 1), channels=widths)
    config = replace(config, encoder=small)
    return replace(
        config,
        name=f"{method}-{batch}-{views}-{seed}",
        seed=seed,
        out=arguments.out,
        data=replace(config.data, source="folder", path=arguments.data, size=16, limit=arguments.images),
        augment=replace(config.augment, size=16, views=views),
        objective=objective,
        head=head,
        optim=OptimConfig(name="adamw", learning_rate=2e-3, scaling="none", weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0.5),
        train=replace(config.train, epochs=epochs, batch_size=batch, evaluate=False, knn_every=0),
    )


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("small_batches"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--views", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(words)
    if arguments.data is None and not arguments.quick:
        parser.error("--data DIR is missing; --quick makes images of its own")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick:
            arguments.data, arguments.out = few_images(Path(scratch) / "images"), Path(scratch)
            arguments.images, arguments.epochs, arguments.batches = 320, 1, [32]
        measure(arguments)
    return 0


def measure(arguments: argparse.Namespace) -> None:
    """Train and score every combination, and print a row for each."""
    table = Table("views", "batch", "objective", "seed", "seconds", "linear", "interval", "kNN")
    images, lines = {}, []
    for views in arguments.views:
        for batch in arguments.batches:
            for seed in arguments.seeds:
                for method in METHODS:
                    config = recipe(arguments, method, batch, views, seed)
                    begun = time.process_time()
                    simclr.pretrain(config)
                    seconds = time.process_time() - begun
                    for part in ("train", "test"):
                        images[part] = images.get(part) or place(load_source(config.data, part), torch.device("cpu"))
                    encoder = simclr.load_encoder(config.run_dir)
                    train, test = (extract_features(encoder, images[part], 256) for part in ("train", "test"))
                    probe = linear_probe(train, test, STRENGTHS)
                    near = knn_accuracy(train, test)
                    lines.append(
                        {"run": config.name, "seconds": seconds, "linear": probe.accuracy, "interval": probe.interval}
                    )
                    low, high = (f"{100 * bound:.1f}" for bound in probe.interval)
                    found = (f"{seconds:.0f}", f"{100 * probe.accuracy:.1f}", f"{low} to {high}", f"{100 * near:.1f}")
                    table.add_row(str(views), str(batch), method, str(seed), *found)
                    print(config.name, *found, flush=True)
    (arguments.out / "small_batches.json").write_text(json.dumps(lines, indent=2) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
