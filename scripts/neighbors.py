"""Look for alike images: ``python scripts/neighbors.py RUN [--query IMG [IMG ...]] [--copies] [--surprising]``.

--query IMG prints the images of the set nearest to each IMG, and draws them. --copies names groups of near-duplicates,
--surprising images that are likely mislabelled. With none of these a sample of the set is drawn, each image with its nearest.
Contact sheets and tables of all that was found go to RUN/neighbors. RUN is what scripts/evaluate.py takes; features that a score
or an earlier look kept are not taken again. Images other than the run's: --data.source folder --data.path DIR.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.asked import fed_as_asked, images_to_start_from
from linear_eval.neighbors import NeighborsOptions, find_alike
from linear_eval.scored_run import ScoredRun
from linear_eval.sharing import shared
from simclr.command_line import parse_flags, run_and_flags, run_command
from simclr.names import printable
from simclr.progress import screen


@shared
def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    given, words = run_and_flags(arguments, "neighbors.py", about, "look with", NeighborsOptions())
    run = ScoredRun.at(given)
    default = NeighborsOptions(data=images_to_start_from(run, words, needs_labels=False))
    options = parse_flags(NeighborsOptions, words, "neighbors.py RUN", about, default=default)
    run, said = fed_as_asked(run, words, options.data)
    print("".join(f"{line}\n" for line in said), end="", file=sys.stderr)
    with screen():
        for line in find_alike(run, options):
            print(printable(line))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
