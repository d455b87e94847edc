"""Pictures of embeddings: ROC, pair histogram, PCA and t-SNE maps. Written as PNG, without a display.

The ROC and the histogram are drawn from :meth:`VerificationResult.as_dict`, which is what ``result.json`` holds, so a
picture can be made again from a stored result, and several results can share one.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from linear_eval.features.extract import Features
from linear_eval.look.maps import MAP_NAMES, Method, map_of, pca_map, tsne_map
from linear_eval.reports.closed import colours_of
from simclr.errors import ConfigError
from simclr.files import AGAIN, atomically, refused
from simclr.names import drawable, drawn, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pca_map", "plot_map", "plot_pairs", "plot_roc", "tsne_map"]

GENUINE, IMPOSTOR, INK = "#1f6f8b", "#d1603d", "#333333"
LINES = ("#1f6f8b", "#d1603d", "#6a994e", "#7b5ea7", "#c9a227", "#555555", "#b5598a", "#3d5a80")
CLASSES = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#8c8c8c", "#e08214", "#5e3c99", "#1b1b1b"),
    *("#99c1de", "#f7b6bd", "#90c987", "#fff0a8", "#2a9d8f", "#d8a7d0", "#c4c4c4", "#fdd0a2", "#b2abd2", "#7f4f24"),
)
TSNE_ROWS, PCA_ROWS = 2000, 5000


def plot_roc(results: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """TAR over FAR (logarithmic), a line for each named result in the form of ``VerificationResult.as_dict()``.

    Points mark the TAR at the reported FARs with their 95 % intervals; a line starts at its first measurable FAR.
    """
    _need_results(results)
    figure, (axes,) = _figure(1, width=7.0, height=5.0 + 0.2 * len(results))
    floor = min(1 / result["impostor_pairs"] for result in results.values())
    colours = colours_of(results) if "encoder" in results else {}
    for number, (name, result) in enumerate(results.items()):
        color = colours.get(name, LINES[number % len(LINES)])
        far, tar = np.asarray(result["roc_far"]), np.asarray(result["roc_tar"])
        start = float(tar[far <= 0].max())  # what is accepted before the first impostor
        far, tar = np.concatenate([[floor], far[far > 0]]), np.concatenate([[start], tar[far > 0]])
        axes.plot(
            *(far, tar),
            drawstyle="steps-post",
            color=color,
            linewidth=1.8,
            label=f"{drawn(name)}   AUC {result['auc']:.3f}, EER {100 * result['eer']:.1f} %",
        )
        for point in result["operating_points"]:
            if point["interval"] is not None:
                low, high = point["interval"]
                share = min(max(point["tar"], low), high)
                spread = [[share - low], [high - share]]
                shift = 1.12 ** (number - (len(results) - 1) / 2)  # side by side where several lines are drawn
                axes.errorbar(
                    *(point["wanted_far"] * shift, share), spread, fmt="o", color=color, markersize=4, capsize=3, lw=1
                )
    axes.set_xscale("log")
    axes.set_xlim(floor, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false accept rate (pairs of different classes accepted)")
    axes.set_ylabel("true accept rate (pairs of one class accepted)")
    axes.set_title("Verification: ROC with 95 % intervals over classes")
    # Below: the intervals reach from the bottom to the top, and leave no empty corner.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    return _write(figure, path)


def plot_pairs(results: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Histogram of pair similarities, same class against different, a panel for each named result.

    Each panel has a range of its own: the same cosine means different things in two encoders.
    """
    _need_results(results)
    figure, panels = _figure(len(results), width=7.0, height=2.8 if len(results) > 1 else 4.2)
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        histogram = result["histogram"]
        edges = np.asarray(histogram["edges"])
        for kind, color, label in (("impostor", IMPOSTOR, "different classes"), ("genuine", GENUINE, "one class")):
            counts = np.asarray(histogram[kind], dtype=np.float64)
            density = counts / counts.sum() / np.diff(edges)
            axes.stairs(density, edges, fill=True, color=color, alpha=0.35)
            axes.stairs(density, edges, color=color, linewidth=1.4, label=f"{label} ({int(counts.sum()):,} pairs)")
        fitted = "fitted threshold" if result["threshold_from"] == "given" else "threshold at EER"
        axes.axvline(
            result["threshold"], color=INK, linestyle="--", linewidth=1.2, label=f"{fitted} {result['threshold']:.3f}"
        )
        axes.set_title(drawn(name))
        axes.set_ylabel("density")
        axes.set_xlabel("cosine similarity" if result["distance"] == "cosine" else "euclidean distance")
        axes.legend(frameon=False)
        axes.set_xlim(*_where_pairs_are(histogram, result["threshold"]))
    return _write(figure, path)


