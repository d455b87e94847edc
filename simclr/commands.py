"""How a command is called: ``scripts/evaluate.py`` in a clone, ``simclr evaluate`` where the package alone is installed."""

import re
import sys
from functools import cache
from pathlib import Path

__all__ = ["NAMES", "as_called", "command", "folder", "refuse_module"]

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


def refuse_module(package: str) -> None:
    """End a process that was started as ``python -m PACKAGE.MODULE``, where nothing would happen, with 2 and what is meant.

    For the face of a package: it is imported before the module, while ``sys.argv`` still begins with "-m".
    """
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if not module.startswith(f"{package}.") or module.endswith(".__main__"):
        return
    last = {"train": "pretrain", "evaluate_open": "evaluate", "evaluate_few_shot": "evaluate", "finetuned": "finetune"}
    name = last.get(module.split(".")[-1], module.split(".")[-1])
    meant = f"the command is {command(name)}, or simclr {name}" if name in NAMES else "simclr --help lists the commands"
    print(f"error: python -m {module} does nothing: {meant}", file=sys.stderr)
    sys.exit(2)


def _word(found: re.Match[str]) -> str:
    return found[1].replace("_", "-")
