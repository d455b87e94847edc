"""The curves of runs as Bokeh draws them: to be hovered, zoomed together, and fed by a live view."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from bokeh.core.property.vectorization import value as plain
from bokeh.embed import components
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool
from bokeh.plotting import figure
from bokeh.resources import INLINE
from markupsafe import Markup

from linear_eval.comparison.runs import RunRecord, over_epochs
from simclr.names import as_utf8

__all__ = ["COLOURS", "DASHES", "Chart", "Curve", "curves_of", "draw_curves", "drawing_script", "last_values"]

COLOURS = ("#2384c6", "#d55e00", "#0f9d73", "#c2679f", "#b0820b", "#8f67b5", "#7d8c2c", "#808080")
"""After Okabe and Ito, safe for colour blindness; each readable on white and on black."""

DASHES = ("solid", "dashed", "dotted", "dotdash")
"""Of the runs beyond the first eight."""

MOST_POINTS = 1_500
"""Of one curve; of longer ones every n-th point is drawn."""


@dataclass(frozen=True)
class Chart:
    """What a panel shows."""

    key: str
    """The figure's name in ``metrics.jsonl``."""

    kind: str
    """Kind of the lines that have it."""

    title: str

    what: str
    """One sentence on how to read it."""

    scale: float = 1.0

    logarithmic: bool = False


CHARTS = (
    Chart("loss", "step", "loss", "Of the run's own objective: comparable between runs of one objective and batch."),
    Chart(
        "online_knn", "epoch", "online kNN, %", "Nearest neighbours on held-out training images: is it learning?", 100
    ),
    Chart(
        "validation_accuracy", "epoch", "validation accuracy, %", "On images that were kept from the training set.", 100
    ),
    Chart("validation_error", "epoch", "validation error", "Mean absolute, on images kept from the training set."),
    Chart("validation_knn", "epoch", "validation kNN, %", "On images that were kept from the training set.", 100),
    Chart(
        "contrastive_top1",
        "epoch",
        "contrastive top-1, %",
        "Views whose nearest other view is of the same image. Near 100 long before the end: the task is too easy.",
        100,
    ),
    Chart("start_cka", "epoch", "linear CKA with the start", "1: the features are as they were before training."),
    Chart("online_rankme", "epoch", "RankMe, held-out images", "Dimensions that the features use; collapse is 1."),
    Chart("effective_rank", "epoch", "effective rank", "Dimensions that a batch's features use; collapse is 1."),
    Chart("alignment", "epoch", "alignment", "Distance of two views of an image; lower is better."),
    Chart("uniformity", "epoch", "uniformity", "How evenly embeddings fill the sphere; lower is better."),
    Chart("feature_spread", "epoch", "spread of the embeddings", "1: evenly in all directions, 0: collapsed."),
    Chart("learning_rate", "step", "learning rate", "After warm-up and decay."),
    Chart("gradient_norm", "step", "norm of the gradient", "Before clipping.", 1, True),
    Chart("images_per_second", "step", "images a second", "Since the line before."),
    Chart(
        "data_wait",
        "step",
        "waiting for images, %",
        "Share of the time in which training waited for images: above some 20, more data.workers help.",
        100,
    ),
)


@dataclass(frozen=True)
class Curve:
    """A figure of one run over its epochs."""

    run: int
    """Number of the run."""

    name: str
    epochs: list[float]
    values: list[float]


def curves_of(runs: Sequence[RunRecord]) -> dict[Chart, list[Curve]]:
    """Every panel that at least one run has a point of."""
    found = {}
    for chart in CHARTS:
        curves = [_curve(number, run, chart) for number, run in enumerate(runs)]
        if any(curve.values for curve in curves):
            found[chart] = [curve for curve in curves if curve.values]
    return found


def _curve(number: int, run: RunRecord, chart: Chart) -> Curve:
    points = [(x, chart.scale * y) for x, y in over_epochs(run, chart.key, chart.kind)]
    every = -(-len(points) // MOST_POINTS)
    if every > 1:
        points = [*points[:-1:every], points[-1]]
    return Curve(number, as_utf8(run.name), [x for x, _ in points], [y for _, y in points])


def draw_curves(panels: dict[Chart, list[Curve]]) -> tuple[Markup, list[Markup]]:
    """The script that draws all panels, and the place of each."""
    shared = DataRange1d(only_visible=True)
    figures = []
    for chart, curves in panels.items():
        drawn = figure(
            height=230,
            sizing_mode="stretch_width",
            x_range=shared,
            y_axis_type="log" if chart.logarithmic else "auto",
            tools="pan,box_zoom,wheel_zoom,reset,save",
            toolbar_location="above",
            output_backend="canvas",
            name=chart.key,
        )
        drawn.background_fill_color = drawn.border_fill_color = None  # the page's own, light or dark
        drawn.toolbar.logo = None
        drawn.toolbar.autohide = True
        drawn.toolbar.active_scroll = None  # a page is scrolled by the wheel
        drawn.xaxis.axis_label = "epoch"
        for curve in curves:
            source = ColumnDataSource(
                {"x": curve.epochs, "y": curve.values, "run": [curve.name] * len(curve.epochs)},
                name=f"{chart.key}/{curve.run}",
            )
            colour, dash = COLOURS[curve.run % len(COLOURS)], DASHES[curve.run // len(COLOURS) % len(DASHES)]
            drawn.line("x", "y", source=source, line_color=colour, line_dash=dash, line_width=2)
            if len(curve.epochs) < 40:
                drawn.scatter("x", "y", source=source, size=5, line_color=None, fill_color=plain(colour))
        drawn.add_tools(
            HoverTool(tooltips=[("run", "@run"), ("epoch", "@x{0.00}"), (chart.title, "@y{0.0000}")], mode="mouse")
        )
        figures.append(drawn)
    if not figures:
        return Markup(), []
    script, places = components(figures, wrap_script=True)
    return Markup(script), [Markup(place) for place in places]


def last_values(panels: dict[Chart, list[Curve]]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Of every panel its title, how to read it, and (run, last value), for those who see no chart."""
    return [
        (chart.title, chart.what, [(curve.name, f"{curve.values[-1]:.4g}") for curve in curves])
        for chart, curves in panels.items()
    ]


@cache
def drawing_script() -> Markup:
    """The part of Bokeh that draws, inside the page: nothing is fetched."""
    resources = INLINE.clone(components=["bokeh"])
    return Markup(resources.render_js())
