"""Training, start to end, on one page: pretraining, supervised objectives and fine-tuning alike.

``pretrain`` is five acts: open, build, resume, loop, close. ``one_step`` is algorithm 1 of SimCLR (Chen et al. 2020).

A step is a pure function of (config, weights, step): the order of the images, their views and all randomness of the model
come from seeds derived from it. So no random state is saved, a resumed run is an undisturbed one, and processes share its batch.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from simclr.config import TrainConfig
from simclr.config.yaml import to_dict
from simclr.data import Batches, make_sampler, with_targets
from simclr.data.loader import Batch
from simclr.distributed import gather_rows
from simclr.exchange.imported import start_from
from simclr.losses import EmbeddedBatch
from simclr.model.contrastive import build_model
from simclr.model.layers import layer_decay
from simclr.objectives import Objective, build_objective, fit_objective
from simclr.optim.optimizers import build_optimizer, check_something_learns, parameter_groups, peak_learning_rate
from simclr.optim.schedule import set_learning_rate
from simclr.processes import together
from simclr.progress import screen
from simclr.run.accelerator import make_accelerator, maybe_compiled, opening_line, report_profile
from simclr.run.alike import expect_alike
from simclr.run.best import take_best
from simclr.run.captured import Captured
from simclr.run.channels import channel_notes
from simclr.run.checkpoint import restore_state
from simclr.run.diagnostics import contrastive_diagnostics, warnings_in_words
from simclr.run.divided import place_objectives
from simclr.run.division import open_images, open_left_out, place_images
from simclr.run.ema import Weights, momentum_keys
from simclr.run.folder import RunResult, claim, export_run, find_run
from simclr.run.given import NOTHING, Given, take_given, try_given
from simclr.run.grad_cache import cached_step
from simclr.run.lock import release
from simclr.run.log import RunLog, check_trackers, start_trackers
from simclr.run.memory import training_memory
from simclr.run.meter import Meter
from simclr.run.nan_guard import refuse_weights
from simclr.run.offline_mining import mine_offline
from simclr.run.parts import Learner, Run, Step
from simclr.run.pictures import draw_curves
from simclr.run.profile import StepProfile
from simclr.run.saving import Saving, expect_space, other_processes, persist
from simclr.run.sharded import clip_gradients, place, prepared, whole_model
from simclr.run.skipped import guard_of
from simclr.run.validation import make_validation_score
from simclr.run.views import crop_plan, draw_first_views, make_views, views_by_step
from simclr.run.watch import keep_start, open_watch

__all__ = ["one_step", "pretrain"]


def pretrain(config: TrainConfig, *, images: Any = None, augment: Any = None, objective: Any = None) -> RunResult:
    """Train an encoder as ``config`` says, or continue a run that was stopped.

    Writes everything below ``config.run_dir``. The same call again continues from the newest whole checkpoint, in the
    middle of an epoch too, and gives the weights of an undisturbed run; on a CPU to the bit.

    Args:
        config: the run; the other arguments take the place of what it says.
        images: to train on, whatever `simclr.data.given.as_image_set` takes: a Dataset, a list, arrays.
        augment: further augmentation, `augment.Before`, `augment.After` or one of each.
        objective: a module, or a function ``loss(z0, z1)`` or ``loss(z, labels)``; see `simclr.losses.GivenLoss`.

    Returns:
        The run's folder, its last figures, and whether it came to its end.

    Raises:
        ConfigError: settings that cannot work here, or another run in the folder.
        DataError: images that are missing, unreadable or too few; in the midst of training a checkpoint is written first.
        CheckpointError: damaged checkpoints, or a disk that refuses them.
        NotFiniteError: NaN or infinity in the weights, or in too many steps in a row, which are skipped else.
        LostProcessError: another process of the run fell; `simclr.processes`.
        OutOfMemoryError: the message says what takes it, and what helps.
    """
    config, given = take_given(config, images, augment, objective)
    try:
        with together(), training_memory(config), screen():
            run = open_run(config, given)  # everything that can be refused is refused before anything is written
            learner = build(run)
            batches = resume(run, learner)
            log = start_log(run, learner, batches.start)
            return close(run, learner, log, *loop(run, learner, log, batches))
    finally:
        release(config.run_dir)


def one_step(run: Run, learner: Learner, step: int, batch: Batch, profile: StepProfile) -> Step:
    """Algorithm 1 of SimCLR on one batch: views, embeddings, the loss over all of them, one step down its gradient."""
    config, accelerator, undo = run.config, run.accelerator, learner.undo
    # Randomness of the model itself (dropout, stochastic depth): a function of the step, like all the rest.
    torch.manual_seed(run.seed("model", step, accelerator.process_index))

    profile.mark("augment")
    views, targets, drawn = make_views(run, learner.views_at(step), step, batch)  # (V, B, C, S, S), (B,) or (B, C)

    profile.mark("encoder")
    undo.begin()
    keys, seed = learner.keys_of(views), run.seed("objective", step)
    loss, z = cached_step(
        learner.forward,
        views,
        profile.loss(lambda z: learner.objective(EmbeddedBatch(z, targets, batch.indices, seed, keys))),
        chunk=run.local if learner.model.only_head else config.train.cached_chunk or run.local,
        backward=accelerator.backward,
    )  # scalar, (V, B, D); the gradients are in place

    profile.mark("optimizer")
    accelerator.unscale_gradients()
    norm = clip_gradients(learner.parameters, config.optim.clip_norm or float("inf"))
    if undo.worth_taking(loss, norm):
        learner.optimizer.step()
        learner.weights.follow(step + 1)
    undo.put_back()
    learner.optimizer.zero_grad()
    return Step(loss, z, norm, undo.skipped, views, drawn)


def open_run(config: TrainConfig, given: Given = NOTHING) -> Run:
    """Find the run's folder, the processes and the images; refuse what cannot work. Nothing is written."""
    check_trackers(config.train.trackers)
    config, checkpoint, notes = find_run(config)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():  # one process downloads, the others find it there
        division = open_images(config, given)
    notes += [*division.images.first_lines(), *channel_notes(config), *given.first_lines(config.given)]
    expect_alike(config, division.images, checkpoint)
    device = accelerator.device
    images = with_targets(division.images, config.objective)
    left_out, validation = open_left_out(config, checkpoint, notes.append), None
    config, images = place_images(config, images, device, left_out)
    sampler = make_sampler(config.sampler, images, config.train.batch_size, config.seed)
    if config.train.knn_every:
        validation = make_validation_score(images, config.data, config.augment, device, left_out, division)
    return Run(config, accelerator, images, sampler, validation, checkpoint, left_out, notes, division, given)


