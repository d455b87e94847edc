"""Score an encoder on labelled images: ``python scripts/evaluate.py RUN [--protocol open-set | one-shot] [--data.*] [--eval.*]``.

    python scripts/evaluate.py runs/birds
    python scripts/evaluate.py runs/birds --protocol open-set
    python scripts/evaluate.py runs/birds --beside resnet50.a1_in1k
    python scripts/evaluate.py runs/birds --data.source folder --data.path OTHER

RUN is a run directory, an encoder folder, a run that has not finished (--checkpoint newest), a file of weights of others,
or the name of a timm model with published weights; --beside takes more of them, as further rows. The encoder, the same
encoder untrained and raw pixels go through the same scores. --protocol closed: a linear classifier, nearest neighbours, few
labels. --protocol open-set: retrieval, verification, identification and one-shot on classes that were not trained on.
--protocol one-shot: such classes by one or five images of each, in random episodes and, with --runs, in Lake's trials.
--save-probe keeps the linear classifier for scripts/predict.py. Images other than the run's: --data.source and --data.path.
Several processes (torchrun) share the images.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.asked import fed_as_asked, images_to_start_from
from linear_eval.config import EvaluationOptions
from linear_eval.evaluate import evaluate_run
from linear_eval.evaluate_few_shot import evaluate_one_shot
from linear_eval.evaluate_open import evaluate_open_set
from linear_eval.scored_run import ScoredRun
from linear_eval.sharing import shared
from simclr.command_line import parse_flags, run_and_flags, run_command


@shared
def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    given, words = run_and_flags(arguments, "evaluate.py", about, "score", EvaluationOptions())
    run = ScoredRun.at(given)
    default = EvaluationOptions(data=images_to_start_from(run, words), eval=run.default_protocol())
    options = parse_flags(EvaluationOptions, words, "evaluate.py RUN", about, default=default)
    run, said = fed_as_asked(run.but(out=options.out), words, options.data)
    print("".join(f"{line}\n" for line in said), end="", file=sys.stderr)
    more = {"tensorboard": options.tensorboard, "beside": options.beside}
    if options.protocol == "open-set":
        evaluate_open_set(run, options.data, options.eval, **more)
    elif options.protocol == "one-shot":
        evaluate_one_shot(run, options.data, options.eval, runs=options.runs, **more)
    else:
        evaluate_run(run, options.data, options.eval, save_probe=options.save_probe, **more)
    if run.config is not None:
        from linear_eval.page.write import write_page_at_end

        write_page_at_end(run.run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
