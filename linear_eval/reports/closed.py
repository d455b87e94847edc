"""The numbers of an evaluation as a table, as ``result.json`` and as pictures."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.reports.notes import COMMONEST, notes_on, scored_images, test_classes
from simclr.files import AGAIN, atomically, refused
from simclr.names import drawable, drawn, legible, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "colours_of",
    "confusion_picture",
    "plain_table",
    "print_report",
    "result_table",
    "save_figure",
    "score_picture",
    "write_report",
    "write_result",
]

COLOURS = {"encoder": "#2a6f97", "untrained": "#a9a9a9", "raw pixels": "#e09f3e"}
FURTHER = ("#7a5195", "#5b8c5a", "#c1666b", "#4aa3a2", "#8d6a4f")
"""Of rows that not every table has."""

INK = "#333333"


def colours_of(rows: Iterable[str]) -> dict[str, str]:
    """Name of each row -> its colour, the same for a row of every table wherever it stands."""
    further = [name for name in rows if name not in COLOURS]
    return {**COLOURS, **{name: FURTHER[number % len(FURTHER)] for number, name in enumerate(further)}}


def plain_table(title: str, caption: str) -> Table:
    """A table whose title and caption are printed as they stand: a data set's name may look like markup."""
    return Table(title=Text(printable(title), "table.title"), caption=Text(caption, "table.caption"))


def _measures(result: dict[str, Any]) -> dict[str, str]:
    """Key of each measure -> its heading, in the order of the table."""
    few = result["rows"]["encoder"].get("few_labels", {})
    balanced = {} if result["rows"]["encoder"]["linear"].get("balanced_accuracy") is None else {"balanced": "balanced"}
    return {"linear": "linear", **balanced, "knn": f"kNN ({result['config']['knn_k']})", **{name: name for name in few}}


def _score(row: dict[str, Any], measure: str) -> tuple[float, float, float]:
    """Accuracy, and the lower and upper end of its interval (mean -+ one deviation for few labels), in percent."""
    if measure in ("linear", "knn"):
        return 100 * row[measure]["accuracy"], 100 * row[measure]["interval"][0], 100 * row[measure]["interval"][1]
    if measure == "balanced":
        linear = row["linear"]
        return (100 * linear["balanced_accuracy"], *(100 * end for end in linear["balanced_interval"]))
    few = row["few_labels"][measure]
    return 100 * few["mean"], 100 * (few["mean"] - few["std"]), 100 * (few["mean"] + few["std"])


def result_table(result: dict[str, Any]) -> Table:
    """Every measure of the encoder, of the untrained one and of raw pixels, in percent, with interval or deviation."""
    data = result["data"]
    linear = result["rows"]["encoder"]["linear"]
    table = plain_table(
        title=f"{data['test']['name']}: accuracy in %, {scored_images(data, test_classes(linear))}",
        caption="[95 % bootstrap interval over test images], ± deviation over draws of labels\n"
        "balanced: mean over classes of the linear probe's share of each",
    )
    table.padding = (0, 0)  # with the last column it would be wider than a terminal of 80
    table.add_column("")
    for name in result["rows"]:
        style = "bold" if name == "encoder" else ""
        table.add_column(Text(printable(name)), justify="right", style=style, overflow="fold")
    commonest = result.get("commonest")
    if commonest is not None:
        table.add_column(COMMONEST, justify="right", max_width=9)
    gap = " " if len(result["rows"]) <= 3 else "\n"  # more columns than three and a terminal of 80 hold in one line
    for measure, heading in _measures(result).items():
        cells = []
        for row in result["rows"].values():
            mean, low, high = _score(row, measure)
            spread = f"[{low:.1f}, {high:.1f}]" if measure in ("linear", "balanced", "knn") else f"± {high - mean:.1f}"
            cells.append(Text(f"{mean:.1f}{gap}{spread}"))
        if commonest is not None:
            key = {"linear": "accuracy", "balanced": "balanced_accuracy"}.get(measure)
            cells.append(Text("-" if key is None else f"{100 * commonest[key]:.1f}"))
        table.add_row(heading, *cells)
    return table


