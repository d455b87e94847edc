"""Lay runs side by side: ``python scripts/report.py RUN [RUN ...] [--out FILE.html | FILE.md]``.

From what they wrote already: their scores beside untrained encoders and raw pixels, the mean over seeds of the same config,
what they cost, and what differs in their configs. Prints Markdown; FILE has the same tables, and the curves and scores as
pictures.
"""

import sys

from linear_eval.comparison import compare_runs, parse_report
from simclr.commands import run_command


def main(arguments: list[str]) -> int:
    runs, options = parse_report(arguments, "report.py", __doc__ or "")
    print(compare_runs(runs, options))
    if options.out is not None:
        print(options.out, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
