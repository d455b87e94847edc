"""Lay runs side by side: ``python scripts/report.py RUN [RUN ...] [--out FILE.html | FILE.md]``.

From what they wrote already: their scores beside untrained encoders and raw pixels, the mean over seeds of the same config,
what they cost, and what differs in their configs. Prints Markdown; FILE has the same tables, and the curves and scores as
pictures.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.comparison.tables import ReportOptions, compare_runs
from simclr.command_line import parse_flags, run_command
from simclr.errors import ConfigError
from simclr.flags import HELP
from simclr.names import printable
from simclr.paths import given_path


def main(arguments: list[str]) -> int:
    about, words = __doc__ or "", arguments or ["--help"]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if count == 0 and words[0] not in HELP:
        raise ConfigError(f"the first word is {words[0]}; expected the runs to compare, e.g. report.py runs/a runs/b")
    usage = "report.py RUN [RUN ...]" if count == 0 else "report.py RUN"
    options = parse_flags(ReportOptions, words[count:], usage, about, default=ReportOptions())
    print(compare_runs([given_path(word, "a run") for word in words[:count]], options))
    if options.out is not None:
        print(printable(str(options.out)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
