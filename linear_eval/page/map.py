"""The map of the embeddings: a point an image, its picture under the pointer, classes by colour and by form."""

from collections.abc import Sequence

import numpy as np
from bokeh.embed import components
from bokeh.models import ColumnDataSource, CustomJS, HoverTool
from bokeh.plotting import figure
from markupsafe import Markup

__all__ = ["FORMS", "class_colours", "draw_map"]

FORMS = ("circle", "triangle", "square", "diamond", "inverted_triangle", "plus", "star", "hex")
"""A class has one of these too, so that no two are told apart by colour alone."""

_CLASS_COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#b59a1d", "#3fa8cc", "#aa3377", "#8c8c8c", "#e08214", "#7b5fb5", "#a0522d"),
    *("#6f9fc8", "#d98a94", "#5fae57", "#c9b037", "#2a9d8f", "#c07fb5", "#a3a3a3", "#d9a15b", "#8d83c0", "#7f6a3a"),
)
"""After Paul Tol's bright scheme, each readable on white and on black."""


def class_colours(count: int) -> list[str]:
    """A colour for each of ``count`` classes; beyond twenty they begin again, and the forms tell which is which."""
    return [_CLASS_COLOURS[number % len(_CLASS_COLOURS)] for number in range(count)]


def draw_map(spots: np.ndarray, labels: Sequence[int]) -> tuple[Markup, Markup]:
    """The script that draws a map and its place; the page's own script shows the pictures, searches and lists.

    Args:
        spots: (N, 2).
        labels: N of them, -1 for none.
    """
    colours, grey = class_colours(max(labels, default=-1) + 1), "#888888"
    source = ColumnDataSource(
        {
            "x": np.round(spots[:, 0].astype(float), 3),
            "y": np.round(spots[:, 1].astype(float), 3),
            "colour": [grey if label < 0 else colours[label] for label in labels],
            "form": ["circle" if label < 0 else FORMS[label % len(FORMS)] for label in labels],
        },
        name="map",
    )
    drawn = figure(
        height=560,
        sizing_mode="stretch_width",
        match_aspect=True,
        tools="pan,wheel_zoom,box_zoom,lasso_select,tap,reset,save",
        active_drag="pan",
        active_scroll=None,
        toolbar_location="above",
        output_backend="canvas",
        name="map figure",
    )
    drawn.background_fill_color = drawn.border_fill_color = None  # the page's own, light or dark
    drawn.toolbar.logo = None
    points = drawn.scatter(
        "x",
        "y",
        source=source,
        marker={"field": "form"},
        size=8,
        line_color=None,
        fill_color={"field": "colour"},
        fill_alpha=0.8,
        nonselection_fill_alpha=0.07,
        selection_fill_alpha=1.0,
    )
    hover = CustomJS(code="window.report && window.report.hover(cb_data.index.indices, cb_data.geometry)")
    drawn.add_tools(HoverTool(renderers=[points], tooltips=None, callback=hover, point_policy="snap_to_data"))
    drawn.axis.visible = False
    drawn.grid.visible = False
    script, place = components(drawn, wrap_script=True)
    return Markup(script), Markup(place)
