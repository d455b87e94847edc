"""A fine-tuned network's scores as a table, as ``result.json`` and as pictures."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.progress import print_line
from linear_eval.reports.closed import INK, confusion_picture, plain_table, save_figure, write_result
from linear_eval.reports.notes import COMMONEST, class_notes
from linear_eval.results import ClassRow, FinetunedClasses, FinetunedResult, NumberRow
from linear_eval.scored_run import note_on_trained_images
from simclr.names import drawable, numbered

__all__ = ["finetuned_table", "print_finetuned", "write_finetuned"]

COLOURS = {"fine-tuned": "#2a6f97", "from scratch": "#a9a9a9", "linear probe": "#e09f3e"}


def finetuned_table(result: FinetunedResult) -> Table:
    """The rows side by side."""
    data = result.data
    table = plain_table(
        title=f"{data.name}: {data.train:,} training, {data.validation or 0:,} validation, {data.test:,} test images"
        + _of_classes(result),
        caption="[95 % bootstrap interval over test images]; calibrated: with the temperature fitted on validation images",
    )
    table.padding = (0, 0)  # so that a number and its interval stay together on a terminal of 80
    table.add_column("")
    for name in result.rows:
        table.add_column(name, justify="right", style="bold" if name == "fine-tuned" else "", no_wrap=True)
    columns = [_cells(row) for row in result.rows.values()]
    commonest = result.commonest if isinstance(result, FinetunedClasses) else None
    if commonest is not None:
        table.add_column(COMMONEST, justify="right", max_width=9)
        columns.append(
            {
                "accuracy, %": f"{100 * commonest.accuracy:.1f}",
                "mean over classes, %": f"{100 * commonest.balanced_accuracy:.1f}",
            }
        )
    for heading in columns[0]:
        table.add_row(heading, *[Text(column.get(heading, "-")) for column in columns])
    return table


def _of_classes(result: FinetunedResult) -> str:
    """How many classes have test images, in words; nothing for numbers."""
    if not isinstance(result, FinetunedClasses):
        return ""
    confusion = next(iter(result.rows.values())).confusion
    return f" of {sum(1 for row in confusion if sum(row)):,} classes" if confusion else ""


def _cells(row: ClassRow | NumberRow) -> dict[str, str]:
    if isinstance(row, NumberRow):
        return {
            "mean absolute error": f"{row.mean_absolute_error:.4g} {_bracket(row.interval, 1)}",
            "R²": "" if row.r_squared is None else f"{row.r_squared:.3f}",
            "of the mean": f"{row.error_of_the_mean:.4g}",
        }
    return {
        "accuracy, %": f"{100 * row.accuracy:.1f} {_bracket(row.interval, 100)}",
        "mean over classes, %": f"{100 * row.balanced_accuracy:.1f}",
        "calibration error, %": f"{100 * row.calibration_error:.1f}",
        "calibrated, %": _percent(row.calibration_error_calibrated),
        "cross-entropy": "" if row.cross_entropy is None else f"{row.cross_entropy:.3f}",
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _bracket(interval: tuple[float, float], scale: float) -> str:
    low, high = (scale * end for end in interval)
    return f"[{low:.1f}, {high:.1f}]" if scale > 1 else f"[{low:.4g}, {high:.4g}]"


def print_finetuned(result: FinetunedResult, console: Console | None = None) -> None:
    """Print the table and what fine-tuning gained."""
    console = Console() if console is None else console
    console.print(finetuned_table(result))
    for pair, gain in result.comparison.items():
        assert gain.interval is not None  # it is None for draws of labels alone
        low, high = gain.interval
        verdict = "" if low > 0 or high < 0 else "  (no difference that these test images could show)"
        if result.kind == "regression":
            words = f"error lower by {gain.difference:+.4g}, 95 % [{low:+.4g}, {high:+.4g}], paired"
        else:
            words = f"{100 * gain.difference:+.1f} points, 95 % [{100 * low:+.1f}, {100 * high:+.1f}], paired"
        console.print(Text(f"{pair}: {words}{verdict}"))
    if isinstance(result, FinetunedClasses):
        for line in class_notes(result.rows["fine-tuned"].to_dict(), result.data.classes):
            print_line(console, f"note: {line}")
    if isinstance(result, FinetunedClasses) and (numbers := numbered(result.data.classes)):
        print_line(console, f"note: {numbers}")
    for line in note_on_trained_images(result.data.trained_on, result.data.test):
        print_line(console, f"note: {line}")


def write_finetuned(result: FinetunedResult, folder: Path) -> list[Path]:
    """Write ``result.json`` and the pictures into ``folder``."""
    files = [write_result(result.to_dict(), folder / "result.json")]
    if isinstance(result, FinetunedClasses):
        row = result.rows["fine-tuned"]
        shown = {"rows": {"fine-tuned": {"linear": row.to_dict()}}, "data": result.data.to_dict()}
        files.append(confusion_picture(shown, folder / "confusion.png", "fine-tuned", "fine-tuned"))
        files.append(class_picture(result, folder / "classes.png"))
    return files


_APART = 0.24
"""Of the distance between two classes, between two rows of one of them."""


def class_picture(result: FinetunedClasses, path: Path) -> Path:
    """Accuracy of every class, the rows side by side, hardest class first; at most 40 of them."""
    from matplotlib.figure import Figure

    rows = result.rows
    first = rows["fine-tuned"]
    named = drawable(result.data.classes)
    classes = [named[c] if c < len(named) else str(c) for c in first.classes]
    scores = {
        name: np.array([np.nan if v is None else 100 * v for v in row.per_class], dtype=float)
        for name, row in rows.items()
        if len(row.per_class) == len(classes)
    }
    order = np.argsort(scores["fine-tuned"])[:40]
    figure = Figure(figsize=(6.5, 1.4 + 0.36 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(order))
    for number, (name, values) in enumerate(scores.items()):
        # One below the other: equal ones, as where none of a class was recognised, would hide each other.
        beside = y + _APART * (number - (len(scores) - 1) / 2)
        marker, label = "osD^v"[number % 5], f"{name} ({100 * rows[name].accuracy:.1f} %)"
        axes.plot(values[order], beside, marker, ms=5, color=COLOURS[name], label=label, zorder=3, clip_on=False)
    axes.hlines(y, 0, 100, color="#eeeeee", linewidth=12, zorder=0)
    axes.set_yticks(y, [classes[i] for i in order])
    axes.invert_yaxis()
    axes.set_xlim(-1, 101)
    axes.set_xlabel("accuracy on the test images of the class, %", color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=len(scores), frameon=False, fontsize=9)
    return save_figure(figure, path)
