"""The figures of an open-set evaluation as a table, as ``open-set.json`` and as pictures."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.features.extract import Features
from linear_eval.reports.closed import plain_table, write_result
from linear_eval.reports.embeddings import plot_map, plot_pairs, plot_roc
from linear_eval.scored_run import note_on_trained_images
from simclr.names import numbered, printable

__all__ = ["open_set_table", "print_open_set", "short_percent", "write_open_set"]

MAP_ROWS = 2000
"""Images that a map shows at most; t-SNE of more takes minutes, and dots cover one another."""

MEASURES = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
"""What the rows are compared by."""

Cell = tuple[float | None, list[float] | None]
"""A share and the two ends of its interval, where there is one."""


def open_set_table(result: dict[str, Any]) -> Table:
    """Every figure of the encoder, of the untrained one and of raw pixels, in percent, with intervals."""
    test = result["data"]["test"]
    table = plain_table(
        title=f"{result['data']['name']}: open set, {test['images']} images of {len(test['classes'])} classes, in %",
        caption="[95 % interval over classes]   -: too few pairs or classes   ↓: lower is better\n"
        "fitted: at the threshold fitted on other classes   calibration: expected error of the probability",
    )
    many = len(result["rows"]) > 3  # then a terminal of 80 columns has no room to spare
    table.padding = (0, 0) if many else (0, 1)
    table.add_column("", no_wrap=True)
    for name in result["rows"]:
        style = "bold" if name == "encoder" else ""
        table.add_column(Text(printable(name)), justify="right", style=style, overflow="fold")
    columns = [_figures(row) for row in result["rows"].values()]
    previous = ""
    for heading, (group, _) in columns[0].items():
        if previous and group != previous:
            table.add_section()
        previous = group
        table.add_row(heading, *(Text(_in_percent(column[heading][1])) for column in columns))
    return table


def print_open_set(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the table, and what a reader of the figures has to know."""
    console = Console() if console is None else console
    console.print(open_set_table(result))
    console.print(Text(printable(f"classes new to the encoder? {result['disjoint_from_training']}")))
    for pair, measures in result.get("comparison", {}).items():
        found = [f"{words} {_gain(measures[name])}" for name, words in MEASURES.items()]
        console.print(Text(printable(f"{pair}: {', '.join(found)}, paired over queries")))
    test = result["data"]["test"]
    for line in note_on_trained_images(test.get("trained_on"), test["images"]):
        console.print(Text(line))
    if numbers := numbered(test["classes"]):
        console.print(Text(f"note: {numbers}"))
    console.print(Text(printable(f"threshold fitted on {result['threshold_from']}")))
    fitted = result["rows"]["encoder"]["fitted_threshold"]
    if fitted is not None:
        accepted = "at or above" if fitted["distance"] == "cosine" else "at or below"
        unit = "cosine" if fitted["distance"] == "cosine" else "distance"
        console.print(Text(f"same class: {unit} {accepted} {fitted['value']:.4f}"))


def write_open_set(
    result: dict[str, Any], features: Features, class_names: tuple[str, ...], folder: Path
) -> list[Path]:
    """Write ``open-set.json`` and the pictures into ``folder``; what is there is replaced.

    ``features`` are those of the encoder on the test images, for the maps. t-SNE is left out below 5 images.
    """
    verified = {name: row["verification"] for name, row in result["rows"].items()}
    seed = result["config"]["seed"]
    files = [
        write_result(result, folder / "open-set.json"),
        plot_roc(verified, folder / "roc.png"),
        plot_pairs(verified, folder / "pairs.png"),
    ]
    for method in ("pca", "tsne") if len(features) >= 5 else ("pca",):
        path = folder / f"map-{method}.png"
        files.append(plot_map(features, path, method, class_names=class_names, max_rows=MAP_ROWS, seed=seed))
    return files


def _gain(gain: dict[str, Any]) -> str:
    points = f"{100 * gain['difference']:+.1f} points"
    if gain["interval"] is None:
        return points
    low, high = (100 * end for end in gain["interval"])
    return f"{points}, 95 % [{low:+.1f}, {high:+.1f}]" + (" (no difference shown)" if low <= 0 <= high else "")


def _figures(row: dict[str, Any]) -> dict[str, tuple[str, Cell]]:
    """Heading -> (group, share with interval), in the order of the table."""
    found = row["retrieval"]
    table: dict[str, tuple[str, Cell]] = {
        f"Recall@{k}": ("retrieval", (share, found["intervals"][f"recall_at_{k}"]))
        for k, share in found["recall_at_k"].items()
    }
    for name, heading in (("map_at_r", "MAP@R"), ("r_precision", "R-precision")):
        table[heading] = ("retrieval", (found[name], found["intervals"][name]))
    table["NMI"] = ("retrieval", (found["nmi"], None))
    pairs = row["verification"]
    table["AUC"] = ("pairs", (pairs["auc"], None))
    table["EER ↓"] = ("pairs", (pairs["eer"], None))
    for point in pairs["operating_points"]:
        table[f"TAR@FAR {point['wanted_far']:g}"] = ("pairs", (point["tar"], point["interval"]))
    fitted = row["fitted_threshold"] is not None
    table["TAR, fitted"] = ("fitted", (pairs["tar_at_threshold"] if fitted else None, None))
    table["FAR, fitted ↓"] = ("fitted", (pairs["far_at_threshold"] if fitted else None, None))
    table["calibration ↓"] = ("fitted", (row["calibration_error"], None))
    identified = row["identification"]
    for k in ("1", "5"):
        interval = identified["interval"] if k == "1" else None
        table[f"rank-{k} (1:N)"] = ("new classes", (identified["rank_k"].get(k), interval))
    for ways, trial in row["one_shot"].items():
        heading = f"{ways}-way one-shot"
        table[heading] = ("new classes", (trial["accuracy"], trial.get("interval")))
    return table


def _in_percent(cell: Cell) -> str:
    share, interval = cell
    if share is None:
        return "-"
    spread = f" [{short_percent(interval[0])}, {short_percent(interval[1])}]" if interval is not None else ""
    return f"{short_percent(share)}{spread}"


def short_percent(share: float) -> str:
    """A share in percent to a tenth, without a tenth where it is the whole."""
    percent = f"{100 * share:.1f}"
    return "100" if percent == "100.0" else percent
