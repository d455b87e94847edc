"""A fine-tuned network's scores as a table, as ``result.json`` and as pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.progress import print_line
from linear_eval.reports.closed import INK, confusion_picture, drawn, plain_table, save_figure, write_result
from linear_eval.scored_run import seen_in_words

__all__ = ["finetuned_table", "print_finetuned", "write_finetuned"]

COLOURS = {"fine-tuned": "#2a6f97", "from scratch": "#a9a9a9", "linear probe": "#e09f3e"}


def finetuned_table(result: dict[str, Any]) -> Table:
    """The rows side by side."""
    data = result["data"]
    table = plain_table(
        title=f"{data['name']}: {data['train']} training, {data.get('validation', 0)} validation, {data['test']} test images",
        caption="[95 % bootstrap interval over test images]; calibrated: with the temperature fitted on validation images",
    )
    table.add_column("")
    for name in result["rows"]:
        table.add_column(name, justify="right", style="bold" if name == "fine-tuned" else "")
    for heading, cell in _lines(result["kind"]).items():
        table.add_row(heading, *[Text(cell(row)) for row in result["rows"].values()])
    return table


def _lines(kind: str) -> dict[str, Any]:
    if kind == "regression":
        return {
            "mean absolute error": lambda r: f"{r['mean_absolute_error']:.4g} {_bracket(r['interval'], 1)}",
            "R²": lambda r: "" if r["r_squared"] is None else f"{r['r_squared']:.3f}",
            "of the mean": lambda r: f"{r['error_of_the_mean']:.4g}",
        }
    return {
        "accuracy, %": lambda r: f"{100 * r['accuracy']:.1f} {_bracket(r['interval'], 100)}",
        "mean over classes, %": lambda r: f"{100 * r['balanced_accuracy']:.1f}",
        "calibration error, %": lambda r: f"{100 * r['calibration_error']:.1f}",
        "calibrated, %": lambda r: _percent(r.get("calibration_error_calibrated")),
        "cross-entropy": lambda r: f"{r['cross_entropy']:.3f}",
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _bracket(interval: list[float], scale: float) -> str:
    low, high = (scale * end for end in interval)
    return f"[{low:.1f}, {high:.1f}]" if scale > 1 else f"[{low:.4g}, {high:.4g}]"


def print_finetuned(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the table and what fine-tuning gained."""
    console = Console() if console is None else console
    console.print(finetuned_table(result))
    for pair, gain in result["comparison"].items():
        low, high = gain["interval"]
        verdict = "" if low > 0 or high < 0 else "  (no difference that these test images could show)"
        if result["kind"] == "regression":
            words = f"error lower by {gain['difference']:+.4g}, 95 % [{low:+.4g}, {high:+.4g}], paired"
        else:
            words = f"{100 * gain['difference']:+.1f} points, 95 % [{100 * low:+.1f}, {100 * high:+.1f}], paired"
        console.print(Text(f"{pair}: {words}{verdict}"))
    for name, row in result["rows"].items():
        if row.get("unseen_classes"):
            console.print(Text(f"note: {name}: test classes without a training image count as wrong"))
    for line in seen_in_words(result["data"].get("trained_on"), result["data"]["test"]):
        print_line(console, f"note: {line}")


def write_finetuned(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``result.json`` and the pictures into ``folder``."""
    files = [write_result(result, folder / "result.json")]
    if result["kind"] == "classification":
        shown = {"rows": {"fine-tuned": {"linear": result["rows"]["fine-tuned"]}}, "data": result["data"]}
        files.append(confusion_picture(shown, folder / "confusion.png", "fine-tuned", "fine-tuned"))
        files.append(class_picture(result, folder / "classes.png"))
    return files


def class_picture(result: dict[str, Any], path: Path) -> Path:
    """Accuracy of every class, the rows side by side, hardest class first; at most 40 of them."""
    rows = result["rows"]
    first = rows["fine-tuned"]
    named = result["data"]["classes"]
    classes = [drawn(named[c]) if c < len(named) else str(c) for c in first["classes"]]
    scores = {
        name: np.array([np.nan if v is None else 100 * v for v in row["per_class"]], dtype=float)
        for name, row in rows.items()
        if len(row["per_class"]) == len(classes)
    }
    order = np.argsort(scores["fine-tuned"])[:40]
    figure = Figure(figsize=(6.5, 1.4 + 0.32 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(order))
    for name, values in scores.items():
        axes.plot(
            values[order], y, "o", color=COLOURS[name], label=f"{name} ({100 * rows[name]['accuracy']:.1f} %)", zorder=3
        )
    axes.hlines(y, 0, 100, color="#eeeeee", zorder=0)
    axes.set_yticks(y, [classes[i] for i in order])
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.set_xlabel("accuracy on the test images of the class, %", color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=len(scores), frameon=False, fontsize=9)
    return save_figure(figure, path)
