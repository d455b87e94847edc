"""The views of a step, and of other sizes at the start: smaller ones cost less, and a convolutional encoder takes any size."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from augment import AugmentConfig, Mix, ViewGenerator, ViewParameters
from simclr.data.loader import Batch
from simclr.errors import ConfigError
from simclr.model.encoder import feature_width
from simclr.run.parts import Run

__all__ = ["make_views", "views_by_step"]


def views_by_step(
    augment: AugmentConfig,
    view_sizes: Sequence[tuple[float, int]],
    backbone: nn.Module,
    total_steps: int,
    *,
    encoder: str = "the encoder",
    compiled: bool = False,
) -> tuple[nn.ModuleList, Callable[[int], ViewGenerator]]:
    """The view generators of a run, one a size, and which of them serves a step: a function of the step alone.

    Args:
        augment: how views are made; its size is the last.
        view_sizes: smaller views at the start: sizes, and the share of the steps until which each is used (progressive
            resizing; for self-supervision Bordes et al. 2023).
        backbone: what takes them, on the CPU.
        total_steps: of the run.
        encoder: the backbone's name, for messages.
        compiled: torch.compile the augmentation.

    Raises:
        ConfigError: ``backbone`` does not take one of the sizes.
    """
    for _, size in view_sizes:
        try:
            replace(augment, size=size)  # a size that no view can have is refused here
            feature_width(backbone, size)
        except Exception as error:  # every architecture has a complaint of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"schedule.view_sizes asks for views of {size} px, which {encoder} does not take: {reason}"
            ) from error
    sizes = [*view_sizes, (1.0, augment.size)]
    generators = [ViewGenerator(replace(augment, size=size), compile=compiled) for _, size in sizes]
    ends = [round(share * total_steps) for share, _ in sizes[:-1]]

    def at(step: int) -> ViewGenerator:
        return generators[sum(step >= end for end in ends)]

    return nn.ModuleList(generators), at


def make_views(run: Run, generator: ViewGenerator, step: int, batch: Batch) -> tuple[Tensor, Tensor, ViewParameters]:
    """This process's views (V, B, 3, S, S), what the objective is to learn of their images, and what was drawn for them.

    All is drawn for the batch of all processes, each of which takes its own rows: it does not depend on how many there are.
    Targets are labels or numbers (B,), or where they are soft the shares of the classes (B, C).
    """
    config, images = run.config, run.images
    drawn = generator.sample(
        config.train.batch_size, (images.size, images.size), run.seed("views", step), run.accelerator.device
    ).rows(run.own)
    views = generator.apply(batch.images, drawn)  # (V, B, 3, S, S)
    soft = config.mix.active or (images.values is not None and config.objective.soft_labels)
    targets = batch.targets(len(images.classes), soft)
    if config.mix.active:
        mix = Mix.sample(config.mix, config.train.batch_size, views.shape[-1], run.seed("mix", step)).rows(run.own)
        views, targets = mix.apply(views), mix.targets(targets)
    return views, targets, drawn
