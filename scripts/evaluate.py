"""Score an encoder on labelled images: ``python scripts/evaluate.py RUN [--protocol open-set] [--data.*] [--eval.*]``.

RUN is a run directory, an encoder folder, or a file in it. The encoder, the same encoder untrained and raw pixels go
through the same scores. --protocol closed: a linear classifier, nearest neighbours, few labels. --protocol open-set:
retrieval, verification, identification and one-shot on classes that were not trained on. Images other than the run's:
--data.source and --data.path.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.config import EvaluationOptions
from linear_eval.evaluate import evaluate_run
from linear_eval.evaluate_open import evaluate_open_set
from linear_eval.scored_run import ScoredRun
from simclr.command_line import own_or_other_data, parse_flags, run_and_flags, run_command
from simclr.config import DataConfig


def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    folder, words = run_and_flags(arguments, "evaluate.py", about, "score", EvaluationOptions())
    run = ScoredRun.at(folder)
    own = own_or_other_data(run.data or DataConfig(), words)
    default = EvaluationOptions(data=own, eval=run.default_protocol())
    options = parse_flags(EvaluationOptions, words, "evaluate.py RUN", about, default=default)
    score = evaluate_open_set if options.protocol == "open-set" else evaluate_run
    score(run, options.data, options.eval, tensorboard=options.tensorboard, beside=options.beside)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
