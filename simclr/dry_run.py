"""What a run would be: on which images, with how much memory, time and disk; from a few steps that nobody keeps."""

import time
from collections.abc import Iterator

import torch

from simclr.config import TrainConfig
from simclr.cores import Crowd
from simclr.files import free_space
from simclr.granted import available_memory
from simclr.memory import peak_memory
from simclr.optim.schedule import sizes_by_step
from simclr.processes import together
from simclr.progress import clock, progress
from simclr.run.accelerator import resolved_precision
from simclr.run.flops import model_flops, wait_for
from simclr.run.lock import release
from simclr.run.memory import training_memory
from simclr.run.parts import Learner, Run
from simclr.run.profile import StepProfile
from simclr.run.saving import checkpoint_bytes
from simclr.run.sharded import whole_model
from simclr.train import build, one_step, open_run, resume

__all__ = ["dry_run"]

STEPS = 3
"""Steps that are measured, after one that is not: libraries choose their kernels in the first, and workers start."""


def dry_run(config: TrainConfig) -> list[str]:
    """Take the first steps of the run that ``config`` says and tell what all of it would take. Nothing is written.

    All processes of the run call it; the first has the lines to show, the others none.

    Raises:
        PipelineError: as ``simclr.pretrain``, for whatever the run would be refused.
    """
    try:
        with together(), training_memory(config):
            run = open_run(config)
            learner = build(run)
            lines = list(_told(run, learner))
            return lines if run.accelerator.is_main_process else []
    finally:
        release(config.run_dir)


def _told(run: Run, learner: Learner) -> Iterator[str]:
    config, device, images = run.config, run.accelerator.device, run.images
    batches = resume(run, learner)
    yield "dry run: nothing is written, and no step is kept"
    classes = f", {len(images.classes)} classes" if images.classes else ", no classes"
    kept = f"kept on the device at {config.data.size} px" if images.pixels is not None else "decoded by workers"
    yield _line("images", f"{len(images):,} of {images.name}{classes}, {kept}")
    yield from (_line("", note) for note in run.notes)
    sizes = [size for size, _ in sizes_by_step(config.schedule.view_sizes, config.augment.size, run.total_steps)]
    yield _line("views", f"{config.augment.views} of {', then '.join(f'{size} px' for size in sizes)} of each image")
    learner.model.train()
    crowd = Crowd(seconds=1.0) if device.type == "cpu" else None
    seconds: list[float] = []
    views = None
    with progress("steps", STEPS + 1, "steps") as tell:
        for step, batch in enumerate(batches, start=batches.start):
            wait_for(device)
            began = time.perf_counter()
            views = one_step(run, learner, step, batch, StepProfile(0, device)).views
            wait_for(device)
            seconds.append(time.perf_counter() - began)
            tell(len(seconds))
            if len(seconds) > STEPS:
                break
    words = crowd and crowd.words()
    flops = None if views is None else model_flops(whole_model(learner.model), views)
    counted = "" if flops is None else f", {flops / 1e9:,.3g} GFLOP a step and process, forward and backward"
    size = sum(p.numel() for p in learner.model.parameters()) / 1e6
    yield _line("network", f"{config.encoder.name} with its head, {size:,.2f}M parameters{counted}")
    yield _line("objective", f"{config.objective.name} on batches of {config.train.batch_size:,} images")
    many = f"{run.total_steps:,}, {run.steps_per_epoch:,} an epoch, {config.train.epochs:,} epochs"
    yield _line("steps", many)
    where = f"{run.accelerator.num_processes} x {device.type}, {resolved_precision(config.train)}"
    yield _line("device", where)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    yield _line("memory", f"{peak_memory()} in use at most, {free / 2**30:,.1f} GiB more are free")
    measured = seconds[1:] or seconds
    left = run.end - batches.start
    if measured:
        each = sum(measured) / len(measured)
        whole = each * run.steps_left(batches.start) if left else 0.0
        grow = ", longer where views are larger" if len(sizes) > 1 else ""
        yield _line(
            "time",
            f"about {clock(whole)} for {left:,} steps of {each:.3g} s (mean of {len(measured)}){grow}; reading that is slower "
            "than training, scores and checkpoints come on top",
        )
    if words:
        yield _line("", words)
    one, keeps = checkpoint_bytes(run, learner), config.train.keep_checkpoints + 1
    room = free_space(config.run_dir)
    there = "" if room is None else f"; {room / 1e9:,.1f} GB are free"
    yield _line("disk", f"{keeps * one / 1e6:,.0f} MB, {keeps} checkpoints of {one / 1e6:,.0f} MB at a time{there}")
    start = "begin" if not batches.start else f"go on at step {batches.start:,}" if left else "be finished already"
    yield _line("folder", f"{config.run_dir}, where it would {start}")


def _line(name: str, words: str) -> str:
    return f"  {name:10} {words}"
