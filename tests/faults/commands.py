"""scripts/pretrain.py as people start it, and all the processes that come of it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {
    ("python", 1): [sys.executable],
    ("accelerate", 1): [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    ("accelerate", 2): [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0"),
    ],
    ("torchrun", 1): [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"],
    ("torchrun", 2): [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
RESTARTING = {(name, 2): [*words, "--max_restarts", "1"] for (name, count), words in LAUNCHERS.items() if count == 2}
"""Which start all processes once more when one of them fell."""

_EACH = 'export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1; for r in 0 1; do RANK=$r LOCAL_RANK=$r "$@" & done; wait'
BY_HAND = ["bash", "-c", _EACH, "bash", sys.executable]
"""Two processes that nobody supervises, at the port MASTER_PORT."""


def heeding() -> None:
    """Ctrl-C and a closed terminal mean something to this process, where the tests run under nohup or in the background too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Command:
    """scripts/pretrain.py by a launcher, in ``folder``, whose processes are known by a mark in their environment."""

    def __init__(
        self,
        folder: Path,
        launcher: str,
        count: int,
        words: list[str],
        without: tuple[str, ...] = (),
        by: list[str] | None = None,
        more: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        environment = os.environ | {"OMP_NUM_THREADS": "1", "FAULTS_MARK": self.mark}
        if launcher != "python":
            environment |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        environment = {name: value for name, value in environment.items() if name not in without} | (more or {})
        with (folder / f"{self.mark}.log").open("wb") as log:  # the process has its own descriptor of it
            self.process = subprocess.Popen(
                [*(by or LAUNCHERS[launcher, count]), str(ROOT / "scripts" / "pretrain.py"), *words],
                cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True, preexec_fn=heeding,
            )  # fmt: skip

    def said(self) -> str:
        return (self.folder / f"{self.mark}.log").read_text(errors="replace")

    def processes(self) -> list[int]:
        """All that are alive, the launcher and loader workers too, in the order in which they were started."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return sorted(found)

    def training(self) -> list[int]:
        """Those that run the command itself."""
        found = []
        for number in self.processes():
            try:
                words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
                parent = int(Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            script = next((i for i, word in enumerate(words) if word.endswith(b"pretrain.py")), None)
            launches = any(word in (b"accelerate.commands.launch", b"torch.distributed.run") for word in words)
            shell = words[0] == b"bash"
            if (
                script is not None
                and not launches
                and not shell
                and (parent == self.process.pid or number == self.process.pid)
            ):
                found.append(number)
        return found

    def until(self, what: str, seconds: float = 120) -> None:
        """Wait until a file that ``what`` matches holds something."""
        deadline = time.monotonic() + seconds
        while not any(path.stat().st_size for path in self.folder.glob(what)):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def until_it_says(self, words: tuple[str, ...], seconds: float = 120) -> None:
        """Wait until one of the ``words`` is in its output, or it has ended."""
        deadline = time.monotonic() + seconds
        while not any(word in self.said() for word in words) and self.process.poll() is None:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def send(self, number: signal.Signals, to: str) -> None:
        if to == "group":
            os.killpg(self.process.pid, number)
        else:
            goals = {"process": self.training()[:1], "launcher": [self.process.pid], "all": self.processes()}[to]
            for goal in goals:
                os.kill(goal, number)

    def is_gone_in(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None or self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def end(self) -> None:
        for number in self.processes():
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(number, signal.SIGKILL)
        self.process.wait()
