"""Runs in pictures: their curves in one, and their scores with intervals in another."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from linear_eval.comparison.runs import RunRecord, SeedGroup, over_epochs
from linear_eval.comparison.scores import ScoredSet
from linear_eval.reports.closed import INK, colours_of
from simclr.names import drawable, drawn, legible

__all__ = ["draw_runs", "draw_scores"]

_LINES = ("-", "--", ":", "-.")


def draw_runs(groups: Sequence[SeedGroup]) -> bytes | None:
    """Loss and scores while training of every run over its epochs, as a PNG; the seeds of a config in one colour.

    What no run logged has no panel. None without a log.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = []
    for key, kind, title, scale in (
        ("loss", "step", "loss (of each run's own objective)", 1),
        ("online_knn", "epoch", "online kNN accuracy, %, held-out training images", 100),
        ("validation_accuracy", "epoch", "accuracy, %, validation images", 100),
        ("validation_error", "epoch", "mean absolute error, validation images", 1),
        ("validation_knn", "epoch", "kNN accuracy, %, validation images", 100),
    ):
        curves = [[over_epochs(run, key, kind) for run in group.runs] for group in groups]
        if any(points for group in curves for points in group):
            panels.append((title, curves, scale))
    if not panels:
        return None
    legend_rows = (len(groups) + 2) // 3
    names = drawable([group.name for group in groups], "run")
    figure = Figure(figsize=(5.6 * len(panels), 3.9 + 0.24 * legend_rows), layout="constrained")
    for number, (title, curves, scale) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for group_number, (group, lines) in enumerate(zip(groups, curves, strict=True)):
            for i, points in enumerate(lines):
                axes.plot(
                    [x for x, _ in points],
                    [scale * y for _, y in points],
                    color=colormaps["tab10"](group_number % 10),
                    linestyle=_LINES[group_number // 10 % len(_LINES)],
                    linewidth=1.4,
                    marker="o" if 0 < len(points) < 20 else None,
                    markersize=3,
                    label=_label(names[group_number], group) if i == 0 and number == 1 else None,
                )
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", ncols=min(3, len(groups)), frameon=False, fontsize=9)
    return _png(figure)


def draw_scores(title: str, scored: Sequence[tuple[RunRecord, ScoredSet]]) -> bytes:
    """The first measure of every run's rows with its interval, the runs below one another, as a PNG."""
    from matplotlib.figure import Figure

    measure = next(measure for _, one in scored for row in one.rows.values() for measure in row)
    figure = Figure(figsize=(8.5, 1.5 + 0.42 * len(scored)), layout="constrained")
    axes = figure.add_subplot()
    named = list(dict.fromkeys(row for _, one in scored for row in one.rows))
    colours = colours_of(named)
    for number, row in enumerate(named):
        found = [(y, one.rows[row][measure]) for y, (_, one) in enumerate(scored) if measure in one.rows.get(row, {})]
        ends = [score.interval or (score.value, score.value) for _, score in found]
        axes.errorbar(
            [score.value for _, score in found],
            [y for y, _ in found],
            xerr=[
                [max(0.0, score.value - low) for (_, score), (low, _) in zip(found, ends, strict=True)],
                [max(0.0, high - score.value) for (_, score), (_, high) in zip(found, ends, strict=True)],
            ],
            fmt="o",
            markersize=6 if number == 0 else 4.5,
            color=colours[row],
            capsize=2.5,
            label=drawn(row),
        )
    axes.set_yticks(range(len(scored)), drawable([run.name for run, _ in scored], "run"), fontsize=9)
    axes.set_ylim(len(scored) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    sure = any(row[measure].interval for _, one in scored for row in one.rows.values() if measure in row)
    axes.set_xlabel(drawn(f"{measure}, with 95 % interval" if sure else measure), fontsize=9, color=INK)
    figure.suptitle(drawn(title, 90), x=0.01, ha="left", fontsize=10)
    figure.legend(loc="outside lower left", ncols=len(named), frameon=False, fontsize=9)
    return _png(figure)


def _label(name: str, group: SeedGroup) -> str:
    return name if len(group.runs) == 1 else f"{name} ({len(group.runs)} seeds)"


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(legible(figure))
    file = BytesIO()
    figure.savefig(file, format="png", dpi=130, facecolor="white")
    return file.getvalue()
