"""What an evaluation says while it works: one changing line on a terminal, plain lines on stderr elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console

__all__ = ["Progress", "told"]

Progress = Callable[[str], None]
"""Called with one line before each part of the work."""


@contextmanager
def told(console: Console) -> Iterator[Progress]:
    """Gives the function to call with a line; ``console`` writes to stderr."""
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield partial(print, file=sys.stderr)
