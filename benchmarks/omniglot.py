"""Omniglot: every objective with its defaults under one budget, from the background alphabets to the evaluation alphabets.

    python benchmarks/omniglot.py --data DIR --runs omniglot-runs.zip     # DIR as --data.path of the source omniglot
    python benchmarks/omniglot.py --only proxy-anchor nt-xent --epochs 40  # some of them, for longer
    python benchmarks/omniglot.py --quick                                 # two of them on a few drawings

Each objective trains the preset `omniglot`, an unlabelled one as that preset's docstring says, with as many views a run. The
exported encoder is scored on the 659 characters of the evaluation alphabets, of which training saw none: Lake's 400 trials,
random one-shot over all of them, Recall@1 and MAP@R of every drawing among all others, EER and TAR of all pairs. Beside them
raw pixels and an untrained encoder. Runs and scores stay in --out, so that a stopped command goes on.
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
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import nn

import simclr
from linear_eval import extract_features, few_shot, lake_trials, load_runs, map_at_r, recall_at_k, verification
from linear_eval.features.pixels import RawPixels
from linear_eval.matching.trials import OneShotRuns
from simclr.command_line import run_command
from simclr.config import EncoderConfig, HeadConfig, SamplerConfig, TrainConfig
from simclr.data import ImageSet, load_source, place
from simclr.losses import LossConfig, NTXentConfig
from simclr.objectives import OBJECTIVES

MEASURES = {
    "lake": "Lake's 400",
    "within": "20-way, one alphabet",
    "5": "5-way",
    "20": "20-way",
    "recall_at_1": "Recall@1",
    "map_at_r": "MAP@R",
    "eer": "EER",
    "tar": "TAR@1e-3",
}
CPU = torch.device("cpu")


def recipe(arguments: argparse.Namespace, objective: type[LossConfig]) -> TrainConfig:
    """The preset `omniglot` with this objective; without labels, two views of images that come in any order."""
    config = simclr.preset("omniglot")
    own = objective()
    epochs = arguments.epochs
    if not own.needs_labels:
        own = NTXentConfig(temperature=0.2) if objective is NTXentConfig else own
        config = replace(
            config,
            objective=own,
            augment=replace(config.augment, views=2),
            head=HeadConfig(layers=2, out_dim=128, predictor_dim=256 if own.needs_keys else 0),
            sampler=SamplerConfig(),
        )
        epochs = max(1, epochs // 2)
    elif any(p.ndim > 1 for p in own.build(2, 2, 2).parameters()):
        # Directions of classes are all around, features behind a ReLU in one corner: these losses have a layer between them.
        config = replace(config, head=HeadConfig(layers=1, out_dim=128))
    loop = replace(config.train, epochs=epochs, evaluate=False, knn_every=0)
    data = replace(config.data, path=arguments.data)
    if arguments.quick:
        small = EncoderConfig(name="resnet18", stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
        config = replace(config, encoder=small)
        if config.sampler.name == "classes":
            config = replace(config, sampler=replace(config.sampler, classes=4))
        loop = replace(loop, epochs=1, batch_size=16)
    return replace(config, name=objective.name, out=arguments.out, data=data, objective=own, train=loop)


def score(encoder: nn.Module, images: ImageSet, runs: OneShotRuns | None) -> dict[str, Any]:
    """The figures of `MEASURES`; those of one-shot as a share and its 95 % interval."""
    found = extract_features(encoder, images, 256)
    x, y = found.x, found.y
    alphabets = [name.split("/")[0] for name in images.classes]
    within = torch.tensor([sorted(set(alphabets)).index(alphabets[label]) for label in y.tolist()])
    row: dict[str, Any] = {}
    if runs is not None:
        trials = lake_trials(extract_features(encoder, runs.images, 256).x, runs)
        row["lake"] = (trials.accuracy, trials.interval)
    for name, ways, group in (("within", 20, within), ("5", 5, None), ("20", 20, None)):
        ways = min(ways, len(y.unique()) // 2)
        shot = few_shot(x, y, ways, episodes=1_000, within=group)
        row[name] = (shot.accuracy, shot.interval)
    pairs = verification(x, y, fars=(1e-3,))
    row |= {"recall_at_1": recall_at_k(x, y, ks=(1,))[1], "map_at_r": map_at_r(x, y)}
    return row | {"eer": pairs.eer, "tar": pairs.operating_points[0].tar}


def few_drawings(folder: Path) -> Path:
    """Strokes on white in Omniglot's folders: two alphabets of four characters to train on, and two to score on."""
    for part in ("background", "evaluation"):
        for number in range(8):
            place = folder / f"images_{part}" / f"alphabet{number % 2}" / f"character{number // 2:02d}"
            place.mkdir(parents=True)
            for i in range(8):
                image = Image.new("1", (105, 105), 1)
                ImageDraw.Draw(image).line((20, 10 + 10 * number, 80 + i, 80), fill=0, width=3)
                image.save(place / f"{i:02d}.png")
    return folder


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where Omniglot is, or is downloaded to")
    parser.add_argument("--runs", type=Path, help="Lake's 20 runs of 20 trials")
    parser.add_argument(
        "--epochs", type=int, default=3, help="passes over the 73,264 turned drawings, half of two views"
    )
    parser.add_argument("--only", nargs="+", help="names of objectives")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-omniglot"))
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of two, and nothing kept: does it run at all?"
    )
    arguments = parser.parse_args(words)
    if not arguments.quick:
        compare(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        arguments.data, arguments.out = few_drawings(Path(folder) / "data"), Path(folder) / "out"
        arguments.only = ["nt-xent", "triplet"]
        compare(arguments)
    return 0


def compare(arguments: argparse.Namespace) -> None:
    """Train and score the objectives that have no score yet, print the table of all and leave scores.json."""
    chosen = [one for one in OBJECTIVES if arguments.only is None or one.name in arguments.only]
    if not chosen:
        raise simclr.ConfigError(
            f"no objective is called {arguments.only}; there are {[one.name for one in OBJECTIVES]}"
        )
    kept = arguments.out / "scores.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    data = recipe(arguments, chosen[0]).data
    images = place(load_source(data, "held-out"), CPU)
    runs = None if arguments.runs is None else load_runs(arguments.runs, data)
    if runs is not None:
        runs = replace(runs, images=place(runs.images, CPU))
    for objective in chosen:
        if objective.name in rows:
            continue
        began = time.perf_counter()
        run = simclr.pretrain(recipe(arguments, objective))
        seconds = time.perf_counter() - began
        rows[objective.name] = score(simclr.load_encoder(run.encoder), images, runs) | {"seconds": seconds}
        if "untrained" not in rows:
            rows["untrained"] = score(simclr.load_encoder(run.encoder, untrained=True), images, runs)
            rows["raw pixels"] = score(RawPixels(data.size), images, runs)
        kept.write_text(json.dumps(rows, indent=2) + "\n")
        print(objective.name, rows[objective.name], flush=True)
    table = Table("objective", *(words for name, words in MEASURES.items() if name in rows["untrained"]), "seconds")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row[measure]) for measure in MEASURES if measure in row), _seconds(row))
    Console(width=130).print(table)


def _cell(value: float | tuple[float, tuple[float, float] | None]) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    share, interval = value
    return f"{100 * share:.1f}" + ("" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]")


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.0f}" if "seconds" in row else ""


if __name__ == "__main__":
    sys.exit(run_command(main))
