"""Features of images, for search, clustering or a classifier of your own: ``python scripts/embed.py RUN --out FILE``.

RUN is a run directory, an encoder folder, or a file in it. FILE ends in .npz or .parquet; a name without an ending is a
folder that may be larger than memory. --query IMG prints the images nearest to IMG. Images other than the run's:
--data.source folder --data.path DIR.
"""

import sys

from rich.console import Console
from rich.progress import Progress

from linear_eval.embed_run import embed_run, parse_embedding
from simclr.commands import run_command


def main(arguments: list[str]) -> int:
    run, options = parse_embedding(arguments, "embed.py", __doc__ or "")
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("embedding", total=None)
        found = embed_run(run, options, lambda done, total: bar.update(task, completed=done, total=total))
    print("\n".join(found.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
