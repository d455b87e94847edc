"""Training, start to end, on one page: pretraining, supervised objectives and fine-tuning alike.

A step is a pure function of (config, weights, step): the order of the images, their views and every random number of
the model come from seeds derived from the step. So there is no random state to save, a resumed run takes the same
steps as an undisturbed one, and any number of processes sees the batch that one process would see.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from augment import Mix
from simclr.config import TrainConfig
from simclr.config.yaml import to_dict
from simclr.data import Batches, MinedSampler, load_source, make_sampler, place, with_targets
from simclr.data.left_out import LeftOut
from simclr.distributed import any_rank, derive_seed, gather_rows
from simclr.errors import ConfigError, DataError
from simclr.exchange.imported import start_from
from simclr.model.contrastive import build_model
from simclr.model.encoder import feature_width
from simclr.model.layers import layer_decay
from simclr.objectives import build_objective, fit_objective
from simclr.optim.optimizers import build_optimizer, parameter_groups, peak_learning_rate
from simclr.optim.schedule import set_learning_rate
from simclr.run.accelerator import make_accelerator, maybe_compiled, opening_line, report_profile
from simclr.run.checkpoint import gather_state, restore_state, save_checkpoint
from simclr.run.diagnostics import contrastive_diagnostics, warnings_in_words
from simclr.run.ema import Weights, momentum_keys
from simclr.run.folder import RunResult, claim, export_run, open_run
from simclr.run.grad_cache import cached_step
from simclr.run.log import RunLog, check_trackers, start_trackers
from simclr.run.nan_guard import FiniteGuard, refuse_weights
from simclr.run.offline_mining import OfflineMiner
from simclr.run.pictures import draw_curves, draw_views
from simclr.run.process import StopFlag
from simclr.run.profile import StepProfile
from simclr.run.validation import make_online_score
from simclr.run.view_sizes import views_by_step

__all__ = ["pretrain"]


def pretrain(config: TrainConfig) -> RunResult:
    """Train an encoder as ``config`` says, or continue a run that was stopped.

    Writes everything below ``config.run_dir``. The same call again continues from the newest whole checkpoint, in the
    middle of an epoch too, and gives the weights of an undisturbed run; on a CPU to the bit.

    Returns:
        The run's folder, its last figures, and whether it came to its end.

    Raises:
        ConfigError: settings that cannot work here, or another run in the folder.
        DataError: images that are missing, unreadable or too few; in the midst of training a checkpoint is written first.
        CheckpointError: damaged checkpoints, or a disk that refuses them.
        NotFiniteError: NaN or infinity in training; the message names the step and the images.
    """
    # Everything that can be refused is refused before anything is written.
    check_trackers(config.train.trackers)
    checkpoint, notes = open_run(config)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():  # one process downloads, the others find it there
        images = load_source(config.data, "train")
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    images = place(with_targets(images, config.objective), device, config.data.device_resident, notes.append)
    sampler = make_sampler(config, images)
    left_out = LeftOut(notes.append)
    online = make_online_score(images, config, device, left_out)
    if config.train.batch_size % (2 * world if config.mix.active else world):
        pairs = " in whole pairs of mixed images" if config.mix.active else ""
        raise ConfigError(f"train.batch_size={config.train.batch_size} does not divide among {world} processes{pairs}")
    steps_per_epoch = sampler.steps_per_epoch
    total_steps = config.train.epochs * steps_per_epoch
    local = config.train.batch_size // world

    # The model, what it minimises, and how.
    model = build_model(config)
    generators, views_at = views_by_step(config, model.backbone, total_steps)
    generators.to(device)
    if config.encoder.init is not None and checkpoint is None:
        notes.append(start_from(model.backbone, config.encoder))
    model.to(device)
    if world > 1 and device.type == "cuda" and config.train.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    width = config.head.out_dim if config.head.layers else feature_width(model.backbone, config.augment.size)
    sizes = {"classes": len(images.classes), "dim": width, "samples": len(images)}
    fitted = fit_objective(
        config.objective, images.values if images.labels is None else images.labels, len(images.classes)
    )
    objective = build_objective(fitted, **sizes, seed=derive_seed(config.seed, "objective")).to(device)
    groups = parameter_groups(
        model,
        config.optim.weight_decay,
        objective,
        config.objective.lr_multiplier,
        layer_decay(model.backbone, config.optim.layer_decay),
    )
    if not any(p.requires_grad for module in (model, objective) for p in module.parameters()):
        raise ConfigError(
            "encoder.frozen_layers=-1 leaves nothing to learn: there is no head, and the objective has no weights"
        )
    if config.schedule.head_epochs and not any(
        p.requires_grad for m in (model.head, objective) for p in m.parameters()
    ):
        raise ConfigError(
            f"schedule.head_epochs={config.schedule.head_epochs}, but there is no head (head.layers=0), and the objective "
            f"{config.objective.name} has no weights that could learn first; set --schedule.head-epochs 0"
        )
    peak = peak_learning_rate(config.optim, config.train.batch_size)
    optimizer = build_optimizer(groups, config.optim, peak)
    weights = Weights(model, objective, config.ema)
    done = restore_state(checkpoint, weights, sampler, optimizer, accelerator) if checkpoint else 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    runner, optimizer = accelerator.prepare(maybe_compiled(model, config.train.compile), optimizer)
    keys_of = momentum_keys(weights, config, accelerator)
    batches = Batches(
        images,
        sampler,
        device,
        start=done,
        stop=total_steps,
        rank=rank,
        world=world,
        workers=config.data.workers,
        decode=config.data.decode,
        left_out=left_out,
    )

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        claim(config)
    start_trackers(accelerator, config.train.trackers, to_dict(config))
    log = RunLog(config.run_dir, accelerator, total_steps=total_steps, start_step=done)
    for note in notes:
        log.say(note)
    log.say(opening_line(config, images, model, accelerator, done, total_steps))
    left_out.say = log.say
    guard = FiniteGuard(local, device)
    if isinstance(sampler, MinedSampler):
        batches.call_every(sampler.period, OfflineMiner(sampler, images, model, config, device, log.say, left_out))
    soft = config.mix.active or (images.values is not None and config.objective.soft_labels)
    profile = StepProfile(20 if config.profile else 0, device)
    loss_sum, counted = torch.zeros((), device=device), 0
    epoch_loss = torch.full((), checkpoint.progress["epoch_loss"] if checkpoint else 0.0, device=device)
    began, waited = time.perf_counter(), 0.0

    saved = {done}

    def save(step: int) -> None:
        guard.refuse(images)
        refuse_weights(weights, optimizer, step - 1)
        if accelerator.is_main_process:
            tensors, state = gather_state(weights, sampler, optimizer, accelerator)
            folder = config.run_dir / "checkpoints"
            progress = {"processes": world, "epoch_loss": epoch_loss.item()}
            save_checkpoint(folder, step, tensors, state, progress, keep=config.train.keep_checkpoints)
        saved.add(step)
        accelerator.wait_for_everyone()

    @contextmanager
    def kept() -> Iterator[None]:
        """What images do wrong ends the run between two steps, in all processes: nothing of the last one is lost."""
        try:
            yield
        except DataError:
            if step not in saved:
                save(step)
            # A signal to the whole group ends the workers too: that is a stop like any other.
            if not any_rank(stop.raised is not None, device):
                raise

    model.train()
    step, stopped = done, False
    with StopFlag() as stop, log, kept():
        for step, batch in enumerate(batches, start=done):
            profile.mark("other")
            # Randomness of the model itself (dropout, stochastic depth): a function of the step, like all the rest.
            torch.manual_seed(derive_seed(config.seed, "model", step, rank))
            rate = set_learning_rate(config, optimizer, step, steps_per_epoch, total_steps, peak)
            model.rest_backbone(step < config.schedule.head_epochs * steps_per_epoch)

            # Views are drawn for the whole global batch and each rank takes its own, so that they do not depend on
            # how many ranks there are.
            profile.mark("augment")
            views = views_at(step)
            drawn = views.sample(
                config.train.batch_size, (images.size, images.size), derive_seed(config.seed, "views", step), device
            )
            drawn = drawn.rows(slice(rank * local, (rank + 1) * local))
            x = views.apply(batch.images, drawn)  # (V, B, 3, S, S)
            targets = batch.targets(len(images.classes), soft)  # (B,), or (B, C) where soft
            if config.mix.active:
                mix_seed = derive_seed(config.seed, "mix", step)
                mix = Mix.sample(config.mix, config.train.batch_size, x.shape[-1], mix_seed)
                mix = mix.rows(slice(rank * local, (rank + 1) * local))
                x, targets = mix.apply(x), mix.targets(targets)
            if step == 0 and accelerator.is_main_process:
                log.picture(config.run_dir / "views.png", partial(draw_views, config, batch.images, x, drawn))

            profile.mark("encoder")
            draws = derive_seed(config.seed, "objective", step)
            labels, indices = (gather_rows(t[None])[0] for t in (targets, batch.indices))  # (global B, ...)
            keys = keys_of(x)  # (V, global B, D) for momentum contrast, else None
            loss, z = cached_step(
                model if model.only_head and not config.head.layers else runner,  # the objective alone learns
                x,
                profile.loss(lambda z: objective(gather_rows(z), labels, indices, draws, keys)),  # noqa: B023 - called at once
                chunk=local if model.only_head else config.train.cached_chunk or local,
                backward=accelerator.backward,
            )  # scalar, (V, B, D), both without a graph; the gradients are in place
            profile.mark("optimizer")
            accelerator.unscale_gradients()
            norm = nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm or float("inf"), foreach=True)
            # fp16 meets infinite gradients as a matter of course: its scaler skips those steps and lowers the scale.
            guard.watch(step, loss, z, norm if accelerator.scaler is None else loss, batch.indices)
            optimizer.step()
            optimizer.zero_grad()
            weights.follow(step + 1)
            profile.mark("other")

            loss_sum, counted, epoch_loss = loss_sum + loss, counted + 1, epoch_loss + loss
            step += 1
            log.pace(step)
            epoch, position = divmod(step, steps_per_epoch)
            last = step == total_steps
            if step % config.train.log_every == 0 or last:
                guard.refuse(images)
                seconds = time.perf_counter() - began
                figures = {
                    "loss": loss_sum.item() / counted,
                    "learning_rate": rate,
                    "gradient_norm": norm.item(),
                    "images_per_second": counted * config.train.batch_size / seconds,
                    "data_wait": (batches.waited - waited) / seconds,
                    "seconds_left": (total_steps - step) * seconds / counted,
                    **{name: value.item() for name, value in objective.statistics.items()},
                }
                log.step(step, (step - 1) // steps_per_epoch + 1, figures)
                loss_sum, counted = torch.zeros_like(loss_sum), 0
                began, waited = time.perf_counter(), batches.waited
            if position == 0:
                guard.refuse(images)
                diagnostics = contrastive_diagnostics(gather_rows(z), model.features)
                mean_loss = epoch_loss.item() / steps_per_epoch
                # A loss at chance is normal at the start; later it means that nothing is learned.
                if epoch > max(config.schedule.warmup_epochs, 0.1 * config.train.epochs):
                    rows = len(z) * config.train.batch_size
                    warnings = warnings_in_words(diagnostics, mean_loss, rows, config.objective.name)
                    figures = {name: value.item() for name, value in objective.statistics.items()}
                    log.warn(epoch, warnings | objective.warning(mean_loss, figures))
                epoch_loss = torch.zeros_like(epoch_loss)
                try:
                    if online and (epoch % config.train.knn_every == 0 or last):
                        diagnostics |= online(*weights.final, device)
                finally:  # a file may break that is scored: the epoch is done all the same
                    log.epoch(step, epoch, {"epoch_loss": mean_loss, **diagnostics})
            # With one process the flag is free to read at every step; several must agree, which costs a wait.
            stopped = (
                any_rank(stop.raised is not None, device) if world == 1 or step % config.train.log_every == 0 else False
            )
            if stopped or last or step % config.train.checkpoint_every == 0:
                save(step)
            if stopped or profile.end_step():
                break

    if config.profile and step > done:
        report_profile(profile, config, model, x, accelerator)
    finished = step == total_steps
    if finished:
        refuse_weights(
            weights, None, step - 1
        )  # a finished run of an earlier version may hold what was never looked at
    if accelerator.is_main_process:
        log.picture(config.run_dir / "curves.png", partial(draw_curves, config.run_dir / "metrics.jsonl"))
        if finished:
            export_run(config, *weights.final, fitted, images.classes, sizes)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    main = accelerator.is_main_process
    scorable = finished and main and len(images.classes) > 1
    return RunResult(
        run_dir=config.run_dir, finished=finished, steps=step, metrics=log.last, main=main, scorable=scorable
    )
