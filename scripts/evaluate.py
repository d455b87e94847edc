"""Score an encoder on labelled images: ``python scripts/evaluate.py RUN [--protocol open-set] [--data.*] [--eval.*]``.

RUN is a run directory, an encoder folder, or a file in it. The encoder, the same encoder untrained and raw pixels go
through the same scores. --protocol closed: a linear classifier, nearest neighbours, few labels. --protocol open-set:
retrieval, verification, identification and one-shot on classes that were not trained on. Images other than the run's:
--data.source and --data.path.
"""

import sys
from pathlib import Path

from linear_eval.evaluate import evaluate_run
from linear_eval.open_set_run import evaluate_open_set
from linear_eval.options import parse_evaluation
from simclr.commands import run_command


def main(arguments: list[str]) -> int:
    run, options = parse_evaluation(arguments, "evaluate.py", __doc__ or "")
    score = evaluate_open_set if options.protocol == "open-set" else evaluate_run
    score(Path(run), options.data, options.eval, tensorboard=options.tensorboard)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
