"""What ``benchmarks/cifar10/run.py`` found: its table and the picture of its curves."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from ideas import mean_and_spread
from linear_eval.reports.closed import save_figure
from simclr.run.log import read_metrics

__all__ = ["draw_minutes", "main_table"]

OURS, THEIRS = "#1f5fa8", "#e09f3e"


def main_table(result: dict[str, Any]) -> tuple[Table, dict[str, dict[str, str]]]:
    """Scores, times and speeds, mean and standard deviation over seeds: for people, and as JSON."""
    seeds = list(result["seeds"].values())
    theirs = list(result.get("lightly", {}).values())
    sgd_epochs = next((run["scores"]["config"]["sgd_epochs"] for run in seeds if "scores" in run), 0)
    columns: dict[str, tuple[list[dict[str, Any]], str]] = {
        "encoder": (seeds, "encoder"),
        "untrained": (seeds, "untrained"),
        "raw pixels": (seeds[:1], "raw pixels"),
    }
    if theirs:
        columns["lightly"] = (theirs, "encoder")
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "linear (L-BFGS)": lambda row: row["linear"]["accuracy"],
        f"linear (sgd, {sgd_epochs} epochs)": lambda row: row["linear_sgd"]["accuracy"],
        "kNN (20)": lambda row: row["knn"]["accuracy"],
        "1 % of the labels": lambda row: row["few_labels"]["1 %"]["mean"],
        "10 % of the labels": lambda row: row["few_labels"]["10 %"]["mean"],
    }
    cells: dict[str, dict[str, str]] = {}
    for name, take in measures.items():
        cells[name] = {}
        for column, (runs, row) in columns.items():
            found = [run["scores"]["rows"][row] for run in runs if "scores" in run]
            has = [one for one in found if "sgd" not in name or "linear_sgd" in one]
            cells[name][column] = mean_and_spread([take(one) for one in has])
    times: dict[str, tuple[str, int]] = {
        "epochs": ("epochs", 0),
        "minutes": ("minutes", 2),
        "minutes of steps": ("minutes_of_steps", 2),
        "images/s": ("images_per_second", 0),
    }
    for name, (key, digits) in times.items():
        cells[name] = {}
        for column, (runs, row) in columns.items():
            values = [run["timing"][key] for run in runs if row == "encoder" and key in run["timing"]]
            cells[name][column] = mean_and_spread(values, 1, digits)
    speeds = [result["step_flops"] / run["timing"]["step_seconds"] for run in seeds]
    cells["TFLOP/s achieved"] = {"encoder": mean_and_spread(speeds, 1e-12, 2)}
    cells["share of the peak, %"] = {"encoder": mean_and_spread([one / result["peak"]["flops"] for one in speeds])}
    count = sum("scores" in run for run in seeds)
    where = f"{result['config']['name']} on {result['hardware']['device']}"
    table = Table(
        title=f"{where}: accuracy in %, {count} of {result['seeds_wanted']} seeds scored",
        caption=f"± standard deviation over seeds; peak: {result['peak']['source']}",
    )
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", style="bold" if column == "encoder" else "")
    for name, found_cells in cells.items():
        table.add_row(name, *(found_cells.get(column, "") for column in columns))
    return table, cells


def draw_minutes(work: Path, result: dict[str, Any], picture: Path) -> None:
    """Loss and online kNN over minutes of wall clock, every seed a line, lightly's beside; the test set is not in it.

    Our lines start where the first step does: after start, decoding and compilation.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (seed, run) in enumerate(result["seeds"].items()):
        timing = run["timing"]
        start = timing["minutes"] - timing["minutes_of_steps"]
        lines = read_metrics(work / f"seed-{seed}" / "metrics.jsonl")
        label = None if number else "ours"
        for axes, kind, key in ((left, "step", "loss"), (right, "epoch", "online_knn")):
            points = [
                (start + line["step"] * timing["step_seconds"] / 60, line[key])
                for line in lines
                if line["kind"] == kind and key in line
            ]
            _line(axes, points, OURS, label)
    for number, seed in enumerate(result.get("lightly", {})):
        texts = (work / f"lightly-seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        lines = [json.loads(text) for text in texts]  # a log of the benchmark's own, by the minute
        label = None if number else "lightly"
        _line(left, [(line["minutes"], line["loss"]) for line in lines], THEIRS, label)
        _line(right, [(line["minutes"], line["online_knn"]) for line in lines], THEIRS, label)
    left.set_title("loss (each at its own temperature)", fontsize=10)
    right.set_title("online kNN accuracy, images of the training set", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("minutes from the start of the process", fontsize=9)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    if result.get("lightly"):
        right.legend(frameon=False, fontsize=9)
    save_figure(figure, picture)


def _line(axes: Any, points: Sequence[tuple[float, float]], colour: str, label: str | None) -> None:
    if points:
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)
