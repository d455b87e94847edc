"""CIFAR-10 at full size, start to end: unpack, train several seeds, score, time, draw, print one table.

    python benchmarks/cifar10/run.py --data DIR_OR_TAR --out OUT                        # cifar10-fast, seeds 0 1 2
    python benchmarks/cifar10/run.py --data DIR_OR_TAR --out OUT --against lightly       # and lightly's SimCLR for as long
    python benchmarks/cifar10/run.py --data DIR_OR_TAR --out OUT --skip-main --seeds 0 1 2 \\
        --try "objective.temperature=0.1" --try "augment.views=4"                    # ideas at equal time
    python benchmarks/cifar10/run.py --data DIR_OR_TAR --out OUT --skip-main --objectives    # supervised objectives
    python benchmarks/cifar10/run.py --quick                                         # all of it, on a few digits

The images are DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or a tar file of them. After --minutes training is stopped
with a checkpoint, the exit code is 130, and the same command goes on from there; a score that has begun is finished, so
leave two minutes of a slot for it. Big files go to --work (default OUT/work): images, runs, checkpoints. OUT gets
result.json, scores-*.json (per encoder), curves.png, scores.png, profile.txt, log.txt, and the first seed's encoder in files
of at most 15 MiB. Put it together in OUT/encoder with

    cat encoder.safetensors.part-* > encoder.safetensors && sha256sum -c SHA256SUMS

Scores: ``linear_eval.evaluate`` (L-BFGS probe, kNN, 1 % and 10 % of the labels; the encoder untrained and raw pixels beside
it) and ``linear_eval.sgd_probe`` with --sgd-epochs; on a GPU the latter runs the encoder in bf16. Minutes are the life of
the training processes; "minutes of steps" leaves out their starts, decoding and compilation. Achieved FLOP/s are those of
the encoder and head over whole steps. Without lightly, --against says so and the rest is done.
"""

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import simclr
from few_images import few_images
from ideas import OBJECTIVES, compare_objectives, idea_table, objective_table, try_ideas
from lightly_simclr import require_lightly
from linear_eval import EvalConfig, sgd_probe
from linear_eval.progress import environment
from linear_eval.protocol import evaluate
from linear_eval.reports.closed import score_picture
from report import draw_minutes, main_table
from simclr.command_line import run_command
from simclr.config import ScheduleConfig, TrainConfig
from simclr.config.yaml import save_config, to_dict
from simclr.data import load_source, place
from simclr.data.sources import Split
from simclr.errors import MissingExtraError
from simclr.files import write_json
from simclr.run.accelerator import resolved_precision
from simclr.run.flops import peak_flops
from slot import ROOT, OutOfTime, Slot, cut, override, step_flops, train, unpack

