"""The errors a user can cause: one line that says what was wrong, what was given, what was expected and how to mend it.

The commands in ``scripts/`` print them without a traceback and exit with 2; anything else is a defect of this project
and keeps its traceback.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "OutOfMemoryError",
    "PipelineError",
    "require",
]


class PipelineError(Exception):
    """Base of every error that is the user's to mend."""


class ConfigError(PipelineError, ValueError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another one."""


class DataError(PipelineError):
    """Images or labels that are missing, unreadable, or not what the task needs."""


class CheckpointError(PipelineError):
    """A checkpoint or encoder file that is damaged or does not match what it is loaded into."""


class MissingExtraError(PipelineError, ImportError):
    """An optional package that is not installed; the message names the extra that brings it."""


class OutOfMemoryError(PipelineError, MemoryError):
    """More memory than there is, of the host or a GPU; the message says what takes it and what helps."""


def require(holds: bool, field: str, given: object, expected: str) -> None:
    """Raise `ConfigError` that names the setting, its value and what was expected, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{field} is {given!r}; it must be {expected}")
