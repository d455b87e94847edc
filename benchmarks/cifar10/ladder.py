"""The ladder of CIFAR-10 in one command: the published SimCLR, the published MoCo v3, then both figures by the clock.

    python benchmarks/cifar10/ladder.py --data DIR_OR_TAR --out OUT
    python benchmarks/cifar10/ladder.py --data DIR_OR_TAR --out OUT --rungs clock --seeds 0
    python benchmarks/cifar10/ladder.py --quick                                      # all of it, on a few digits

Each rung is ``benchmarks/cifar10/run.py`` with a preset, in OUT/RUNG; the same command goes on where a slot of --minutes ended,
with exit code 130 until all is done. The table at the end has the published figure beside ours, with what it took: minutes of
the training process, and the operations of encoder and head, since cards differ. OUT/ladder.json has it too.

Scores are on the test images, after training. Until when the online kNN of 2,000 training images was below 90.0 is read in the
log: the entry to beat says kNN 90.0 on the test images, which is another set and another bank, so it is a hint and no score.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import run
from few_images import few_images
from ideas import mean_and_spread
from simclr.command_line import run_command
from simclr.files import write_json
from simclr.run.log import figures_over, read_metrics
from slot import unpack

__all__ = ["RUNGS", "Rung", "climbed", "minutes_until"]


class Rung(NamedTuple):
    """A published figure, and the preset that is to reach it."""

    preset: str
    published: str
    source: str


RUNGS = {
    "simclr": Rung(
        "cifar10", "linear 91.9 ± 0.1, kNN (10) 91.4, 3.3 h of an A100", "dkobak/simclr-cifar10, README of July 2025"
    ),
    "moco": Rung("cifar10-moco", "linear 93.10 (online)", "solo-learn, README"),
    "clock": Rung(
        "cifar10-fast", "kNN 90.0 after 99 min of an A100; linear 91.1", "dkobak/simclr-cifar10, its challenge"
    ),
}


def minutes_until(folder: Path, timing: dict[str, float], key: str, wanted: float) -> float | None:
    """Minutes from the start of the process to the first figure ``key`` of at least ``wanted`` in a run's log, or None."""
    start = timing["minutes"] - timing["minutes_of_steps"]
    found = figures_over(read_metrics(folder / "metrics.jsonl"), "epoch", key)
    first = next((line for line, figure in found if figure >= wanted), None)
    return None if first is None else start + first["step"] * timing["step_seconds"] / 60


def climbed(name: str, result: dict[str, Any], work: Path) -> dict[str, str]:
    """The row of a rung: means and standard deviations over the seeds that are scored so far."""
    seeds = result.get("seeds", {})
    rows = [seed["scores"]["rows"]["encoder"] for seed in seeds.values() if "scores" in seed]
    untrained = [seed["scores"]["rows"]["untrained"] for seed in seeds.values() if "scores" in seed]
    timings = [seed["timing"] for seed in seeds.values()]
    found = [
        minutes_until(work / f"seed-{number}", seed["timing"], "online_knn", 0.9) for number, seed in seeds.items()
    ]
    until = [minutes for minutes in found if minutes is not None]
    operations = [result["step_flops"] * timing["steps"] for timing in timings]
    return {
        "rung": name,
        "published": RUNGS[name].published,
        "linear": mean_and_spread([row["linear"]["accuracy"] for row in rows]),
        "kNN (20)": mean_and_spread([row["knn"]["accuracy"] for row in rows]),
        "untrained, linear": mean_and_spread([row["linear"]["accuracy"] for row in untrained]),
        "minutes": mean_and_spread([timing["minutes"] for timing in timings], 1),
        "PFLOP": mean_and_spread(operations, 1e-15, 2),
        "minutes to online kNN 90": mean_and_spread(until, 1),
    }


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted = "--quick" not in words
    parser.add_argument("--data", type=Path, required=wanted, help="folder of train/ and test/, or a tar file of it")
    parser.add_argument("--out", type=Path, required=wanted, help="results, and OUT/RUNG of each rung")
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS))
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--minutes", type=float, default=8.0, help="stop training after this; the same command goes on")
    parser.add_argument("--quick", action="store_true", help="all of it, as small as it gets: does it run at all?")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:  # for what --quick was given no place
        options.data = options.data or few_images(Path(folder) / "images")
        options.out = options.out or Path(folder) / "out"
        return climb(options)


def climb(options: argparse.Namespace) -> int:
    """Every rung as far as the slot reaches, and the table."""
    ends, code, rows = time.monotonic() + 60 * options.minutes, 0, []
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    images = unpack(options.data, options.out / "images")
    for name in options.rungs:
        out = options.out / name
        left = max(0.0, (ends - time.monotonic()) / 60)
        flags = ["--data", images, "--out", out, "--preset", RUNGS[name].preset, "--minutes", left, "--seeds"]
        typed = [*map(str, flags), *options.seeds]
        chosen = run.read(typed)
        if options.quick:
            chosen.quick, chosen.sgd_epochs = True, 2
        result: dict[str, Any] = {}
        code = run.measure(chosen, typed, result) or code
        rows.append(climbed(name, result, out / "work"))
    table = Table(title="The ladder of CIFAR-10, accuracy on the test images in %")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    Console(width=150).print(table)
    write_json(options.out / "ladder.json", {"rungs": rows})
    return code


if __name__ == "__main__":
    sys.exit(run_command(main))
