"""The views of a step, and of other sizes at the start: smaller ones cost less, and a convolutional encoder takes any size."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from augment import AugmentConfig, Mix, ViewGenerator, ViewParameters
from augment.own import seeded
from simclr.config import TrainConfig
from simclr.data import load_source
from simclr.data.cut import CropPlan, Cut
from simclr.data.decode_batch import DecodeBatch
from simclr.data.loader import Batch
from simclr.data.pixel_faults import pixel_faults
from simclr.distributed import derive_seed
from simclr.errors import ConfigError
from simclr.files import refused
from simclr.model.encoder import feature_width
from simclr.optim.schedule import sizes_by_step
from simclr.run.parts import Run, Step
from simclr.run.pictures import draw_views

__all__ = ["crop_plan", "draw_first_views", "make_views", "views_by_step", "write_preview"]


def views_by_step(
    augment: AugmentConfig,
    view_sizes: Sequence[tuple[float, int]],
    backbone: nn.Module,
    total_steps: int,
    *,
    encoder: str = "the encoder",
    channels: int = 3,
    compiled: bool = False,
    after: Callable[[Tensor], Tensor] | None = None,
) -> tuple[nn.ModuleList, Callable[[int], ViewGenerator]]:
    """The view generators of a run, one a size, and which of them serves a step: a function of the step alone.

    Args:
        augment: how views are made; its size is the last.
        view_sizes: smaller views at the start: sizes, and the share of the steps until which each is used (progressive
            resizing; for self-supervision Bordes et al. 2023).
        backbone: what takes them, on the CPU.
        total_steps: of the run.
        encoder: the backbone's name, for messages.
        channels: of the images.
        compiled: torch.compile the augmentation.
        after: a further operation on the views.

    Raises:
        ConfigError: ``backbone`` does not take one of the sizes.
    """
    for _, size in view_sizes:
        try:
            replace(augment, size=size)  # a size that no view can have is refused here
            feature_width(backbone, size, channels)
        except Exception as error:  # every architecture has a complaint of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"schedule.view_sizes asks for views of {size} px, which {encoder} does not take: {reason}"
            ) from error
    configs, ends = _by_size(augment, view_sizes, total_steps)
    generators = [ViewGenerator(config, compile=compiled, after=after) for config in configs]

    def at(step: int) -> ViewGenerator:
        return generators[sum(step >= end for end in ends)]

    return nn.ModuleList(generators), at


def crop_plan(run: Run) -> CropPlan | None:
    """The crops that are cut out where images are decoded, or None where they are cut from squares on the device."""
    config = run.config
    if config.data.crops == "square" or (run.images.pixels is not None and run.images.originals is None):
        return None
    configs, ends = _by_size(config.augment, config.schedule.view_sizes, run.total_steps)
    return CropPlan(configs=tuple(configs), ends=tuple(ends), batch=config.train.batch_size, seed=config.seed)


def draw_first_views(run: Run, indices: Tensor, done: Step, path: Path) -> Path:
    """Draw the first images of this process, of the numbers ``indices`` (B,), beside the views that a step made of them."""
    images = run.images.shown(indices[:8].cpu())
    return draw_views(run.config.augment, run.config.name, images, done.views, done.drawn, path)


def write_preview(config: TrainConfig, images: int = 8, say: Callable[[str], object] = lambda line: None) -> Path:
    """Write ``NAME-preview.png`` beside the runs, into ``config.out``: ``images`` random training images and their views.

    ``say`` is called with what the folder was taken for, and for each image that is constant or uses few of the 256 levels.

    Raises:
        CheckpointError: the disk refuses.
    """
    source = load_source(config.data, "train")
    for note in source.first_lines():
        say(note)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "preview"))
    chosen = torch.randperm(len(source), generator=generator)[:images]
    pixels = torch.stack([source[i][0] for i in chosen.tolist()])  # (B, C, H, W)
    for i, image in zip(chosen.tolist(), pixels, strict=True):
        for fault in pixel_faults(image):
            say(f"warning: {source.describe(i)}: {fault}")
    views, size = ViewGenerator(config.augment), (source.size, source.size)
    drawn = views.sample(len(pixels), size, derive_seed(config.seed, "views", 0), "cpu", pixels.shape[1])
    path = config.out / f"{config.name}-preview.png"
    with refused(path, "free some space, or choose another --out"):
        if config.data.crops == "square" or source.pixels is not None:
            return draw_views(config.augment, config.name, pixels, views.apply(pixels, drawn), drawn, path)
        plan = CropPlan(configs=(config.augment,), ends=(), batch=len(chosen), seed=config.seed)
        cut, _, _ = DecodeBatch(source, lambda _: chosen, plan)((0, chosen.tolist()))
        assert isinstance(cut, Cut)
        drawn = replace(drawn, crop=cut.boxes, image_size=cut.size)
        return draw_views(
            config.augment, config.name, source.shown(chosen), views.finish(cut.views, drawn), drawn, path
        )


def _by_size(
    augment: AugmentConfig, view_sizes: Sequence[tuple[float, int]], total_steps: int
) -> tuple[list[AugmentConfig], list[int]]:
    sizes = sizes_by_step(view_sizes, augment.size, total_steps)
    return [replace(augment, size=size) for size, _ in sizes], [end for _, end in sizes[:-1]]


def make_views(run: Run, generator: ViewGenerator, step: int, batch: Batch) -> tuple[Tensor, Tensor, ViewParameters]:
    """This process's views (V, B, C, S, S), what the objective is to learn of their images, and what was drawn for them.

    All is drawn for the batch of all processes, each of which takes its own rows: it does not depend on how many there are.
    Targets are labels or numbers (B,), or where they are soft the shares of the classes (B, C).
    """
    config, images, given = run.config, run.images, run.given
    drawn = generator.sample(
        config.train.batch_size,
        (images.size, images.size),
        run.seed("views", step),
        run.accelerator.device,
        images.reader.channels,
    ).rows(run.own)
    # What the user's own operations draw is a function of the step and of the process.
    own = (run.seed("own augmentation", step, run.accelerator.process_index), drawn.device)
    with seeded(*own) if given.augments else nullcontext():
        if isinstance(batch.images, Cut):
            boxes = batch.images.boxes.to(drawn.device, non_blocking=True)
            drawn = replace(drawn, crop=boxes, image_size=batch.images.size)
            views = generator.finish(batch.images.views, drawn)  # (V, B, C, S, S)
        else:
            whole = batch.images if given.before is None else given.before(batch.images)  # (B, C, H, W)
            views = generator.apply(whole, drawn)
    soft = config.mix.active or (images.values is not None and config.objective.soft_labels)
    targets = batch.targets(len(images.classes), soft)
    if config.mix.active:
        mix = Mix.sample(config.mix, config.train.batch_size, views.shape[-1], run.seed("mix", step)).rows(run.own)
        views, targets = mix.apply(views), mix.targets(targets)
    return views, targets, drawn
