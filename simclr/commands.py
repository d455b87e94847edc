"""How a command is called: ``scripts/evaluate.py`` in a clone, ``simclr evaluate`` where the package alone is installed."""

import re
from functools import cache
from pathlib import Path

__all__ = ["NAMES", "as_called", "command", "folder"]

NAMES = (
    "pretrain",
    "evaluate",
    "finetune",
    "embed",
    "neighbors",
    "predict",
    "export",
    "report",
    "check_data",
    "make_shards",
    "preview",
    "selftest",
    "replay",
)
"""Every file of ``scripts/``, those first that one begins with."""


@cache
def folder() -> Path | None:
    """``scripts/`` of a clone, or None where there is none beside the package."""
    beside = Path(__file__).parent.parent / "scripts"
    return beside if (beside / "pretrain.py").is_file() else None


def command(name: str) -> str:
    """What a user types for ``name``, one of `NAMES`.

    >>> command("check_data")
    'scripts/check_data.py'
    """
    return f"scripts/{name}.py" if folder() else f"simclr {name.replace('_', '-')}"


def as_called(text: str) -> str:
    """``text``, which calls commands as in a clone, as they are called here."""
    if folder():
        return text
    text = re.sub(
        r"accelerate launch scripts/(\w+)\.py", lambda found: f"accelerate launch -m simclr {_word(found)}", text
    )
    return re.sub(r"(?:python )?scripts/(\w+)\.py", lambda found: f"simclr {_word(found)}", text)


def _word(found: re.Match[str]) -> str:
    return found[1].replace("_", "-")