SPLITS: tuple[Split, ...] = ("train", "test")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def recipe(options: argparse.Namespace, images: Path) -> TrainConfig:
    """The preset on these images, with what ``--set`` and ``--quick`` change."""
    config = simclr.preset(options.preset)
    config = replace(
        config,
        out=options.work,
        data=replace(config.data, source="folder", path=images.resolve()),
        train=replace(config.train, evaluate=False),
    )
    if options.quick:
        config = replace(
            config,
            encoder=replace(config.encoder, name="resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 32, 64)),
            data=replace(config.data, size=16),
            augment=replace(config.augment, size=16),
            schedule=ScheduleConfig(warmup_epochs=1),
            train=replace(config.train, epochs=3, batch_size=32, compile="no", log_every=2, knn_every=1),
        )
    return override(config, " ".join(options.set))


def scores(encoder: Path, name: str, config: TrainConfig, options: argparse.Namespace, slot: Slot) -> dict[str, Any]:
    """All scores of an exported encoder on the test images, taken once and kept in OUT."""
    file = options.out / f"scores-{name}.json"
    if not file.exists():
        slot.check()
        cpu = torch.device("cpu")
        # By name: in a picture and a file that are shown around, a path of one machine says nothing.
        train_set, test_set = (replace(place(load_source(config.data, part), cpu), name="CIFAR-10") for part in SPLITS)
        protocol = EvalConfig(labels_per_class=(), sgd_epochs=options.sgd_epochs, trials=2 if options.quick else 10)
        trained, untrained = simclr.load_encoder(encoder), simclr.load_encoder(encoder, untrained=True)
        found = evaluate(
            trained, untrained, train_set, test_set, protocol, DEVICE, progress=lambda text: slot.say(f"{name}: {text}")
        )
        slot.say(f"{name}: sgd probe, {options.sgd_epochs} epochs")
        autocast = torch.bfloat16 if DEVICE.type == "cuda" else None
        by_sgd = sgd_probe(
            trained, train_set, test_set, epochs=options.sgd_epochs, device=DEVICE, autocast=autocast, workers=0
        )
        found["rows"]["encoder"]["linear_sgd"] = by_sgd.to_dict()
        write_json(file, found)
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def profile(config: TrainConfig, out: Path, slot: Slot) -> None:
    """Where a step's time goes, into OUT/profile.txt."""
    if (out / "profile.txt").exists():
        return
    config = replace(config, name="profile", profile=True, train=replace(config.train, knn_every=0))
    settings = config.out / "profile.yaml"
    save_config(config, settings)
    lines = slot.run(ROOT / "scripts" / "pretrain.py", settings)
    began = next((number for number, line in enumerate(lines) if line.startswith("profile:")), 0)
    (out / "profile.txt").write_text("\n".join(lines[began:]) + "\n")


def main_runs(config: TrainConfig, options: argparse.Namespace, slot: Slot, result: dict[str, Any]) -> None:
    """Train and score every seed, profile a step, leave pictures and the encoder; ``result`` fills as they come."""
    result["config"], result["seeds"], result["seeds_wanted"] = to_dict(config), {}, len(options.seeds)
    peak = peak_flops(DEVICE, resolved_precision(config.train))
    result["step_flops"], result["peak"] = step_flops(config), peak._asdict()
    for seed in options.seeds:
        run = replace(config, name=f"seed-{seed}", seed=seed)
        timing = train(run, slot)
        result["seeds"][str(seed)] = {"timing": timing}
        found = scores(run.run_dir, run.name, run, options, slot)
        result["seeds"][str(seed)] |= {"scores": found}
        if seed == options.seeds[0]:
            score_picture(found, options.out / "scores.png")
            encoder = run.run_dir / "encoder"
            cut(encoder / "encoder.safetensors", options.out / "encoder")
            shutil.copy(encoder / "encoder.json", options.out / "encoder")
            profile(config, options.out, slot)


def against_lightly(config: TrainConfig, options: argparse.Namespace, slot: Slot, result: dict[str, Any]) -> None:
    """Train and score lightly's SimCLR for every seed, as many seconds as ours took."""
    require_lightly()
    result["lightly"] = {}
    for seed, ours in result["seeds"].items():
        folder = options.work / f"lightly-seed-{seed}"
        if not (folder / "done.json").exists():
            slot.check()
            seconds = f"{60 * ours['timing']['minutes']:.1f}"
            words = ["--seconds", seconds, "--out", folder, *(["--batch", "32"] if options.quick else [])]
            slot.run(ROOT / "benchmarks" / "cifar10" / "lightly_simclr.py", options.work / f"seed-{seed}.yaml", *words)
        found = scores(folder, folder.name, replace(config, seed=int(seed)), options, slot)
        result["lightly"][seed] = {"timing": json.loads((folder / "done.json").read_text()), "scores": found}


def report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write result.json and the curves, and print the tables, of whatever there is by now."""
    short = json.loads(json.dumps(result))
    short.get("config", {}).pop("out", None)
    short.get("config", {}).get("data", {}).pop("path", None)
    for group in ("seeds", "lightly"):
        for seed in short.get(group, {}).values():
            seed.pop("scores", None)  # each has a file of its own
    table = main_table(result) if result.get("seeds") else None
    file = options.out / "result.json"
    before = json.loads(file.read_text()) if file.exists() else {}  # of a command for other parts of it
    commands = {
        "commands": [*(c for c in before.get("commands", []) if c not in result["commands"]), *result["commands"]]
    }
    write_json(file, before | short | commands | ({"table": table[1]} if table else {}))
    console = Console(width=100)
    if table:
        draw_minutes(options.work, result, options.out / "curves.png")
        console.print((options.out / "profile.txt").read_text() if (options.out / "profile.txt").exists() else "")
        console.print(table[0])
    if "ideas" in result:
        console.print(idea_table(result["ideas"]))
    if "objectives" in result:
        console.print(objective_table(result["objectives"]))


def read(words: list[str]) -> argparse.Namespace:
    """The words of a command line as options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted = "--quick" not in words  # which finds images and a place of its own
    parser.add_argument("--data", type=Path, required=wanted, help="folder of train/ and test/, or a tar file of it")
    parser.add_argument("--preset", default="cifar10-fast")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the preset")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2; with --quick 0")
    parser.add_argument("--minutes", type=float, default=8.0, help="stop training after this; the same command goes on")
    parser.add_argument("--out", type=Path, required=wanted, help="results")
    parser.add_argument("--work", type=Path, help="images, runs, checkpoints (default: OUT/work)")
    parser.add_argument("--against", choices=["lightly"], help="train its SimCLR for the same time")
    parser.add_argument("--try", action="append", default=[], dest="ideas", metavar="FIELD=VALUE ...", help="an idea")
    parser.add_argument("--try-minutes", type=float, default=2.0, help="minutes of steps for every idea and seed")
    parser.add_argument("--objectives", nargs="*", choices=OBJECTIVES, help="supervised; without names all")
    parser.add_argument("--objective-epochs", type=int, default=30)
    parser.add_argument("--sgd-epochs", type=int, default=100, help="of the sgd probe; the paper's are 100")
    parser.add_argument("--skip-main", action="store_true", help="only the ideas and the objectives")
    parser.add_argument("--quick", action="store_true", help="all of it, as small as it gets: does it run at all?")
    options = parser.parse_args(words)
    if options.quick:
        options.against, options.objectives = "lightly", options.objectives or ["triplet-distance-weighted"]
        options.ideas = options.ideas or ["objective.temperature=0.1"]
        options.try_minutes, options.objective_epochs, options.sgd_epochs = 0.05, 2, 2
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    return options


