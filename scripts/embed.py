"""Features of images, for search, clustering or a classifier of your own: ``python scripts/embed.py RUN --out FILE``.

    python scripts/embed.py runs/birds --out birds.parquet
    python scripts/embed.py runs/birds --query wren.jpg
    python scripts/embed.py runs/birds --out birds.npz --data.source folder --data.path DIR

RUN is a run directory, an encoder folder, a run that has not finished (--checkpoint newest), a file of weights of others,
or the name of a timm model. FILE ends in .npz or .parquet, which is a folder of parts where several processes (torchrun) share
the images; a name without an ending is a folder that may be larger than memory. --query IMG prints the images nearest to IMG.
Images other than the run's: --data.source folder --data.path DIR.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.asked import fed_as_asked, images_to_start_from
from linear_eval.embed import EmbedOptions, embed_run
from linear_eval.scored_run import ScoredRun
from linear_eval.sharing import shared
from simclr.command_line import parse_flags, run_and_flags, run_command


@shared
def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    given, words = run_and_flags(arguments, "embed.py", about, "embed with", EmbedOptions())
    run = ScoredRun.at(given)
    default = EmbedOptions(data=images_to_start_from(run, words, needs_labels=False))
    options = parse_flags(EmbedOptions, words, "embed.py RUN", about, default=default)
    run, said = fed_as_asked(run, words, options.data)
    print("".join(f"{line}\n" for line in said), end="", file=sys.stderr)
    print("\n".join(embed_run(run, options).lines()))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
