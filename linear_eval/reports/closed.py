"""The numbers of an evaluation as a table, as ``result.json`` and as pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.scored_run import note_on_trained_images
from simclr.files import AGAIN, atomically, refused

__all__ = [
    "confusion_picture",
    "drawn",
    "plain_table",
    "print_report",
    "result_table",
    "save_figure",
    "score_picture",
    "write_report",
    "write_result",
]

COLOURS = {"encoder": "#2a6f97", "untrained": "#a9a9a9", "raw pixels": "#e09f3e"}
INK = "#333333"


def drawn(text: str) -> str:
    r"""``text`` as a picture is given it, so that a name is drawn as it stands.

    To matplotlib two "$" enclose a formula, a byte that is not UTF-8 is an error, and a legend leaves out what begins
    with "_".

    >>> print(drawn("US$ and CA$"), drawn("caf\udce9"), drawn("_other"))
    US\$ and CA\$ caf\udce9  _other
    """
    text = text.encode(errors="backslashreplace").decode().replace("$", "\\$")
    return f" {text}" if text.startswith("_") else text


def plain_table(title: str, caption: str) -> Table:
    """A table whose title and caption are printed as they stand: a data set's name may look like markup."""
    return Table(title=Text(title, "table.title"), caption=Text(caption, "table.caption"))


def _measures(result: dict[str, Any]) -> dict[str, str]:
    """Key of each measure -> its heading, in the order of the table."""
    few = result["rows"]["encoder"].get("few_labels", {})
    return {"linear": "linear", "knn": f"kNN ({result['config']['knn_k']})", **{name: name for name in few}}


def _score(row: dict[str, Any], measure: str) -> tuple[float, float, float]:
    """Accuracy, and the lower and upper end of its interval (mean -+ one deviation for few labels), in percent."""
    if measure in ("linear", "knn"):
        return 100 * row[measure]["accuracy"], 100 * row[measure]["interval"][0], 100 * row[measure]["interval"][1]
    few = row["few_labels"][measure]
    return 100 * few["mean"], 100 * (few["mean"] - few["std"]), 100 * (few["mean"] + few["std"])


def result_table(result: dict[str, Any]) -> Table:
    """Every measure of the encoder, of the untrained one and of raw pixels, in percent, with interval or deviation."""
    data = result["data"]
    images = f"{data['train']['images']} training and {data['test']['images']} test images"
    table = plain_table(
        title=f"{data['test']['name']}: accuracy in %, {images}",
        caption="[95 % bootstrap interval over test images], ± deviation over draws of labels",
    )
    table.add_column("")
    for name in result["rows"]:
        table.add_column(name, justify="right", style="bold" if name == "encoder" else "")
    for measure, heading in _measures(result).items():
        cells = []
        for row in result["rows"].values():
            mean, low, high = _score(row, measure)
            spread = f"[{low:.1f}, {high:.1f}]" if measure in ("linear", "knn") else f"± {high - mean:.1f}"
            cells.append(Text(f"{mean:.1f} {spread}"))
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
        console.print(Text(f"{pair}: linear {gain}{verdict}"))
    for note in _notes(result):
        console.print(Text(f"note: {note}"))


def _notes(result: dict[str, Any]) -> list[str]:
    notes = []
    linear = result["rows"]["encoder"]["linear"]
    tried = linear["strengths"]
    if len(tried) > 1 and linear["strength"] in (min(tried), max(tried)):
        notes.append(f"the chosen strength {linear['strength']:g} is the end of the sweep; widen --eval.strengths")
    for name, row in result["rows"].items():
        if not row["linear"]["converged"]:
            notes.append(f"the linear probe of the row '{name}' stopped before its tolerance")
    if linear["unseen_classes"]:
        named = ", ".join(map(str, linear["unseen_classes"][:10]))
        notes.append(f"test classes without a training image, counted as wrong: {named}")
    for part in ("train", "test"):
        left_out = result["data"][part]["without_label_left_out"]
        if left_out:
            notes.append(f"{left_out} images of the {part} set have no label and were left out")
    test = result["data"]["test"]
    scored = test["images"] - test["without_label_left_out"]
    return notes + note_on_trained_images(test.get("trained_on"), scored)


def write_result(result: dict[str, Any], path: Path | str) -> Path:
    """Write ``result`` as JSON, atomically.

    Raises:
        CheckpointError: the disk refuses.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    with refused(path, AGAIN):
        atomically(Path(path), lambda file: file.write(text.encode()))
    return Path(path)


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write ``figure`` as a PNG, atomically.

    Raises:
        CheckpointError: the disk refuses.
    """
    FigureCanvasAgg(figure)
    with refused(path, AGAIN):
        atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=150, facecolor="white"))
    return Path(path)


def score_picture(result: dict[str, Any], path: Path | str) -> Path:
    """Bars with intervals: every measure, the rows side by side, and the line of guessing the commonest class."""
    measures = _measures(result)
    rows = result["rows"]
    figure = Figure(figsize=(max(6.0, 1.5 + 1.25 * len(measures)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(rows)
    for number, (name, row) in enumerate(rows.items()):
        scores = np.array([_score(row, measure) for measure in measures])
        x = np.arange(len(measures)) + (number - (len(rows) - 1) / 2) * width
        spread = np.abs(scores[:, 1:].T - scores[:, 0])
        axes.bar(x, scores[:, 0], 0.92 * width, color=COLOURS.get(name, "#7a5195"), label=name, zorder=2)
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
    guess = 100 * confusion.sum(1).max() / confusion.sum()
    axes.axhline(guess, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=4)
    axes.text(len(measures) - 0.42, guess, "commonest\nclass", ha="left", va="center", fontsize=8, color=INK)
    axes.set_xticks(range(len(measures)), list(measures.values()))
    few = "; few labels ± one deviation over draws of labels" if len(measures) > 2 else ""
    caption = f"whiskers: linear and kNN 95 % interval over test images{few}"
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
    figure.suptitle(
        drawn(f"{data['test']['name']}, {data['test']['images']} test images"), x=0.01, ha="left", fontsize=11
    )
    figure.legend(loc="outside upper right", ncols=len(rows), frameon=False, fontsize=9)
    return save_figure(figure, path)


def confusion_picture(
    result: dict[str, Any], path: Path | str, row: str = "encoder", title: str = "linear probe of the encoder"
) -> Path:
    """The confusion matrix of a row's classifier, each true class's row in percent."""
    linear = result["rows"][row]["linear"]
    counts = np.array(linear["confusion"], dtype=float)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    named = result["data"]["classes"]
    labels = [drawn(named[label]) if label < len(named) else str(label) for label in linear["classes"]]
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
