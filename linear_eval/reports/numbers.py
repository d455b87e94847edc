"""The errors of a regression probe as a table, as ``result.json`` and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.reports.closed import COLOURS, INK, plain_table, save_figure, write_result
from linear_eval.scored_run import note_on_trained_images
from simclr.names import drawn, printable

__all__ = ["numbers_table", "print_numbers", "scatter_picture", "write_numbers"]


def numbers_table(result: dict[str, Any]) -> Table:
    """Mean absolute error, root mean squared error and R² of every row."""
    data = result["data"]
    train, test = (data[part]["images"] - data[part]["without_label_left_out"] for part in ("train", "test"))
    table = plain_table(
        title=f"{data['test']['name']}: {test:,} test images and {train:,} training images with a number",
        caption="[95 % bootstrap interval over test images]; lower errors and higher R² are better",
    )
    table.padding = (0, 0)
    for heading in ("", "mean absolute error", "root mean squared error", "R²"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in result["rows"].items():
        low, high = row["interval"]
        share = "-"
        if row["r_squared"] is not None:
            share = f"{row['r_squared']:.3f} [{row['r_squared_interval'][0]:.3f}, {row['r_squared_interval'][1]:.3f}]"
        error = f"{row['mean_absolute_error']:.4g} [{low:.4g}, {high:.4g}]"
        cells = (name, error, f"{row['root_mean_squared_error']:.4g}", share)
        table.add_row(*map(Text, cells), style="bold" if name == "encoder" else "")
    return table


def print_numbers(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the table, the verdict, and what was left out."""
    console = Console() if console is None else console
    console.print(numbers_table(result))
    console.print(Text(result["verdict"], "bold"))
    for part in ("train", "test"):
        if left_out := result["data"][part]["without_label_left_out"]:
            console.print(Text(f"note: {left_out} images of the {part} set have no number and were left out"))
    test = result["data"]["test"]
    for line in note_on_trained_images(test.get("trained_on"), test["images"] - test["without_label_left_out"]):
        console.print(Text(printable(f"note: {line}")))


def scatter_picture(
    result: dict[str, Any], truth: NDArray[np.float64], predicted: NDArray[np.float64], path: Path | str
) -> Path:
    """The encoder's predictions (M,) over the numbers (M,) of the test images, beside the line where both agree."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    ends = [float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))]
    axes.plot(ends, ends, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.scatter(truth, predicted, s=12, alpha=0.6, linewidths=0, color=COLOURS["encoder"])
    axes.set_xlabel("number in the set")
    axes.set_ylabel("predicted by the ridge regression on the encoder")
    row = result["rows"]["encoder"]
    share = "" if row["r_squared"] is None else f", R² {row['r_squared']:.2f}"
    axes.set_title(f"mean absolute error {row['mean_absolute_error']:.3g}{share}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{drawn(result['data']['test']['name'])}, {len(truth):,} test images", x=0.01, ha="left", fontsize=11
    )
    return save_figure(figure, path)


def write_numbers(
    result: dict[str, Any], truth: NDArray[np.float64], predicted: NDArray[np.float64], folder: Path | str
) -> list[Path]:
    """Write ``result.json`` and ``predicted.png`` into ``folder``; what is there is replaced."""
    folder = Path(folder)
    return [
        write_result(result, folder / "result.json"),
        scatter_picture(result, truth, predicted, folder / "predicted.png"),
    ]
