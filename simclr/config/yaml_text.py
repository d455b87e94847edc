"""YAML as people write it, read with nothing lost in silence and nothing that takes for ever.

A key that stands twice is refused, where YAML's own loader takes the last one; so is a file that nests without end, or says more
than it holds by repeating itself.
"""

from pathlib import Path
from typing import Any

import yaml

from simclr.errors import ConfigError

__all__ = ["read_yaml"]

_LARGEST_FILE = 1 << 20
"""Bytes. A config has a few thousand."""

_MOST_VALUES = 100_000
"""Values of a file, those counted again that are named again (``*a``)."""

_DEEPEST = 32
"""Levels of a file; a config has three."""


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "it repeats itself without end", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        # Before "<<" brings the keys of other mappings, which the mapping's own take the place of.
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                where = f"line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r:.60} is there twice, at {where}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file says, as plain containers and values.

    Raises:
        ConfigError: it cannot be read, is no YAML, has a key twice, or is larger, deeper or more than any config.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        content = None if len(raw) > _LARGEST_FILE else yaml.load(raw.decode(), _Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not YAML: it opens brackets or levels without end") from error
    # To yaml a date such as 2026-99-99 is a ValueError, "!!bool x" a KeyError, "!!timestamp x" an AttributeError.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split()):.300}") from error
    if len(raw) > _LARGEST_FILE:
        raise ConfigError(f"{path} is larger than any config ({_LARGEST_FILE} bytes)")
    _refuse_endless(content, path)
    return content


def _refuse_endless(content: Any, path: Path) -> None:
    """Names for values (``&a``, ``*a``) make a few lines a tree of billions, or one that holds itself."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise ConfigError(f"{path} nests or repeats itself more than any config does")
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in value]
