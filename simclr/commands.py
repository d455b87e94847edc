"""What every command in ``scripts/`` shares: a user's mistake is one line on stderr and exit code 2, no traceback."""

import io
import os
import sys
from collections.abc import Callable

from simclr.cores import use_cores
from simclr.errors import PipelineError
from simclr.host_memory import keep_freed_memory

__all__ = ["run_command"]


def run_command(main: Callable[[list[str]], int], keep_memory: bool = True) -> int:
    """Run ``main`` on the command line's words; return its exit code, or 2 after a user's mistake.

    With ``keep_memory`` the process holds what it frees until it ends (``simclr/host_memory.py``).
    """
    use_cores()
    if keep_memory:
        keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without UTF-8 shows what it cannot write as an escape, rather than ending the run.
            stream.reconfigure(errors="backslashreplace")
    try:
        return main(sys.argv[1:])
    except PipelineError as error:
        # Several processes make the same mistake; one of them says so.
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
