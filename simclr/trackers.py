"""Experiment trackers by their accelerate name; one that is missing is said before anything else is done."""

from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from simclr.config_io import flat_fields
from simclr.errors import ConfigError, MissingExtraError

__all__ = ["check_trackers", "start_trackers"]

_OUR_EXTRAS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that accelerate does not know or that are not installed.

    Raises:
        ConfigError: unknown; the message lists the known ones.
        MissingExtraError: not installed; the message says what to install.
    """
    known = sorted(str(kind) for kind in LOGGER_TYPE_TO_CLASS)
    installed = {str(kind) for kind in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ConfigError(f"train.trackers names {name!r}; accelerate knows {', '.join(known)}")
        if name not in installed:
            package = f"'simclr-pipeline[{name}]'" if name in _OUR_EXTRAS else name
            raise MissingExtraError(f"the tracker {name} is not installed: pip install {package}")


def start_trackers(accelerator: Accelerator, names: tuple[str, ...], config: dict[str, Any]) -> None:
    """Start the trackers that the Accelerator was made with, and show them the config."""
    if names:
        shown = {
            path: value if isinstance(value, int | float | str | bool) else str(value)
            for path, value in flat_fields(config).items()
        }
        accelerator.init_trackers("simclr", config=shown)
