"""Draw what the encoder will be shown: ``python scripts/preview.py [PRESET | FILE.yaml] [--overrides]``.

Writes NAME-preview.png: images of the training set, their views, and the operations that acted on each.
"""

import sys

from simclr.command_line import parse_command, run_command
from simclr.run.pictures import write_preview


def main(arguments: list[str]) -> int:
    config = parse_command(arguments, "preview.py", __doc__ or "")
    print(write_preview(config))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
