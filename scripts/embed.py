"""Features of images, for search, clustering or a classifier of your own: ``python scripts/embed.py RUN --out FILE``.

RUN is a run directory, an encoder folder, or a file in it. FILE ends in .npz or .parquet; a name without an ending is a
folder that may be larger than memory. --query IMG prints the images nearest to IMG. Images other than the run's:
--data.source folder --data.path DIR.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from rich.console import Console
from rich.progress import Progress

from linear_eval.embed import EmbedOptions, embed_run
from linear_eval.scored_run import ScoredRun
from simclr.command_line import own_or_other_data, parse_flags, run_and_flags, run_command
from simclr.config import DataConfig


def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    folder, words = run_and_flags(arguments, "embed.py", about, "embed with", EmbedOptions())
    run = ScoredRun.at(folder)
    own = run.data or DataConfig(size=run.description.size)
    default = EmbedOptions(data=own_or_other_data(own, words, needs_labels=False))
    options = parse_flags(EmbedOptions, words, "embed.py RUN", about, default=default)
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("embedding", total=None)
        found = embed_run(run, options, lambda done, total: bar.update(task, completed=done, total=total))
    print("\n".join(found.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
