"""The names of the image sets that there are, and how a set of your own becomes one of them."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from simclr.errors import ConfigError

__all__ = ["GIVEN", "OWN_SOURCES", "PACKED", "SOURCES", "known_sources", "register_source"]

PACKED = ("parquet", "shards")
"""Those whose images lie by the thousand in larger files."""

SOURCES = ("digits", "cifar10", "cifar100", "stl10", "omniglot", "folder", *PACKED)

GIVEN = "given"
"""What ``data.source`` says of images that were handed to ``simclr.pretrain``: no command can load them."""

OWN_SOURCES: dict[str, Callable[..., Any]] = {}
"""Those that were registered, by name."""

Load = TypeVar("Load", bound=Callable[..., Any])


def known_sources() -> tuple[str, ...]:
    """Every name that ``data.source`` takes on a command line."""
    return (*SOURCES, *OWN_SOURCES)


def register_source(load: Load) -> Load:
    """Add an image set of your own, as a decorator of the function that loads it: ``def birds(config, split): ...``.

    It is called by ``--data.source birds`` with the `DataConfig` and with "train" or "test", and returns anything that
    ``simclr.pretrain(images=...)`` takes, the same images in the same order every time. None for "test" has
    ``data.test_fraction`` of every class of "train" held out.

    Raises:
        ConfigError: another source has that name, or it does not take two arguments.
    """
    name = load.__name__
    known = OWN_SOURCES.get(name)
    if name in (*SOURCES, GIVEN) or (known is not None and known.__module__ != load.__module__):
        raise ConfigError(f"there is a data source called {name} already; give yours another name")
    try:
        inspect.signature(load).bind(None, "train")
    except TypeError as error:
        raise ConfigError(f"the data source {name} cannot be called with a config and a part: {error}") from error
    OWN_SOURCES[name] = load
    return load
