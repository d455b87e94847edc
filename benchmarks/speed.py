"""Every speed benchmark in one command: ``python benchmarks/speed.py --out OUT [--quick]``.

Augmentation, NT-Xent, mining, a whole step, LARS and the probe's sweep, on the GPU where there is one. Each in a process of
its own, one after the other; what it prints goes to OUT/NAME.log as it comes. One that fails is named at the end, and the
others are measured all the same. Made for a machine that is lent for minutes: the ones that matter most come first.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent


def commands(cuda: bool, quick: bool) -> dict[str, list[str]]:
    """Name of the log -> the benchmark's words."""
    words = {
        "step": ["step.py", *(["--encoder", "resnet18", "--batch", "512"] if cuda else [])],
        "views": ["views.py", *(["--compile"] if cuda else [])],
        "loss": ["loss.py"],
        "optim": ["optim.py"],
        "mining": ["mining.py"],
        "probe": ["probe.py", *(["--device", "cuda"] if cuda else [])],
    }
    return {name: [*line, *(["--quick"] if quick else [])] for name, line in words.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required="--quick" not in sys.argv, help="folder of the logs")
    parser.add_argument("--only", nargs="+", choices=commands(False, False), help="these, and no others")
    parser.add_argument("--minutes", type=float, default=60.0, help="what has not begun by then is left out")
    parser.add_argument("--quick", action="store_true", help="do they run at all? Without --out nothing is kept")
    options = parser.parse_args()
    if options.out is None:
        with tempfile.TemporaryDirectory() as folder:
            options.out = Path(folder)
            return measure(options)
    return measure(options)


def measure(options: argparse.Namespace) -> int:
    """Run the benchmarks one after the other; 1 where one was not measured to the end."""
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    missing = []
    for name, words in commands(torch.cuda.is_available(), options.quick).items():
        if options.only and name not in options.only:
            continue
        left = ends - time.monotonic()
        log = options.out / f"{name}.log"
        print(f"\n## {name}: python benchmarks/{' '.join(words)}", flush=True)
        code: int | str = "no time left"
        if left > 0:
            with log.open("w") as file:
                try:
                    command = [sys.executable, str(FOLDER / words[0]), *words[1:]]
                    code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=left).returncode
                except subprocess.TimeoutExpired:
                    code = "no time left"
            print(log.read_text(), flush=True)
        if code != 0:
            missing.append(f"{name} ({code})")
    if missing:
        print(f"not measured to the end: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
