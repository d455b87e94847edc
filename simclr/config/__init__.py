"""Everything a run can be told, as frozen dataclasses; ``simclr/config/presets.py`` names whole sets of them.

A field's docstring is its help text on the command line. What no two fields may say together is checked in one place,
``TrainConfig.__post_init__``.
"""

from typing import TYPE_CHECKING

from augment.lazy import lazy_face

if TYPE_CHECKING:
    from simclr.config.data import DataConfig, SamplerConfig
    from simclr.config.model import EncoderConfig, HeadConfig
    from simclr.config.optim import OptimConfig, ScheduleConfig
    from simclr.config.run import RUNTIME_FIELDS, LoopConfig, TrainConfig

__all__ = [
    "RUNTIME_FIELDS",
    "DataConfig",
    "EncoderConfig",
    "HeadConfig",
    "LoopConfig",
    "OptimConfig",
    "SamplerConfig",
    "ScheduleConfig",
    "TrainConfig",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "simclr.config.data": (
                "DataConfig",
                "SamplerConfig",
            ),
            "simclr.config.model": (
                "EncoderConfig",
                "HeadConfig",
            ),
            "simclr.config.optim": (
                "OptimConfig",
                "ScheduleConfig",
            ),
            "simclr.config.run": (
                "RUNTIME_FIELDS",
                "LoopConfig",
                "TrainConfig",
            ),
        },
    )
