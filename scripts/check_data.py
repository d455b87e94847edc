"""Look through a folder of images: ``python scripts/check_data.py [FILE.yaml] --data.path DIR [--json FILE] [--data.*]``.

Names the files that do not decode, those that are there twice, as they are or nearly, in training and test above all, and the
images that are constant, use few levels or are very long; and says how many images, classes, sizes and formats there are.
``--json FILE`` writes all of it, every file by name, and ``--json -`` prints that in place of the words. The exit code is 1
where something makes a run or a score wrong (a file does not decode, copies are in several classes, or in training and test,
exactly or nearly), else 0; 2 means that nothing could be looked through.
"""

import json
import sys
from pathlib import Path

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from simclr.command_line import parse_command, run_command
from simclr.data.check import check_folder
from simclr.errors import ConfigError
from simclr.files import write_json
from simclr.paths import given_path


def main(arguments: list[str]) -> int:
    words, file = without_json(arguments)
    config = parse_command(words, "check_data.py", __doc__ or "", default="folder")
    report = check_folder(config.data)
    if file == "-":
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print("\n".join([*report.lines(), "", *report.table()]))
    if file not in ("", "-"):
        write_json(Path(given_path(file, "--json")), report.to_dict())
    return 1 if report.faulty else 0


def without_json(arguments: list[str]) -> tuple[list[str], str]:
    """The words without ``--json FILE``, and FILE, or nothing."""
    words, file = [], ""
    left = iter(arguments)
    for word in left:
        if word == "--json" or word.startswith("--json="):
            file = word[7:] or next(left, "")
            if not file or (file.startswith("-") and file != "-"):
                raise ConfigError("--json needs a file, or - to print: --json report.json")
        else:
            words.append(word)
    return words, file


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
