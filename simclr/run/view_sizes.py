"""Views of other sizes at the start of a run: smaller ones cost less, and a convolutional encoder takes any size."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from augment import ViewGenerator
from simclr.config import TrainConfig
from simclr.errors import ConfigError
from simclr.model.encoder import feature_width

__all__ = ["views_by_step"]


def views_by_step(
    config: TrainConfig, backbone: nn.Module, total_steps: int
) -> tuple[nn.ModuleList, Callable[[int], ViewGenerator]]:
    """The view generators of a run, one a size, and which of them serves a step: a function of the step alone.

    ``schedule.view_sizes`` names sizes and the share of the steps until which each is used (progressive resizing; for
    self-supervision Bordes et al. 2023); ``augment.size`` is the last.

    Raises:
        ConfigError: ``backbone`` (on the CPU) does not take one of the sizes.
    """
    for _, size in config.schedule.view_sizes:
        try:
            replace(config.augment, size=size)  # a size that no view can have is refused here
            feature_width(backbone, size)
        except Exception as error:  # every architecture has a complaint of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"schedule.view_sizes asks for views of {size} px, which {config.encoder.name} does not take: {reason}"
            ) from error
    sizes = [*config.schedule.view_sizes, (1.0, config.augment.size)]
    generators = [
        ViewGenerator(replace(config.augment, size=size), compile=config.train.compile_augment) for _, size in sizes
    ]
    ends = [round(share * total_steps) for share, _ in sizes[:-1]]

    def at(step: int) -> ViewGenerator:
        return generators[sum(step >= end for end in ends)]

    return nn.ModuleList(generators), at
