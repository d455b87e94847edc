"""A contact sheet of a config's training images and their views, before anything is trained."""

from pathlib import Path

import torch
from torch import Tensor

from augment import ViewGenerator, ViewParameters
from augment.contact_sheet import draw_contact_sheet
from simclr.config import TrainConfig
from simclr.data import load_source
from simclr.distributed import derive_seed
from simclr.files import atomically, refused

__all__ = ["draw_views", "write_preview"]


def write_preview(config: TrainConfig, images: int = 8) -> Path:
    """Write ``NAME-preview.png`` in the current folder: ``images`` random training images and their views.

    Raises:
        CheckpointError: the disk refuses.
    """
    source = load_source(config.data, "train")
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "preview"))
    chosen = torch.randperm(len(source), generator=generator)[:images].tolist()
    pixels = torch.stack([source[i][0] for i in chosen])  # (B, 3, H, W)
    views = ViewGenerator(config.augment)
    drawn = views.sample(len(pixels), (source.size, source.size), derive_seed(config.seed, "preview"), "cpu")
    path = Path(f"{config.name}-preview.png")
    with refused(path, "free some space or call it in another folder"):
        return draw_views(config, pixels, views.apply(pixels, drawn), drawn, path)


def draw_views(config: TrainConfig, images: Tensor, views: Tensor, drawn: ViewParameters, path: Path) -> Path:
    """Draw the first 8 images of a batch (B, 3, H, W) beside their views (V, B, 3, S, S) to ``path``.

    Raises:
        CheckpointError: the disk refuses.
    """
    figure = draw_contact_sheet(
        images[:8].cpu(),
        views[:, :8].float().cpu(),
        drawn.rows(slice(0, 8)).to("cpu"),
        mean=config.augment.mean,
        std=config.augment.std,
        title=f"{config.name}: images and their views",
    )
    atomically(path, lambda file: figure.savefig(file, format="png"))
    return path
