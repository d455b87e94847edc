"""Where the processes of a run meet before they train: all there, of one mind, and none lost without a word.

They meet at the address that their launcher names (MASTER_ADDR, MASTER_PORT), in the store that torch.distributed builds its
groups with.
"""

import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from simclr.errors import ConfigError, LaunchError, LostProcessError, PipelineError
from simclr.processes.launch import take_launch
from simclr.processes.watch import Mate, Watch
from simclr.stopping import finish

__all__ = ["agree", "code_digest", "on_cpu", "process_group", "together"]

PATIENCE = 300.0
"""Seconds in which all processes have to be there: machines of a cluster start minutes apart."""

_SILENT = 20.0
"""Seconds after which it is said who is waited for."""

_LONG = timedelta(minutes=45)
"""For what may take long in one process while others wait, as reading from a disk that hangs (half an hour until that is
said). That a process died is found in another way, and sooner."""


@dataclass
class _Meeting:
    rank: int
    mates: list[Mate]
    store: dist.Store
    watch: Watch
    groups: int = 0
    questions: int = 0

    @property
    def until_known(self) -> float:
        """Seconds until it is known which process fell: on the own machine it shows at once."""
        return 12.0 if all(mate.host == self.mates[0].host for mate in self.mates) else 50.0

    def ask(self, own: dict[str, str], judge: Callable[[list[dict[str, str]]], str]) -> None:
        """Raise ConfigError in all processes with what ``judge`` says of all their answers, if it says anything."""
        self.questions += 1
        store = dist.PrefixStore(f"question {self.questions}", self.store)
        store.set(str(self.rank), json.dumps(own))
        if self.rank == 0:
            keys = [str(mate.rank) for mate in self.mates]
            store.wait(keys, _LONG)
            store.set("verdict", judge([json.loads(text) for text in store.multi_get(keys)]))
        store.wait(["verdict"], _LONG)
        if words := store.get("verdict").decode():
            raise ConfigError(words)


class _State:
    """Of this process: it takes part in one meeting at a time."""

    meeting: _Meeting | None = None
    meetings = 0


_state = _State()


@contextmanager
def together() -> Iterator[None]:
    """Meet the other processes that a launcher started, until the end of the block; alone, or inside another, nothing is done.

    Inside, a process that falls brings down all of them within a minute, and one of them says which it was. What the block
    raises is marked (``PipelineError.said``) where another process says it.

    Raises:
        ConfigError: the launcher's variables contradict each other.
        LaunchError: the processes do not meet: some did not come in five minutes, or the address is wrong.
        LostProcessError: another process fell.
    """
    take_launch()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or _state.meeting is not None or dist.is_initialized():
        yield
        return
    _state.meeting = meeting = _meet(int(os.environ["RANK"]), world)
    try:
        yield
        meeting.watch.leave()
    except BaseException as error:
        finish()  # a launcher asks to stop as soon as it sees the other's end
        if (of_fall := _is_of_a_fall(error)) or isinstance(error, KeyboardInterrupt):
            words = meeting.watch.fallen(meeting.until_known if of_fall else 0.0)
            if words is not None:
                raise LostProcessError(words, said=not words) from error
            if of_fall and re.search(r"(closed|reset) by peer|remote process exited", str(error)):
                words = f"the connection to another process broke ({_first(error)}), and none is known to have ended"
                raise LostProcessError(words) from error
        says = meeting.watch.report(str(error) or type(error).__name__)
        if isinstance(error, PipelineError):
            error.said = not says
        raise
    finally:
        _state.meeting = None


def _is_of_a_fall(error: BaseException) -> bool:
    """Whether a collective failed, as it does where another process is gone."""
    signs = (
        r"(closed|reset) by peer|remote process exited|gloo|NCCL|Broken pipe|Timed out|Connection (refused|reset)|store"
    )
    return isinstance(error, RuntimeError) and re.search(signs, str(error), re.IGNORECASE) is not None


def process_group() -> None:
    """Make torch's default group of the processes that met: gloo on CPUs, NCCL on GPUs; alone, none is made.

    Raises:
        LaunchError: they meet, but cannot connect to each other; or more of them than GPUs.
    """
    meeting = _state.meeting
    if meeting is None or dist.is_initialized():
        return
    cpu = on_cpu()
    if not cpu and not torch.cuda.is_available():
        return  # an accelerator that accelerate knows
    if not cpu:
        _refuse_shared_gpus(meeting)
    meeting.groups += 1
    store = dist.PrefixStore(f"group {meeting.groups}", meeting.store)
    backend = "gloo" if cpu else "cuda:nccl,cpu:gloo"
    try:
        dist.init_process_group(backend, store=store, rank=meeting.rank, world_size=len(meeting.mates), timeout=_LONG)
    except RuntimeError as error:
        raise LaunchError(
            f"{meeting.mates[meeting.rank]} met the others and cannot connect to them ({_first(error)}): where a machine "
            "has several networks, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the one that all of them share"
        ) from error


