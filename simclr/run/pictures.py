"""The run's pictures: its curves, and contact sheets of images beside the views that training makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from augment import AugmentConfig, ViewParameters
from simclr.data.channels import note_on_bands, shown_bands
from simclr.files import atomically
from simclr.names import drawn as text_of
from simclr.names import legible
from simclr.run.log import figures_over, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_contact_sheet", "draw_curves", "draw_views", "write_contact_sheet"]

_PANELS = (
    ("loss", "step", "loss"),
    ("learning_rate", "step", "learning rate"),
    ("contrastive_top1", "epoch", "contrastive top-1"),
    ("online_knn", "epoch", "online kNN accuracy"),
    ("validation_accuracy", "epoch", "validation accuracy"),
    ("validation_error", "epoch", "validation error (mean absolute)"),
    ("validation_knn", "epoch", "validation kNN accuracy"),
    ("start_cka", "epoch", "linear CKA with the start (1 = as it was)"),
    ("online_rankme", "epoch", "RankMe of held-out images"),
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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


def draw_views(
    augment: AugmentConfig, name: str, images: Tensor, views: Tensor, drawn: ViewParameters, path: Path
) -> Path:
    """Draw the first 8 images of a batch (B, C, H, W) beside their views (V, B, C, S, S) to ``path``.

    Args:
        augment: whose mean and standard deviation are taken out of the views again.
        name: of the run, for the title.
        images: uint8.
        views: as ``drawn`` says.
        drawn: what acted on each view, which stands below it.
        path: of the PNG.

    Raises:
        CheckpointError: the disk refuses.
    """
    figure = draw_contact_sheet(
        images[:8].cpu(),
        views[:, :8].float().cpu(),
        drawn.rows(slice(0, 8)).to("cpu"),
        mean=augment.mean,
        std=augment.std,
        title=f"{name}: images and their views{note_on_bands(images.shape[1])}",
    )
    atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for colour blindness


_INK = "#333333"


_PICTURE = 1.65  # inches, width and height of one picture


_CHARACTERS = 31  # of a caption that fit under a picture


_LINE = 0.115  # inches, one line of text


_GAP = 0.12  # inches, between pictures


_HEAD = 0.6  # inches, above the first row


def write_contact_sheet(
    path: str | Path,
    images: Tensor,
    views: Tensor,
    parameters: ViewParameters,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    title: str = "",
    limit: int = 12,
) -> Path:
    """Write what ``draw_contact_sheet`` draws to ``path``; matplotlib picks the format by its ending (png, pdf, svg).

    Returns:
        The path.

    Raises:
        ValueError: the shapes do not belong together.
    """
    figure = draw_contact_sheet(images, views, parameters, mean=mean, std=std, title=title, limit=limit)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def draw_contact_sheet(
    images: Tensor,
    views: Tensor,
    parameters: ViewParameters,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    title: str = "",
    limit: int = 12,
) -> "Figure":
    """A picture: every image with the outline of its crops, beside it its views and the operations that acted.

    Args:
        images: (B, C, H, W), uint8 or floating point in [0, 1].
        views: (V, B, C, S, S) that came of them.
        parameters: the parameters the views were made with.
        mean: what the views were normalised by, to be undone for display; None if they were not.
        std: given together with ``mean``.
        title: written above.
        limit: images shown at most.

    Raises:
        ValueError: the shapes do not belong together.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if views.ndim != 5 or images.ndim != 4 or views.shape[:2] != (parameters.views, len(images)):
        raise ValueError(
            f"images {tuple(images.shape)}, views {tuple(views.shape)} and the parameters of {parameters.views} views "
            f"of {parameters.batch} images do not belong together: expected (B, C, H, W) and (V, B, C, S, S)"
        )
    shown, count = min(limit, len(images)), parameters.views
    originals, pictures = _displayable(images[:shown]), _displayable(_denormalised(views[:, :shown], mean, std))
    parameters = parameters.rows(slice(shown)).to("cpu")
    captions = [
        _captions([parameters.describe(view, image, images.shape[1]) for view in range(count)])
        for image in range(shown)
    ]

    # Side by side until the sheet is about six pictures wide; a row is as high as its longest caption.
    groups = min(max(1, 6 // (count + 1)), shown)
    rows = -(-shown // groups)
    lines = [max(len(text) for image in captions[row::rows] for text in image) for row in range(rows)]
    heights = [_PICTURE + _LINE * count_of_lines + 2 * _GAP for count_of_lines in lines]
    group_width = (count + 1) * (_PICTURE + _GAP) + _GAP
    width, height = groups * group_width + _GAP, _HEAD + sum(heights)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    heading = text_of(title, max(12, int(10 * width)))
    place = (_GAP / width, 1 - 0.2 / height)
    figure.text(*place, heading, fontsize=11, weight="bold", color=_INK, va="center")

    for image in range(shown):
        group, row = divmod(image, rows)
        bottom = height - _HEAD - sum(heights[:row]) - _PICTURE
        for column in range(count + 1):
            left = _GAP + group * group_width + column * (_PICTURE + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _PICTURE / width, _PICTURE / height))
            if column == 0:
                size = parameters.image_size[image].tolist() if isinstance(parameters.image_size, Tensor) else None
                _draw_original(axes, originals[image], parameters.crop[:, image].tolist(), size)
            else:
                _draw(axes, pictures[column - 1, image], _COLOURS[(column - 1) % len(_COLOURS)])
            if row == 0:
                name = "original" if column == 0 else f"view {column}"
                axes.set_title(name, fontsize=8, color=_INK, pad=3)
            # Line by line: matplotlib spaces the lines of one text by their glyphs, unevenly.
            for line, text in enumerate(captions[image][column]):
                y = (bottom - 0.05 - _LINE * (line + 0.5)) / height
                figure.text(left / width, y, text, fontsize=6.5, color=_INK, va="center")
    return legible(figure)


def _captions(described: list[list[str]]) -> list[list[str]]:
    """The lines under the original and under each view: as many operations a line as fit."""
    captions: list[list[str]] = [[]]
    for operations in described:
        lines = [""]
        for word in operations or ["unchanged"]:
            joined = f"{lines[-1]}, {word}" if lines[-1] else word
            if len(joined) <= _CHARACTERS:
                lines[-1] = joined
            else:
                lines[-1] += ","
                lines.append(word)
        captions.append(lines)
    return captions


def _displayable(pictures: Tensor) -> Tensor:
    """(..., C, H, W) -> (..., H, W, 3) floating point in [0, 1] on the host; see ``shown_bands``."""
    pictures = pictures.detach().cpu()
    pictures = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float().clamp(0, 1)
    return shown_bands(pictures).movedim(-3, -1)


def _denormalised(views: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    if mean is None or std is None:
        return views
    views = views.float()
    return views * views.new_tensor(std)[:, None, None] + views.new_tensor(mean)[:, None, None]


def _draw(axes: "Axes", picture: Tensor, colour: str, size: Sequence[int] | None = None) -> None:
    height, width = picture.shape[:2] if size is None else size
    # Small images are shown pixel by pixel: smoothing would hide what the encoder sees.
    smooth = "nearest" if max(picture.shape[:2]) < 128 else "antialiased"
    axes.imshow(picture.numpy(), interpolation=smooth, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.6)


def _draw_original(axes: "Axes", picture: Tensor, boxes: list[list[int]], size: Sequence[int] | None) -> None:
    """An image with its crops; ``size`` is the height and width that a stretched one has by itself."""
    from matplotlib.patches import Rectangle

    _draw(axes, picture, "#bbbbbb", size)
    height, width = picture.shape[:2] if size is None else size
    inset = 0.02 * max(height, width)  # keeps an outline along the border in sight
    for view, (top, left, box_height, box_width) in enumerate(boxes):
        if (box_height, box_width) == (height, width):
            continue
        corner = (left - 0.5 + inset, top - 0.5 + inset)
        colour = _COLOURS[view % len(_COLOURS)]
        axes.add_patch(
            Rectangle(
                corner, box_width - 2 * inset, box_height - 2 * inset, fill=False, linewidth=1.4, edgecolor=colour
            )
        )