def _where_pairs_are(histogram: Mapping[str, Any], threshold: float) -> tuple[float, float]:
    """Ends of a picture that leave out the outermost thousandth of the pairs, which would squeeze the others."""
    edges = np.asarray(histogram["edges"])
    genuine, impostor = (np.cumsum(histogram[kind]) / np.sum(histogram[kind]) for kind in ("genuine", "impostor"))
    share = (genuine + impostor) / 2
    low = edges[int(np.searchsorted(share, 0.001, side="right"))]
    high = edges[min(int(np.searchsorted(share, 0.999)) + 1, len(share))]
    margin = 0.03 * (high - low)
    return float(min(low, threshold) - margin), float(max(high, threshold) + margin)


def plot_map(
    features: Features,
    path: str | os.PathLike[str],
    method: Method = "pca",
    *,
    class_names: Sequence[str] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Path:
    """Scatter of the embeddings in two dimensions, coloured by class. ``method``: ``"pca"``, ``"tsne"`` or ``"umap"``.

    At most ``max_rows`` rows (5,000 for PCA, 2,000 for t-SNE), drawn under ``seed``, are shown.
    """
    if method not in MAP_NAMES:
        raise ConfigError(f"unknown map {method!r}; expected one of {', '.join(MAP_NAMES)}")
    limit = max_rows or (PCA_ROWS if method == "pca" else TSNE_ROWS)
    shown = torch.randperm(len(features.y), generator=torch.Generator().manual_seed(seed))[:limit].to(features.x.device)
    x, y = features.x[shown], features.y[shown].cpu().numpy()
    figure, (axes,) = _figure(1, width=7.4, height=6.0)
    if method == "pca":
        spots, explained = pca_map(x)
        axes.set_xlabel(f"first component ({100 * explained[0]:.1f} % of the variance)")
        axes.set_ylabel(f"second component ({100 * explained[1]:.1f} %)")
        axes.set_aspect("equal", adjustable="datalim")
    else:
        spots = map_of(x, method, seed)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_xlabel("distances between groups carry no meaning", color="#777777")
    classes = np.unique(y)
    few = len(classes) <= len(CLASSES)
    position = np.searchsorted(classes, y)
    colors = np.asarray(CLASSES)[position] if few else position / max(1, len(classes) - 1)
    axes.scatter(*(spots[:, 0], spots[:, 1]), c=colors, cmap=None if few else "turbo", s=14, linewidths=0, alpha=0.85)
    axes.grid(False)
    rows = f"{len(y):,}" if len(y) == len(features.y) else f"{len(y):,} of {len(features.y):,}"
    # Of the figure, and in two lines: beside a legend of long names the axes are narrower than it.
    title = f"{MAP_NAMES[method]} of the embeddings\n{rows} images, {len(classes):,} classes"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    if few:
        present = features.y.unique().tolist()  # in the picture or not: their numbers are those of the result's classes
        known = class_names or ()
        named = drawable([known[label] if 0 <= label < len(known) else str(label) for label in present])
        for number, label in enumerate(classes.tolist()):
            axes.scatter([], [], color=CLASSES[number], s=30, label=named[present.index(label)])
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="class")
    return _write(figure, path)


def _need_results(results: Mapping[str, Mapping[str, Any]]) -> None:
    if not results:
        raise ConfigError("a picture needs at least one named verification result, got none")


def _figure(panels: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * panels), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(panels, 1, squeeze=False)[:, 0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(True, color="#e6e6e6", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def _write(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    legible(figure)
    with refused(path, AGAIN):
        atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=150))
    return Path(path)
