"""Real full disks: a command on a tmpfs of one size after another, then with room; run as a program by ``test_tmpfs.py``.

The commands are imported once and forked for every try. What is printed last is counted for all sizes.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
ROOMY = "size=64m,nr_inodes=10000"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: str, log: Path, words: list[str]) -> tuple[int, str]:
    """Exit code of a command in a forked child, and what it said."""
    child = os.fork()
    if not child:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(log.parent / "disk")
        sys.argv = [f"{command}.py", *words]
        code = 70
        try:
            code = run_command(scripts[command].main, keep_memory=False)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def main() -> None:
    scratch, kind, *words = sys.argv[1:]
    disk, log = Path(scratch) / "disk", Path(scratch) / "log"
    disk.mkdir()
    plain = Path(scratch) / "plain"
    code, said = run("pretrain", log, [*words, "--out", str(plain)])
    assert code == 0, said
    wanted = (plain / "run/encoder/encoder.safetensors").read_bytes()
    space = sum(file.stat().st_size for file in plain.rglob("*") if file.is_file())
    files = sum(1 for _ in plain.rglob("*"))
    if kind == "bytes":
        sizes = [f"size={max(8, int(1.6 * space * part / 30 / 1024))}k,nr_inodes=10000" for part in range(1, 31)]
    else:
        sizes = [f"size=64m,nr_inodes={2 + (files + 12) * part // 23}" for part in range(1, 24)]
    counted = {"disks": 0, "refused somewhere": 0, "tracebacks": 0, "same bits": 0}
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=True)
        try:
            counted["disks"] += 1
            refused = False
            run_words = [*words, "--out", str(disk)]
            steps = [
                ("pretrain", run_words),
                ("evaluate", [str(disk / "run")]),
                ("export", [str(disk / "run"), "--out", str(disk / "exported")]),
                ("preview", words),  # to the folder where it is called
            ]
            for command, its in steps:
                code, said = run(command, log, its)
                refused |= code != 0
                if "Traceback" in said:
                    counted["tracebacks"] += 1
                    print(size, command, said[-2500:], file=sys.stderr)
            counted["refused somewhere"] += refused
            subprocess.run(["mount", "-o", f"remount,{ROOMY}", str(disk)], check=True)
            code, said = run("pretrain", log, run_words)
            assert code == 0, (size, said)
            counted["same bits"] += (disk / "run/encoder/encoder.safetensors").read_bytes() == wanted
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print(json.dumps(counted))


if __name__ == "__main__":
    from simclr.command_line import run_command

    scripts = {name: script(name) for name in ("pretrain", "evaluate", "export", "preview")}
    import simclr.train  # noqa: F401 - before the forks
    from simclr.run import saving

    saving.PATIENCE = saving.STOP_PATIENCE = 0.0
    main()
