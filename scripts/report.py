"""What runs came to, as a page for people: ``python scripts/report.py RUN [RUN ...] [--out FILE.html | FILE.md] [--follow]``.

Of one run: the verdict in words, its scores beside an untrained encoder and raw pixels, curves, the images behind every
confusion, neighbours, images that are probably labelled wrong, near-duplicates, and a map that can be searched. Of several:
what differs in their configs, the mean over seeds, paired differences, curves over one another. Of a folder of runs: a table
of where each stands, the best first. One file that needs nothing beside it; --follow serves it while the runs go on.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from functools import partial

from linear_eval.page.options import PageOptions
from simclr.command_line import parse_flags, run_command
from simclr.errors import ConfigError
from simclr.flags import HELP
from simclr.names import printable
from simclr.paths import given_path
from simclr.progress import screen, terminal


def main(arguments: list[str]) -> int:
    about, words = __doc__ or "", arguments or ["--help"]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if count == 0 and words[0] not in HELP:
        raise ConfigError(f"the first word is {words[0]}; expected the runs to compare, e.g. report.py runs/a runs/b")
    usage = "report.py RUN [RUN ...]" if count == 0 else "report.py RUN"
    options = parse_flags(PageOptions, words[count:], usage, about, default=PageOptions())
    folders = list(dict.fromkeys(given_path(word, "a run") for word in words[:count]))
    from linear_eval.page.write import follow, report
    from linear_eval.progress import print_line

    if options.follow:
        follow(folders, partial(print_line, terminal()))
        return 0
    with screen():
        text, page = report(folders, options)
    print(text)
    print(printable(str(page)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