def main(words: list[str]) -> int:
    options = read(words)
    with tempfile.TemporaryDirectory() as folder:  # for what --quick was given no place
        options.data, options.out = (
            options.data or few_images(Path(folder) / "images"),
            options.out or Path(folder) / "out",
        )
        return measure(options, words)


def measure(options: argparse.Namespace, words: list[str], result: dict[str, Any] | None = None) -> int:
    """Do what the options say, as far as the slot of time reaches, and report it; ``result`` fills as it goes."""
    options.work = options.work or options.out / "work"
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    # A polite end from outside, too: the child in training is told and writes its checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    slot = Slot(options.minutes, options.out / "log.txt")
    result = {} if result is None else result
    result |= {"commands": [shlex.join(["python", "benchmarks/cifar10/run.py", *words])], **environment(DEVICE)}
    said: list[str] = []
    try:
        config = recipe(options, unpack(options.data, options.work))
        if not options.skip_main:
            main_runs(config, options, slot, result)
            if options.against:
                try:
                    against_lightly(config, options, slot, result)
                except MissingExtraError as error:
                    said.append(f"not compared: {error}")
        if options.ideas:
            result["ideas"] = try_ideas(options.ideas, config, options.seeds, options.try_minutes, slot)
        if options.objectives is not None:
            result["objectives"] = compare_objectives(options.objectives, config, options.objective_epochs, slot)
        finished = True
    except OutOfTime:
        finished = False
        said.append(f"stopped after {options.minutes:g} minutes; the same command continues there")
    report(options, result)
    for line in said:
        print(line, file=sys.stderr)
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(run_command(main))
