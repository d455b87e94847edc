"""Pretrain an encoder, then score it: ``accelerate launch scripts/pretrain.py [PRESET | FILE.yaml] [--overrides]``."""

import sys

from simclr.commands import run_command
from linear_eval.evaluate import evaluate_run
from simclr import pretrain
from simclr.config_io import parse_command
from simclr.presets import describe_presets
from simclr.signals import die_with_parent


def main(arguments: list[str]) -> int:
    config = parse_command(arguments, "pretrain.py", f"{__doc__}\n\n{describe_presets()}")
    result = pretrain(config)
    if not result.finished:
        return 130
    if config.train.evaluate:
        evaluate_run(result.run_dir, labels_optional=True)
    return 0


if __name__ == "__main__":
    die_with_parent()
    sys.exit(run_command(main))
