"""Compare a step by all processes with one of one: ``accelerate launch scripts/selftest.py [PRESET | FILE.yaml] [--overrides]``.

    accelerate launch scripts/selftest.py
    torchrun --nproc_per_node 2 scripts/selftest.py cifar10 --train.batch-size 1024

Give it the words of the run that is to be trained, behind the launcher that will train it. It takes one step of that run twice,
by all processes and by one, and prints what is the same and how fast wire and images are. Nothing is written. The exit code is 1
where processes do not train as one would, else 0; 2 means that the run itself would be refused.
"""

import os
import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from simclr.command_line import parse_command, run_command
from simclr.progress import terminal
from simclr.streams import in_lines

MARKS = {True: "ok", False: "WRONG", None: ""}


def main(arguments: list[str]) -> int:
    config = parse_command(arguments, "selftest.py", __doc__ or "")
    from simclr.selftest import selftest  # here: help and mistakes wait for no trainer

    findings = selftest(config)
    if os.environ.get("RANK", "0") == "0":
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            line = f"{MARKS[finding.right]:5}  {finding.name:{width}}  {finding.words}"
            print(in_lines(line, terminal(), indent=9 + width))
    return 1 if any(finding.right is False for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