def print_report(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the table, what the encoder gained, and whatever a reader of the numbers has to know."""
    console = Console() if console is None else console
    console.print(result_table(result))
    for pair, measures in result["comparison"].items():
        linear = measures["linear"]
        low, high = (100 * end for end in linear["interval"])
        verdict = "" if low > 0 or high < 0 else "  (no difference that these test images could show)"
        gain = f"{100 * linear['difference']:+.1f} points, 95 % [{low:+.1f}, {high:+.1f}], paired"
        console.print(Text(printable(f"{pair}: linear {gain}{verdict}")))
    if result.get("verdict"):
        console.print(Text(printable(result["verdict"]), "bold"))
    for note in notes_on(result):
        console.print(Text(printable(f"note: {note}")))


def write_result(result: dict[str, Any], path: Path | str) -> Path:
    """Write ``result`` as JSON, atomically.

    Raises:
        CheckpointError: the disk refuses.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    with refused(path, AGAIN):
        atomically(Path(path), lambda file: file.write(text.encode()))
    return Path(path)


def save_figure(figure: "Figure", path: Path | str) -> Path:
    """Write ``figure`` as a PNG, atomically.

    Raises:
        CheckpointError: the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(legible(figure))
    with refused(path, AGAIN):
        atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=150, facecolor="white"))
    return Path(path)


def score_picture(result: dict[str, Any], path: Path | str) -> Path:
    """Bars with intervals: every measure, the rows side by side, and the line of guessing the commonest class."""
    from matplotlib.figure import Figure

    measures = _measures(result)
    rows = result["rows"]
    each = 1.25 * max(1.0, len(rows) / 3)
    figure = Figure(figsize=(max(6.0, 1.5 + each * len(measures)), 4.2), layout="constrained")
    colours = colours_of(rows)
    axes = figure.add_subplot()
    width = 0.8 / len(rows)
    for number, (name, row) in enumerate(rows.items()):
        scores = np.array([_score(row, measure) for measure in measures])
        x = np.arange(len(measures)) + (number - (len(rows) - 1) / 2) * width
        spread = np.abs(scores[:, 1:].T - scores[:, 0])
        axes.bar(x, scores[:, 0], 0.92 * width, color=colours[name], label=drawn(name, 24), zorder=2)
        axes.errorbar(x, scores[:, 0], spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5, zorder=3)
        for position, (mean, _, high) in zip(x, scores, strict=True):
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
            style: dict[str, Any] = {
                "ha": "center",
                "va": "bottom",
                "fontsize": 8,
                "color": INK,
                "zorder": 2.5,
                "bbox": box,
            }
            axes.text(position, min(high, 100) + 1.4, f"{mean:.0f}", **style)
    confusion = np.array(rows["encoder"]["linear"]["confusion"])
    # What was written before the row was: the commonest class of the test set.
    guess = 100 * result.get("commonest", {"accuracy": confusion.sum(1).max() / confusion.sum()})["accuracy"]
    axes.axhline(guess, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=4)
    axes.text(len(measures) - 0.42, guess, "commonest\nclass", ha="left", va="center", fontsize=8, color=INK)
    axes.set_xticks(range(len(measures)), list(measures.values()))
    few = "; few labels ± one deviation over draws of labels" if len(measures) > 2 else ""
    caption = f"whiskers: linear, balanced and kNN 95 % interval over test images{few}"
    axes.set_xlabel(caption, fontsize=8, color=INK, loc="left")
    axes.set_xlim(-0.55, len(measures) - 0.45)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy on the test set, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.tick_params(axis="x", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    data = result["data"]
    room = max(16, int(11 * (figure.get_figwidth() - 3.4)) - 17)  # letters that fit beside the legend
    linear = rows["encoder"]["linear"]
    title = f"{drawn(data['test']['name'], room)}, {confusion.sum():,} test images of {test_classes(linear):,} classes"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(loc="outside upper right", ncols=len(rows), frameon=False, fontsize=9)
    return save_figure(figure, path)


def confusion_picture(
    result: dict[str, Any], path: Path | str, row: str = "encoder", title: str = "linear probe of the encoder"
) -> Path:
    """The confusion matrix of a row's classifier, each true class's row in percent."""
    from matplotlib.figure import Figure

    linear = result["rows"][row]["linear"]
    counts = np.array(linear["confusion"], dtype=float)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    named = result["data"]["classes"]
    named = drawable(named)
    labels = [named[label] if label < len(named) else str(label) for label in linear["classes"]]
    count = len(labels)
    side = float(np.clip(2.2 + 0.5 * count, 4.0, 11.0))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    # The square root shows the errors, which are what the picture is for, beside a diagonal near 100.
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=10, interpolation="nearest")
    if count <= 20:
        for (i, j), share in np.ndenumerate(shares):
            if counts[i, j]:
                text = f"{share:.0f}" if share >= 0.95 else f"{share:.1f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if share > 45 else INK)
    ticks = np.arange(count) if count <= 40 else np.linspace(0, count - 1, 20).round().astype(int)
    axes.set_xticks(ticks, [labels[i] for i in ticks], rotation=90 if max(map(len, labels)) > 2 else 0, fontsize=8)
    axes.set_yticks(ticks, [labels[i] for i in ticks], fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02)
    bar.set_ticks(np.sqrt([0, 1, 5, 20, 50, 100]).tolist(), labels=["0", "1", "5", "20", "50", "100"])
    bar.set_label("% of the true class (square-root scale)")
    axes.set_title(f"{title}: {100 * linear['accuracy']:.1f} %", loc="left", fontsize=11)
    return save_figure(figure, path)


def write_report(result: dict[str, Any], folder: Path | str) -> list[Path]:
    """Write ``result.json``, ``scores.png`` and ``confusion.png`` into ``folder``; what is there is replaced."""
    folder = Path(folder)
    return [
        write_result(result, folder / "result.json"),
        score_picture(result, folder / "scores.png"),
        confusion_picture(result, folder / "confusion.png"),
    ]