def build(run: Run) -> Learner:
    """The model, what it minimises, and the optimizer: all weights as they are before the first step."""
    config, images, accelerator, device = run.config, run.images, run.accelerator, run.accelerator.device
    model = build_model(config)
    generators, views_at = views_by_step(
        config.augment,
        config.schedule.view_sizes,
        model.backbone,
        run.total_steps,
        encoder=config.encoder.name,
        channels=config.data.channels,
        compiled=config.train.compile_augment,
        after=run.given.after,
    )
    generators.to(device)
    if config.encoder.init is not None and run.checkpoint is None:
        run.notes.append(start_from(model.backbone, config.encoder, config.data.channels))
    if accelerator.num_processes > 1 and device.type == "cuda" and config.train.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    classes = len(images.classes)
    sizes = {"classes": classes, "dim": model.width, "samples": len(images)}
    fitted = fit_objective(config.objective, images.values if images.labels is None else images.labels, classes)
    try_given(run.given, config, images.labels, model.width)
    objective = Objective(run.given.objective or build_objective(fitted, **sizes, seed=run.seed("objective")).loss)
    objective.narrow = config.train.wire == "bf16"
    weights = Weights(model, objective, config.ema, run.average_rises_over)
    place(accelerator, *weights.models, name=config.encoder.name)
    run.notes.extend(place_objectives(accelerator, *weights.objectives))
    scale = layer_decay(model.backbone, config.optim.layer_decay)
    multiplier, decay = config.objective.lr_multiplier * config.optim.own_scale, config.optim.weight_decay
    groups = parameter_groups(model, decay, objective, multiplier, scale, config.optim.decay_all)
    check_something_learns(model, model.head, objective, config.schedule.head_epochs, config.objective.name)
    optimizer = build_optimizer(groups, config.optim, peak := peak_learning_rate(config.optim, config.train.batch_size))
    return Learner(model, objective, fitted, sizes, views_at, weights, optimizer, peak)


def resume(run: Run, learner: Learner) -> Batches:
    """Put back what a checkpoint holds, hand all that learns to accelerate, and give the batches that are left."""
    config, accelerator, done = run.config, run.accelerator, 0
    learner.watch = open_watch(run, learner.model)
    if run.checkpoint is not None:
        done = restore_state(run.checkpoint, learner.weights, run.sampler, learner.optimizer, accelerator)
        run.notes.extend(other_processes(run))
    compiled = maybe_compiled(learner.model, config.train.compile)
    learner.wrapped, learner.optimizer = prepared(accelerator, compiled, learner.optimizer)
    if config.objective.needs_keys:
        learner.keys_of = momentum_keys(learner.weights, accelerator, config.train.cached_chunk, config.train.compile)
    return Batches(
        run.images,
        run.sampler,
        accelerator.device,
        start=done,
        stop=run.end,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=config.data.workers,
        left_out=run.left_out,
        plan=crop_plan(run),
    )


def start_log(run: Run, learner: Learner, start: int) -> RunLog:
    """Claim the folder: from here on something is written."""
    config, accelerator = run.config, run.accelerator
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.notes.extend(expect_space(run, learner))
        claim(config, run.division.listed)
    keep_start(run, learner.model)
    start_trackers(accelerator, config.train.trackers, to_dict(config))
    log = RunLog(config.run_dir, accelerator, total_steps=run.total_steps, start_step=start)
    for note in [*run.notes, opening_line(config, run.images, learner.model, accelerator, start, run.end)]:
        log.say(note)
    run.left_out.begin(log.say)
    return log


