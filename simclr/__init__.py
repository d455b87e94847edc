"""Views to encoder: config, data, objectives, training, checkpoints, export."""

from simclr import losses
from simclr.config import TrainConfig
from simclr.config.presets import preset
from simclr.errors import CheckpointError, ConfigError, DataError, MissingExtraError, PipelineError
from simclr.exchange.classifier import load_classifier
from simclr.exchange.encoder import load_encoder
from simclr.run.folder import RunResult
from simclr.run.process import keep_freed_memory
from simclr.train import pretrain

__all__ = [
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
]
