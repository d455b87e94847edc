"""The self-test: what these processes do as one, and how fast."""

import tempfile
from dataclasses import replace
from pathlib import Path

from simclr.config import SamplerConfig, TrainConfig
from simclr.data import make_sampler
from simclr.distributed import gather_rare
from simclr.run.lock import release
from simclr.run.parts import Run
from simclr.selftest.finding import Finding, worst
from simclr.selftest.processes import arithmetic, gathered_rows, images_in_order, processes
from simclr.selftest.speeds import speeds
from simclr.selftest.step import step_taken_twice
from simclr.train import open_run

__all__ = ["selftest"]

IMAGES = 64
"""Of the batch in each process, at most: the comparison shall take seconds, and fit where the run's own batch fits."""


def selftest(config: TrainConfig) -> list[Finding]:
    """What these processes do as one, and how fast. All of them must call it; all get the same findings.

    Nothing is written. Dropout rests, and so do BatchNorm statistics that processes do not share: by intention they make
    each process another network.

    Raises:
        PipelineError: what ``pretrain`` would refuse here.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = replace(config.train, precision="fp32", compile="no", knn_every=0, trackers=())
        config = replace(config, out=Path(folder), train=plain)
        try:
            run = _shortened(open_run(config))
            basis = [processes(run), *images_in_order(run)]
            if any(finding.right is False for finding in basis):  # what follows would compare different runs
                return basis
            own = [*step_taken_twice(run), gathered_rows(run), *arithmetic(run)]
            return [*basis, *map(worst, zip(*gather_rare(own), strict=True)), *speeds(run)]
        finally:
            release(config.run_dir)


def _shortened(run: Run) -> Run:
    config, world = run.config, run.accelerator.num_processes
    size, sampler = min(config.train.batch_size, IMAGES * world), config.sampler
    if sampler.name == "mined":  # its triplets are mined in the loop
        sampler = SamplerConfig()
    elif sampler.name == "classes":  # a batch holds so many
        size = config.train.batch_size
    config = replace(config, train=replace(config.train, batch_size=size), sampler=sampler)
    return replace(run, config=config, sampler=make_sampler(sampler, run.images, size, config.seed))
