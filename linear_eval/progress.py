"""What a user sees while a score is taken, and what the score was taken on: device, versions and hardware."""

import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from simclr.names import printable
from simclr.progress import progress, screen, shows_bars
from simclr.streams import in_lines

__all__ = ["Progress", "default_device", "environment", "name_files", "print_line", "showing_progress"]

Progress = Callable[[str], None]
"""Called with one line before each part of the work."""


@contextmanager
def showing_progress(console: Console) -> Iterator[Progress]:
    """Gives the function to call with a line; ``console`` writes to stderr."""
    with screen(console), progress("", lines=False) as work:

        def show(line: str) -> None:
            work.now(line)
            if not shows_bars():
                print(printable(line), file=sys.stderr)

        yield show


def print_line(console: Console, line: str) -> None:
    """Print ``line`` as it stands: names of files and classes in it may look like markup or like the name of an emoji, or hold
    line breaks and codes that a terminal obeys, which are shown as escapes."""
    console.print(Text(in_lines(printable(line), console)), soft_wrap=True)


def name_files(console: Console, files: Iterable[Path]) -> None:
    """Print the path of each file on a line of its own."""
    for file in files:
        print_line(console, str(file))


def default_device(device: torch.device | str | None = None) -> torch.device:
    """``device``, or where it is None CUDA where there is one, and else the CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def environment(device: torch.device) -> dict[str, dict[str, Any]]:
    """``versions`` and ``hardware`` of this process, which ran the encoder on ``device``; plain JSON types."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": version("scikit-learn"),
        },
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
