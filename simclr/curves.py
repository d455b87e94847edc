"""``curves.png``: how training went, from ``metrics.jsonl``."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simclr.files import atomically
from simclr.runlog import figures_over, read_metrics

__all__ = ["draw_curves"]

_PANELS = (
    ("loss", "step", "loss"),
    ("learning_rate", "step", "learning rate"),
    ("contrastive_top1", "epoch", "contrastive top-1"),
    ("online_knn", "epoch", "online kNN accuracy"),
    ("validation_accuracy", "epoch", "validation accuracy"),
    ("validation_error", "epoch", "validation error (mean absolute)"),
    ("validation_knn", "epoch", "validation kNN accuracy"),
    ("effective_rank", "epoch", "effective rank of the features"),
    ("alignment", "epoch", "alignment (lower is better)"),
    ("uniformity", "epoch", "uniformity (lower is better)"),
    ("feature_spread", "epoch", "spread of z (1 = even)"),
)


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the figures of a ``metrics.jsonl`` over the steps; figures that the run did not log leave no panel.

    Raises:
        CheckpointError: the disk refuses.
    """
    lines = read_metrics(metrics)
    panels = []
    for key, kind, title in _PANELS:
        points = [(line["step"], value) for line, value in figures_over(lines, kind, key)]
        if points:
            panels.append((title, [step for step, _ in points], [value for _, value in points]))
    if not panels:
        return
    # Figure alone: pyplot would keep global state and look for a screen.
    figure = Figure(figsize=(14, 3.2 * ((len(panels) + 3) // 4)), layout="constrained", dpi=110)
    rows = (len(panels) + 3) // 4
    for number, (title, steps, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 4, number)
        axes.plot(steps, values, color="#1f5fa8", linewidth=1.4, marker="o" if len(steps) < 30 else None, markersize=3)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    atomically(picture, lambda file: FigureCanvasAgg(figure).print_png(file))
