"""Look through a folder of images: ``python scripts/check_data.py [FILE.yaml] --data.path DIR [--data.*]``.

Names the files that do not decode, those that are there twice, as they are or nearly, in training and test above all, and the
images that are constant, use few levels or are very long; and says how many images, classes, sizes and formats there are. The
exit code is 1 where a file does not decode.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from rich.progress import Progress

from simclr.command_line import parse_command, run_command
from simclr.data.check import check_folder


def main(arguments: list[str]) -> int:
    config = parse_command(arguments, "check_data.py", __doc__ or "", default="folder")
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("reading", total=None)
        report = check_folder(config.data, lambda done, total: bar.update(task, completed=done, total=total))
    print("\n".join(report.lines()))
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
