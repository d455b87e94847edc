"""Look through a folder of images: ``python scripts/check_data.py [FILE.yaml] --data.path DIR [--json FILE] [--data.*]``.

    python scripts/check_data.py --data.path DIR
    python scripts/check_data.py --data.path DIR --json report.csv

Names the files that do not decode, those that are there twice, as they are or nearly, in training and test above all, and the
images that are constant, use few levels or are very long; and says how many images, classes, sizes and formats there are.
``--json FILE`` writes all of it, every file by name, as a table where FILE ends in .csv; ``--json -`` prints it in place of the
words. The words of a run's own command are taken as well. The exit code is 1
where something makes a run or a score wrong (a file does not decode, copies are in several classes, or in training and test,
exactly or nearly), else 0; 2 means that nothing could be looked through.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from simclr.command_line import parse_command, parse_flags, run_command
from simclr.config import DataConfig
from simclr.config.presets import preset
from simclr.data.check import check_folder
from simclr.data.check_table import write_table
from simclr.errors import ConfigError
from simclr.files import write_json
from simclr.flags import HELP
from simclr.paths import given_path


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What this command uses of a run's words; the others are read and looked past."""

    json: Path | None = None
    """Write all that was found, every file by name: JSON, a table where it ends in .csv, or - to print it."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which images."""


def main(arguments: list[str]) -> int:
    if asked := [word for word in arguments if word in HELP]:
        parse_flags(CheckOptions, asked[-1:], "check_data.py", __doc__ or "", CheckOptions(data=preset("folder").data))
    words, file = without_json(arguments)
    config = parse_command(words, "check_data.py", __doc__ or "", default="folder")
    report = check_folder(config.data)
    if file == "-":
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print("\n".join([*report.lines(), "", *report.table()]))
    if file.lower().endswith(".csv"):
        write_table(Path(given_path(file, "--json")), report)
    elif file not in ("", "-"):
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
