"""How a process is asked to stop, and what it makes of that: a checkpoint in training, a quick end anywhere else.

A command calls ``listen`` before anything heavy is imported; nothing but the standard library is imported here. From then on
SIGTERM, SIGINT (Ctrl-C), SIGHUP (a closed terminal), SIGUSR1 and SIGUSR2 (Slurm's warning) are requests:

- while modules are imported the process ends at once: nothing has been written, and a traceback of theirs helps nobody;
- in training, inside a ``StopFlag``, they only raise its flag: the loop saves and ends;
- elsewhere ``Stopped`` is raised where the program stands; files are whole or not there (``simclr/files.py``).

Launchers send the same request several times, in other words too: accelerate's dies of it and so sends another, torchrun
passes it on to each process's group. So only the first counts, and a second Ctrl-C some seconds after the first, which is a
person's.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopFlag", "Stopped", "exit_code", "finish", "ignore_requests", "imports_are_done", "listen", "request"]

_REQUESTS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
)

_HUMAN_SECONDS = 2.0
"""torchrun passes a Ctrl-C on to processes that had it from the terminal already; a person's second one comes later."""

_GRACE_SECONDS = 20.0
"""Where ``Stopped`` was raised and the process is still there: something caught it, or hangs. Then it ends all the same."""


class Stopped(KeyboardInterrupt):
    """The process was asked to stop while there was nothing to save."""


class _State:
    """Of this process: there is one set of signal handlers in it, and so one of these."""

    raised: signal.Signals | None = None
    interrupted: float | None = None
    importing = False
    greeted = False
    listening = False
    flags = 0
    parent = 0


_state = _State()


def listen() -> None:
    """Take requests to stop, from here to the end of the process. For commands: their first line, before heavy imports.

    A request that the process was told to ignore (``nohup``, a background job of a script) stays ignored. On Linux a process
    that a launcher started is also asked to stop when that launcher is gone: nobody would wait for it, nor stop it.
    """
    _state.importing = _state.listening = True
    # Where processes lose each other torch prints pages of addresses around the line that says which it was.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for number in _REQUESTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on)
    _greet()
    if not _is_launched():
        return
    _state.parent = os.getppid()
    if sys.platform.startswith("linux"):
        # A signal of its own: the system sends it when a mere thread of the parent ends, too.
        gone = signal.SIGRTMIN + 9
        signal.signal(gone, _on_parents_death)
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(gone))
        if os.getppid() != _state.parent or _is_orphan(_state.parent):  # it went before that call
            _on(signal.SIGTERM, None)


def imports_are_done() -> None:
    """From here on a request raises ``Stopped``."""
    _state.importing = False
    _wipe()


def request() -> signal.Signals | None:
    """The request that came first, or None."""
    return _state.raised


def exit_code() -> int:
    """What a process ends with that was asked to stop, as a shell has it: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP."""
    return 128 + (_state.raised or signal.SIGINT)


def ignore_requests() -> None:
    """From here on nothing that asks this process to stop does: for what another process ends, as a loader's worker."""
    for number in _REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def finish() -> None:
    """At the very end of a command that listens: no request that comes now changes its exit code."""
    if _state.listening:
        ignore_requests()


class StopFlag:
    """While active, requests only set ``raised``; a second Ctrl-C, by a person, raises ``Stopped``.

    In a process that does not ``listen`` (a notebook, somebody's program) its handlers are there for that long only.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    @property
    def raised(self) -> signal.Signals | None:
        """The request that came first, or None."""
        return _state.raised

    def __enter__(self) -> "StopFlag":
        _state.flags += 1
        if not _state.listening and _state.flags == 1:
            _state.raised = _state.interrupted = None
            for number in _REQUESTS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                try:
                    self._before[number] = signal.signal(number, _on)
                except ValueError:  # not the main thread, e.g. in a notebook's worker: the caller's handlers stay
                    break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _state.flags -= 1
        for number, handler in self._before.items():
            # None: set by something that is not Python, and not to be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _on(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.raised is not None:
        impatient = _state.interrupted is not None and now - _state.interrupted > _HUMAN_SECONDS
        if number == signal.SIGINT and impatient:
            _state.raised = signal.SIGINT
            _end_within_grace()
            raise Stopped
        if number == signal.SIGINT and _state.interrupted is None:
            _state.interrupted = now
        return
    _state.raised = signal.Signals(number)
    _state.interrupted = now if number == signal.SIGINT else None
    if _state.importing:
        _wipe()
        if _is_first():
            with suppress(OSError):
                os.write(2, f"stopped by {_state.raised.name} before anything began\n".encode())
        os._exit(exit_code())
    if not _state.flags:
        _end_within_grace()
        raise Stopped


def _on_parents_death(number: int, frame: FrameType | None) -> None:
    if os.getppid() != _state.parent:
        _on(signal.SIGTERM, frame)


def _end_within_grace() -> None:
    timer = threading.Timer(_GRACE_SECONDS, os._exit, [exit_code()])
    timer.daemon = True
    timer.start()


def _greet() -> None:
    """Say on a terminal that something happens: the imports take seconds. A log has no use for it."""
    if _is_first() and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        with suppress(OSError):
            os.write(2, b"loading torch and what goes with it ...")
            _state.greeted = True


def _wipe() -> None:
    if _state.greeted:
        _state.greeted = False
        with suppress(OSError):
            os.write(2, b"\r\x1b[K")


def _is_first() -> bool:
    names = ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def _is_launched() -> bool:
    """Whether ``accelerate launch`` or torchrun started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def _is_orphan(parent: int) -> bool:
    """Whether the process ``parent``, which adopts orphans, is no launcher: in a container a launcher itself may be process 1."""
    if parent != 1:
        return False
    try:
        words = Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False
    return not any(word in words for word in (b"accelerate", b"torchrun", b"torch.distributed", b"torch/distributed"))
