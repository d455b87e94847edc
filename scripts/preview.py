"""Draw what the encoder will be shown: ``python scripts/preview.py [PRESET | FILE.yaml] [--overrides]``.

    python scripts/preview.py
    python scripts/preview.py folder --data.path DIR --augment.blur 0.5

Writes runs/NAME-preview.png: images of the training set, their views, and the operations that acted on each. Images of them that
are constant or use few levels are named: their values may have been taken for the wrong range.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from simclr.command_line import parse_command, run_command
from simclr.names import printable


def main(arguments: list[str]) -> int:
    config = parse_command(arguments, "preview.py", __doc__ or "")
    from simclr.run.views import write_preview  # here: help and mistakes wait for no trainer

    picture = write_preview(config, say=lambda line: print(printable(line), file=sys.stderr))
    print(printable(str(picture)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
