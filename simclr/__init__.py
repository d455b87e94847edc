"""Views to encoder: config, data, objectives, training, checkpoints, export."""

import sys
import warnings
from typing import TYPE_CHECKING

from augment.lazy import lazy_face

if TYPE_CHECKING:
    from augment.own import After, Before
    from simclr import losses
    from simclr.config import TrainConfig
    from simclr.config.presets import preset, register_preset
    from simclr.config.sources import register_source
    from simclr.errors import CheckpointError, ConfigError, DataError, MissingExtraError, PipelineError
    from simclr.exchange.classifier import load_classifier
    from simclr.exchange.given import load_encoder
    from simclr.objectives import register_objective
    from simclr.run.folder import RunResult
    from simclr.run.process import keep_freed_memory
    from simclr.train import pretrain

# In a notebook without ipywidgets tqdm, which others bring, warns of bars that nothing here draws.
warnings.filterwarnings("ignore", message="IProgress not found")

if sys.argv[:1] == ["-m"]:
    from simclr.commands import refuse_module

    refuse_module(__name__)

__all__ = [
    "After",
    "Before",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "PipelineError",
    "RunResult",
    "TrainConfig",
    "keep_freed_memory",
    "load_classifier",
    "load_encoder",
    "losses",
    "preset",
    "pretrain",
    "register_objective",
    "register_preset",
    "register_source",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "augment.own": ("After", "Before"),
            "simclr.config": ("TrainConfig",),
            "simclr.config.presets": ("preset", "register_preset"),
            "simclr.config.sources": ("register_source",),
            "simclr.errors": (
                "CheckpointError",
                "ConfigError",
                "DataError",
                "MissingExtraError",
                "PipelineError",
            ),
            "simclr.exchange.classifier": ("load_classifier",),
            "simclr.exchange.given": ("load_encoder",),
            "simclr.objectives": ("register_objective",),
            "simclr.run.folder": ("RunResult",),
            "simclr.run.process": ("keep_freed_memory",),
            "simclr.train": ("pretrain",),
        },
    )
