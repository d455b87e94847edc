"""Kill one run after another until it has finished, and count: run as a program by ``test_many_kills.py``.

The command is imported once and forked for every try, so that a try costs what training costs. A kill is a real SIGKILL.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, words: list[str]) -> int:
    """The command on ``words`` in a forked child that has ``folder`` for its own; its process number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(folder)
    descriptor = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["pretrain.py", *words]
    code = 70
    try:
        code = run_command(script.main, keep_memory=False)
    finally:
        sys.stdout.flush()
        os._exit(code)


def is_writing(folder: Path) -> bool:
    return any((folder / "runs" / "run" / "checkpoints").glob(".partial-*"))


def run_and_kill(folder: Path, words: list[str], draw: random.Random, aim: bool) -> tuple[bool, bool]:
    """(killed, in the middle of a checkpoint) of one try; not killed means finished."""
    child, began = start(folder, words), time.monotonic()
    wait = draw.uniform(0.05, 2.5) if not aim else draw.uniform(0.0, 1.0)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError((folder / "log").read_text()[-3000:])
            return False, False
        late = time.monotonic() - began > wait
        if late and (not aim or is_writing(folder)):
            time.sleep(draw.uniform(0, 0.004) if aim else 0)
            os.killpg(child, signal.SIGSTOP)  # so that what is looked at is what is killed
            writing = is_writing(folder)
            os.kill(child, signal.SIGKILL)
            os.killpg(child, signal.SIGCONT)
            os.waitpid(child, 0)
            return True, writing
        time.sleep(0.0003)


def main() -> None:
    out, kills, seed, *words = sys.argv[1:]
    draw, counted = random.Random(int(seed)), {"kills": 0, "in a write": 0, "runs": 0, "same bits": 0}
    undisturbed = Path(out) / "undisturbed"
    undisturbed.mkdir()
    _, status = os.waitpid(start(undisturbed, words), 0)
    assert status == 0, (undisturbed / "log").read_text()
    wanted = (undisturbed / "runs/run/encoder/encoder.safetensors").read_bytes()
    while counted["kills"] < int(kills):
        folder = Path(out) / f"run{counted['runs']}"
        folder.mkdir()
        finished, tries = False, 0
        while not finished:
            tries += 1
            if tries > 8:  # enough of this one
                _, status = os.waitpid(start(folder, words), 0)
                assert status == 0, (folder / "log").read_text()
                break
            killed, writing = run_and_kill(folder, words, draw, aim=draw.random() < 0.7)
            counted["kills"] += killed
            counted["in a write"] += writing
            finished = not killed
        counted["runs"] += 1
        counted["same bits"] += (folder / "runs/run/encoder/encoder.safetensors").read_bytes() == wanted
        left = [path.name for path in (folder / "runs" / "run").rglob(".*partial*")]
        assert not left, left
    print(json.dumps(counted))


if __name__ == "__main__":
    from simclr.command_line import run_command

    spec = importlib.util.spec_from_file_location("script_pretrain", ROOT / "scripts" / "pretrain.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    import simclr.train  # noqa: F401 - before the forks

    main()
