"""Pretrain an encoder, then score it: ``accelerate launch scripts/pretrain.py [PRESET | FILE.yaml] [--overrides]``.

    accelerate launch scripts/pretrain.py
    accelerate launch scripts/pretrain.py folder --data.path DIR --name birds
    accelerate launch scripts/pretrain.py folder --data.path DIR --dry-run
    accelerate launch scripts/pretrain.py cifar10 objective:triplet --train.epochs 20

The same command run again continues where it was stopped. Everything goes to runs/NAME. --dry-run shows what would be trained on
what, its memory and its time, and writes nothing.
"""

import sys

from simclr.stopping import exit_code, listen, request

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

import linear_eval
import simclr
from linear_eval.sharing import shared
from simclr.announced import announce
from simclr.command_line import parse_command, run_command, without_dry_run
from simclr.commands import command
from simclr.config.presets import describe_presets
from simclr.names import printable
from simclr.progress import terminal
from simclr.streams import in_lines


def main(arguments: list[str]) -> int:
    words, dry = without_dry_run(arguments)
    config = parse_command(words, "pretrain.py", f"{__doc__}\n{describe_presets()}")
    if dry:
        from simclr.dry_run import dry_run

        for line in dry_run(config):
            print(in_lines(printable(line), terminal(), indent=13))
        return 0
    announce(config)
    result = simclr.pretrain(config)  # loaded here: help and mistakes wait for no trainer
    if config.profile:
        return 0
    if not result.finished:
        if result.main:
            print(f"stopped at step {result.steps}; the same command continues there", file=sys.stderr)
        return exit_code()
    if result.main:
        uses = f"{', '.join(map(command, ('evaluate', 'finetune', 'embed', 'export')))} and simclr.load_encoder"
        print(printable(f"{result.encoder}: the encoder, for {uses}"))
    if request() is not None:
        return exit_code()
    return score(config, result)


@shared
def score(config: simclr.TrainConfig, result: "simclr.RunResult") -> int:
    run = result.run_dir
    if config.train.evaluate and result.scorable:
        evaluate = linear_eval.evaluate_one_shot if config.data.keeps_classes_apart else linear_eval.evaluate_run
        evaluate(run)
    elif not result.scorable:
        name = printable(str(run))
        print(f"no classes, so no score: {command('evaluate')} {name} --data.labels FILE.csv once there are some")
        print(f"which images are alike? {command('neighbors')} {name} --query IMAGE")
    if config.train.evaluate:
        from linear_eval.page.write import write_page_at_end

        write_page_at_end(run)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
