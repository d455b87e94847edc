"""Views to encoder: config, data, objectives, training, checkpoints, export."""

from simclr import losses
from simclr.classifier import load_classifier
from simclr.config import TrainConfig
from simclr.errors import CheckpointError, ConfigError, DataError, MissingExtraError, PipelineError
from simclr.export import load_encoder
from simclr.presets import preset
from simclr.run_dir import RunResult
from simclr.train import pretrain

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "PipelineError",
    "RunResult",
    "TrainConfig",
    "load_classifier",
    "load_encoder",
    "losses",
    "preset",
    "pretrain",
]
