"""Take a skipped step again: ``python scripts/replay.py runs/NAME/skipped/step-XXXXXXXX``.

Says which module's output or gradient was the first that is not finite, which images it concerns, and the largest
activations. Training prints this command for a step that it skips. Nothing is written.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from simclr.command_line import run_command
from simclr.errors import ConfigError
from simclr.flags import HELP
from simclr.names import printable
from simclr.paths import given_path


def main(arguments: list[str]) -> int:
    if any(word in HELP for word in arguments):
        print(__doc__)
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise ConfigError("replay.py takes one word: the folder of a skipped step, runs/NAME/skipped/step-XXXXXXXX")
    from simclr.replay import replay  # here: help and mistakes wait for no trainer

    for line in replay(given_path(arguments[0], "the skipped step")):
        print(printable(line))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
