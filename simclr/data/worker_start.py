"""How worker processes are started so that a user's script is not run again in each of them.

A worker that is forked can hang where this process has threads; one that is started afresh first imports the script that was
run, since what it is given may be defined there. A script without ``if __name__ == "__main__"`` is thereby run again.
"""

import ast
import multiprocessing
import pickle
import sys
import threading
from contextlib import suppress
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

from simclr.errors import DataError

__all__ = ["way_to_start"]


_OWN = ("(_serve)", "QueueFeederThread")
"""Names of threads of multiprocessing, which it sees to in a fork."""


def way_to_start(read: object) -> Any:
    """The context to start workers with that are given ``read``: afresh and without the script where nothing of ``read`` is
    defined there; a fork where something is and this process has no other thread; else afresh with the script.

    Raises:
        DataError: that would run the script again.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None  # Windows, whose scripts have to have the line for any process that they start
    found = _defined_in_the_script(read)
    if found is None:
        return _WithoutScript()
    if all(thread is threading.main_thread() or thread.name.endswith(_OWN) for thread in threading.enumerate()):
        return "fork"
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and _asks_for_its_name(Path(script)):
        return "forkserver"
    raise DataError(
        f"workers would have to run {script or 'this session'} again, where {found} is defined; put what it does below a line "
        f'if __name__ == "__main__":, or {found} into a module of its own, or leave workers out'
    )


class _Nowhere:
    def write(self, content: Any) -> int:
        return memoryview(content).nbytes


class _Finder(pickle.Pickler):
    """Looks at all that a pickle would name, and leaves the numbers of tensors and arrays out."""

    found: str | None = None

    def persistent_id(self, one: Any) -> str | None:
        if isinstance(one, type | FunctionType) and one.__module__ == "__main__":
            self.found = one.__qualname__
        return "numbers" if isinstance(one, Tensor) or type(one).__name__ == "ndarray" else None


def _defined_in_the_script(read: object) -> str | None:
    """What of ``read`` a process that does not know the script could not make, or None."""
    finder = _Finder(_Nowhere())
    try:
        finder.dump(read)
    except Exception as error:  # a lambda, an open file: whatever cannot be pickled can be forked
        return finder.found or f"what cannot be sent to another process ({next(iter(str(error).splitlines()), '')})"
    return finder.found


def _asks_for_its_name(script: Path) -> bool:
    """Whether a script does what it does only where it is run, and not where it is imported."""
    with suppress(OSError, SyntaxError, ValueError):
        tree = ast.parse(script.read_bytes())
        tests = (node.test for node in tree.body if isinstance(node, ast.If))
        return any(isinstance(name, ast.Name) and name.id == "__name__" for test in tests for name in ast.walk(test))
    return False


class _Process(ForkServerProcess):
    """A process that is not told which script is run."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's name
        script, nothing = sys.modules["__main__"], ModuleType("__main__")
        sys.modules["__main__"] = nothing
        try:
            return ForkServerProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = script


class _WithoutScript(ForkServerContext):
    """Workers out of a server that never saw the script."""

    Process = _Process