def on_cpu() -> bool:
    """Whether several processes train on CPUs: there is no GPU that processes could share, or none is wanted."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "y", "t", "on")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return asked or found is None or found.type == "mps"


def agree(facts: Mapping[str, object], mend: str) -> None:
    """Refuse what differs among the processes, by name; alone, nothing is done. All of them must call it.

    Args:
        facts: a name in words, and what it is in this process.
        mend: what to do where one of them differs.

    Raises:
        ConfigError: in every process alike.
    """
    meeting = _state.meeting
    if meeting is not None:
        meeting.ask({name: str(value) for name, value in facts.items()}, partial(_differ, meeting.mates, mend))


def _meet(rank: int, world: int) -> _Meeting:
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise ConfigError(f"MASTER_PORT={port!r} is no port; expected a number below 65536 that all processes have")
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true"
    deadline = time.monotonic() + PATIENCE
    serves = rank == 0 and not agents
    if not serves:
        _reach(host, int(port), rank, world, deadline)
    try:
        base = _store(host, int(port), serves)
    except RuntimeError as error:  # DistNetworkError, DistStoreError
        what = _first(error)
        help = "another job has it, most likely: set another MASTER_PORT (torchrun --master-port, accelerate's main_process_port)"
        raise LaunchError(f"process 0 cannot open port {port} for the others ({what}); {help}") from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    _state.meetings += 1
    name = f"simclr {attempt} {_state.meetings}"
    store = dist.PrefixStore(name, base)
    own = Mate.this(rank)
    store.set(f"here {rank}", json.dumps(asdict(own)))
    _await_all(store, rank, world, host, port, deadline)
    mates = [Mate(**json.loads(text)) for text in store.multi_get([f"here {other}" for other in range(world)])]
    watch = Watch(rank, mates, lambda: dist.PrefixStore(name, _store(host, int(port), False)), not agents)
    return _Meeting(rank, mates, store, watch)


def _store(host: str, port: int, serves: bool) -> dist.TCPStore:
    return dist.TCPStore(
        host, port, None, serves, timeout=timedelta(seconds=60), wait_for_workers=False, multi_tenant=serves
    )


def _reach(host: str, port: int, rank: int, world: int, deadline: float) -> None:
    """Wait until something answers there; torch's own words for a name that is unknown are a page long."""
    told, began = False, time.monotonic()
    while True:
        try:
            with socket.create_connection((host, port), timeout=10):
                return
        except OSError as error:
            unknown = isinstance(error, socket.gaierror)
            why = (
                f"no machine of the name {host} is known here"
                if unknown
                else f"nobody answers ({error.strerror or error})"
            )
        where = f"MASTER_ADDR={host} MASTER_PORT={port}"
        if time.monotonic() > deadline:
            raise LaunchError(
                f"process {rank} of {world} on {socket.gethostname()} found no process 0 at {where} within "
                f"{PATIENCE / 60:.0f} minutes: {why}. Is it running, is that its machine, and may other machines reach that port?"
            )
        if not told and time.monotonic() - began > _SILENT and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"process {rank} of {world} waits for process 0 at {where}: {why}", file=sys.stderr)
            told = True
        time.sleep(0.2)


def _await_all(store: dist.Store, rank: int, world: int, host: str, port: str, deadline: float) -> None:
    keys = [f"here {other}" for other in range(world)]
    told, began = False, time.monotonic()
    while True:
        if store.check(keys if rank == 0 else ["all here"]):
            store.set("all here", "")
            return
        late = time.monotonic() - began > _SILENT or time.monotonic() > deadline
        missing = [other for other, key in enumerate(keys) if not store.check([key])] if late and not told else []
        named = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{world - len(missing)} of {world} processes met at {host} port {port} within {PATIENCE / 60:.0f} minutes"
                f"{f', without number {named}' if missing else ''}: each must be started with WORLD_SIZE={world}, a RANK of its "
                "own, and the same MASTER_ADDR and MASTER_PORT, as a launcher does"
            )
        if rank == 0 and missing and not told:
            print(f"waiting at {host} port {port} for process {named} of {world}", file=sys.stderr)
            told = True
        time.sleep(0.02 if time.monotonic() - began < 2 else 0.5)


def _differ(mates: list[Mate], mend: str, found: list[dict[str, str]]) -> str:
    """Which process differs in what from the first, in a sentence; "" where none does."""
    for mate, facts in zip(mates[1:], found[1:], strict=True):
        names = [name for name in {**found[0], **facts} if facts.get(name) != found[0].get(name)]
        if names:
            each = [f"{name} {_short(facts.get(name))} and not {_short(found[0].get(name))}" for name in names[:3]]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"{mate} has {', '.join(each)}{more}, as {mates[0]} has; {mend}"
    return ""


def _refuse_shared_gpus(meeting: _Meeting) -> None:
    count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = str(torch.cuda.get_device_properties(local % count).uuid)

    def judge(found: list[dict[str, str]]) -> str:
        first: dict[str, Mate] = {}
        for mate, facts in zip(meeting.mates, found, strict=True):
            other = first.setdefault(facts["gpu"], mate)
            if other is not mate:
                return (
                    f"{mate} is on the GPU of {other}, by its LOCAL_RANK of {facts['local']}: start as many processes on a "
                    f"machine as it has GPUs, here {facts['count']} (torchrun --nproc_per_node, accelerate's --num_processes)"
                )
        return ""

    meeting.ask({"gpu": gpu, "local": str(local), "count": str(count)}, judge)


def _short(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) <= 60 else f"{text[:57]}..."


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def code_digest() -> str:
    """Of the packages' own source, which must be the same on all machines."""
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for package in ("augment", "simclr"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]