def loop(run: Run, learner: Learner, log: RunLog, batches: Batches) -> tuple[int, bool]:
    """Take the steps that are left until somebody asks to stop; gives those that are done, and whether it is the end."""
    config, accelerator, device, train = run.config, run.accelerator, run.accelerator.device, run.config.train
    guard, profile = guard_of(run, learner, log), StepProfile(20 if config.profile else 0, device)
    meter, take = Meter(device, *run.epoch_so_far), Captured(one_step, run, learner)
    mine_offline(run, learner.model, batches, log.say)
    saving, step = Saving(run, learner, guard, meter, log, batches.start), batches.start
    learner.model.train()
    with saving.nothing_lost(), log:
        for step, batch in enumerate(batches, start=batches.start):
            profile.mark("other")
            rate = set_learning_rate(learner.optimizer, config.schedule, step, **run.lengths, peak=learner.peak)
            learner.model.rest_backbone(step < config.schedule.head_epochs * run.steps_per_epoch)
            done = take(step, batch, profile)
            profile.mark("other")
            guard.watch(step, done.skipped, done.loss, done.z, done.gradient_norm, batch.indices)
            if step == 0:
                log.picture(config.run_dir / "views.png", partial(draw_first_views, run, batch.indices, done))
            meter.add(done.loss, done.skipped)
            step, better = step + 1, False
            log.pace(step, run.steps_left(step))
            saving.reached(step)
            last, due = step == run.total_steps, step % train.log_every == 0
            if due or last:
                guard.check()
                figures = meter.line(train.batch_size, run.steps_left(step), batches.waited)
                figures |= {"learning_rate": rate, "gradient_norm": done.gradient_norm.item(), **guard.figures()}
                log.step(step, (step - 1) // run.steps_per_epoch + 1, figures | learner.objective.figures())
            if step % run.steps_per_epoch == 0:
                guard.check()
                saving.settle()  # scoring starts processes, which a thread in the midst of writing might disturb
                figures = end_epoch(run, learner, log, step, done.z, meter.end_epoch() / run.steps_per_epoch)
                better = saving.is_best(step, figures)
            stopped, last = saving.asked(step), last or saving.is_over
            if stopped or last or better or step == run.decay_begins or step % train.checkpoint_every == 0:
                saving.save(step, wait=stopped or last)
            if stopped or saving.is_over or profile.end_step():
                break
    if config.profile and step > batches.start:
        report_profile(profile, config, whole_model(learner.model), done.views, accelerator)
    return step, step == run.total_steps or saving.is_over


def end_epoch(run: Run, learner: Learner, log: RunLog, step: int, z: Tensor, mean_loss: float) -> dict[str, float]:
    """Figures that tell learning from collapse, words for what they show, and every few epochs the score so far."""
    train, epoch = run.config.train, step // run.steps_per_epoch
    figures = contrastive_diagnostics(gather_rows(z), learner.model.features)
    # A loss at chance is normal at the start; later it means that nothing is learned.
    if epoch > max(run.config.schedule.warmup_epochs, 0.1 * train.epochs):
        chance = run.config.objective.chance(len(z) * train.batch_size)
        warnings = warnings_in_words(figures, mean_loss, chance)
        log.warn(epoch, warnings | learner.objective.warning(mean_loss, learner.objective.figures()))
    try:
        if train.knn_every and (epoch % train.knn_every == 0 or step == run.total_steps):
            final = (whole_model((found := learner.weights.final)[0]), found[1], run.accelerator.device)
            figures |= run.validation(*final) if run.validation else {}
            figures |= learner.watch(*final) if learner.watch else {}
    finally:  # a file may break that is scored: the epoch is done all the same
        log.epoch(step, epoch, {"epoch_loss": mean_loss, **figures})
    return figures


def close(run: Run, learner: Learner, log: RunLog, step: int, finished: bool) -> RunResult:
    """Draw the curves and, where the run came to its end, export the encoder."""
    config, accelerator, main = run.config, run.accelerator, run.accelerator.is_main_process
    if finished:  # a finished run of an earlier version may hold what was never looked at
        refuse_weights(learner.weights, None, step - 1)
        learner.weights = learner.weights.whole(keep=main)
    if main:
        log.picture(config.run_dir / "curves.png", partial(draw_curves, config.run_dir / "metrics.jsonl"))
        if finished:
            chosen = take_best(run, learner, step, log.say) if config.train.keep == "best" else step
            parts = (*learner.weights.final, learner.objective_config, run.images, learner.sizes, chosen)
            persist(partial(export_run, config, *parts), log.say)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    scorable = finished and main and (len(run.images.classes) > 1 or run.images.values is not None)
    return RunResult(config.run_dir, finished, step, log.last, main=main, scorable=scorable)
