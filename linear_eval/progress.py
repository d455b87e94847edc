"""What an evaluation says while it works: one changing line on a terminal, plain lines on stderr elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

__all__ = ["Progress", "name_files", "print_line", "told"]

Progress = Callable[[str], None]
"""Called with one line before each part of the work."""


@contextmanager
def told(console: Console) -> Iterator[Progress]:
    """Gives the function to call with a line; ``console`` writes to stderr."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda line: status.update(Text(line))
    else:
        yield partial(print, file=sys.stderr)


def print_line(console: Console, line: str) -> None:
    """Print ``line`` as it stands: names of files and classes in it may look like markup or like the name of an emoji."""
    console.print(Text(line), soft_wrap=True)


def name_files(console: Console, files: Iterable[Path]) -> None:
    """Print the path of each file on a line of its own."""
    for file in files:
        print_line(console, str(file))
