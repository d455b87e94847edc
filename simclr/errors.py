"""The errors a user can cause: one line that says what was wrong, what was given, what was expected and how to mend it.

The commands in ``scripts/`` print them without a traceback and exit with 2; anything else is a defect of this project
and keeps its traceback.
"""

import reprlib

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LaunchError",
    "LostProcessError",
    "MissingExtraError",
    "OutOfMemoryError",
    "PipelineError",
    "require",
    "shown",
]


class PipelineError(Exception):
    """Base of every error that is the user's to mend."""

    said = False
    """Whether another process of the run says it: many meet the same one."""


class ConfigError(PipelineError, ValueError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another one."""


class LaunchError(ConfigError):
    """Processes that do not find each other, or not the machines that they need; each one says so for itself."""


class LostProcessError(PipelineError, RuntimeError):
    """Another process of the run died, hangs or ended with an error, and this one cannot go on without it."""

    def __init__(self, words: str, *, said: bool = False) -> None:
        super().__init__(words)
        self.said = said


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
        raise ConfigError(f"{field} is {shown(given)}; it must be {expected}")


def shown(value: object) -> str:
    """``repr`` of a value that came from a file or a command line, cut where it is long: any value has one, and a short one.

    >>> shown((0.9, 2.0)), shown("x" * 500)[:4], len(shown("x" * 500)), shown(1 << 90_000)
    ('(0.9, 2.0)', "'xxx", 200, 'a whole number of 90001 bits')
    """
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


_LONGEST = 200
"""Letters of a value in a message."""


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 5, 4 * _LONGEST, 4 * _LONGEST
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 32

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write one of more than some 4,300 digits.
        return repr(x) if x.bit_length() < 4 * _LONGEST else f"a whole number of {x.bit_length()} bits"


_SHORT = _Short()
