"""Fine-tune an encoder on labels: ``accelerate launch scripts/finetune.py --encoder.init RUN_OR_FILE [--overrides]``.

    accelerate launch scripts/finetune.py --encoder.init runs/birds
    accelerate launch scripts/finetune.py --encoder.init runs/birds --data.label-fraction 0.01
    accelerate launch scripts/finetune.py --encoder.init resnet50.a1_in1k --data.source folder --data.path DIR

RUN_OR_FILE is a run, an encoder folder, a checkpoint file of timm, torchvision, lightly or solo-learn, or a timm model's
name. The same network from random weights and a linear probe of the encoder as it was are scored beside it; the test
images are scored once. --dry-run shows what it would take, and writes nothing. The same command run again continues where
it was stopped.
"""

import sys

from simclr.stopping import exit_code, listen, request

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

import simclr
from linear_eval.sharing import shared
from simclr.announced import announce
from simclr.command_line import run_command, without_dry_run
from simclr.finetune import from_scratch, parse_finetuning
from simclr.names import printable
from simclr.progress import terminal
from simclr.streams import in_lines


def main(arguments: list[str]) -> int:
    words, dry = without_dry_run(arguments)
    config = parse_finetuning(words, "finetune.py", __doc__ or "")
    if dry:
        from simclr.dry_run import dry_run

        for line in dry_run(config):
            print(in_lines(printable(line), terminal(), indent=13))
        return 0
    with_scratch = config.train.evaluate and config.train.scratch
    for one in [config, from_scratch(config)] if with_scratch else [config]:
        announce(one)
        result = simclr.pretrain(one)  # loaded here: help and mistakes wait for no trainer
        if one.profile:
            return 0
        if not result.finished and result.main:
            print(f"stopped at step {result.steps}; the same command continues there", file=sys.stderr)
        if not result.finished or request() is not None:
            return exit_code()
    return score(config) if config.train.evaluate else 0


@shared
def score(config: simclr.TrainConfig) -> int:
    from linear_eval.finetuned import evaluate_finetuned
    from linear_eval.page.write import write_page_at_end

    evaluate_finetuned(config)
    write_page_at_end(config.run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
