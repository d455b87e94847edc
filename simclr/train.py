"""Training, start to end, on one page: ``accelerate launch scripts/pretrain.py``.

A step is a pure function of (config, weights, step): the order of the images, their views and every random number of
the model come from seeds derived from the step. So there is no random state to save, a resumed run takes the same
steps as an undisturbed one, and any number of processes sees the batch that one process would see.
"""

import time

import torch
from torch import nn

from augment import ViewGenerator
from simclr.checkpoint import save_checkpoint
from simclr.config import TrainConfig
from simclr.config_io import to_dict
from simclr.curves import draw_curves
from simclr.data import Batches, load_source, make_sampler, place
from simclr.diagnostics import contrastive_diagnostics, warnings_in_words
from simclr.distributed import any_rank, derive_seed, gather_rows
from simclr.encoder import feature_width
from simclr.errors import ConfigError, DataError
from simclr.export import export_encoder
from simclr.finite import FiniteGuard
from simclr.grad_cache import cached_step
from simclr.launch import make_accelerator, opening_line
from simclr.model import build_model
from simclr.objectives import build_objective
from simclr.online import OnlineScore
from simclr.optim import build_optimizer, parameter_groups, peak_learning_rate
from simclr.preview import draw_views
from simclr.run_dir import RunResult, claim, open_run
from simclr.runlog import RunLog
from simclr.schedule import learning_rate
from simclr.signals import StopFlag
from simclr.state import gather_state, restore_state
from simclr.trackers import check_trackers, start_trackers

__all__ = ["pretrain"]


def pretrain(config: TrainConfig) -> RunResult:
    """Pretrain an encoder as ``config`` says, or continue a run that was stopped.

    Writes everything below ``config.run_dir``. The same call again continues from the newest whole checkpoint, in the
    middle of an epoch too, and gives the weights of an undisturbed run; on a CPU to the bit.

    Returns:
        The run's folder, its last figures, and whether it came to its end.

    Raises:
        ConfigError: settings that cannot work here, or another run in the folder.
        DataError: images that are missing, unreadable or too few.
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
    images = place(images, device, config.data.device_resident)
    if config.objective.needs_labels and images.labels is None:
        raise DataError(f"the objective {config.objective.name} needs labels, and {images.name} has none")
    sampler = make_sampler(config, images)
    if config.train.batch_size % world:
        raise ConfigError(f"train.batch_size={config.train.batch_size} does not divide among {world} processes")
    steps_per_epoch = sampler.steps_per_epoch
    total_steps = config.train.epochs * steps_per_epoch
    local = config.train.batch_size // world

    # The model, what it minimises, and how.
    views = ViewGenerator(config.augment).to(device)
    model = build_model(config).to(device)
    if world > 1 and device.type == "cuda" and config.train.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    width = config.head.out_dim if config.head.layers else feature_width(model.backbone, config.augment.size)
    sizes = {"classes": len(images.classes), "dim": width, "samples": len(images)}
    objective = build_objective(config.objective, **sizes, seed=derive_seed(config.seed, "objective")).to(device)
    groups = parameter_groups(model, config.optim.weight_decay, objective, config.objective.lr_multiplier)
    peak = peak_learning_rate(config.optim, config.train.batch_size)
    optimizer = build_optimizer(groups, config.optim, peak)
    done = restore_state(checkpoint, model, objective, optimizer, accelerator) if checkpoint else 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    runner = model if config.train.compile == "no" else torch.compile(model, mode=config.train.compile)
    runner, optimizer = accelerator.prepare(runner, optimizer)

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        claim(config)
    start_trackers(accelerator, config.train.trackers, to_dict(config))
    log = RunLog(config.run_dir, accelerator, total_steps=total_steps, start_step=done)
    for note in notes:
        log.say(note)
    log.say(opening_line(config, images, model, accelerator, done, total_steps))
    online = OnlineScore(images, config) if images.labels is not None and config.train.knn_every else None
    guard = FiniteGuard(local, device)
    batches = Batches(
        images, sampler, device, start=done, stop=total_steps, rank=rank, world=world, workers=config.data.workers
    )
    loss_sum, counted = torch.zeros((), device=device), 0
    epoch_loss = torch.full((), checkpoint.progress["epoch_loss"] if checkpoint else 0.0, device=device)
    began, waited = time.perf_counter(), 0.0

    def save(step: int) -> None:
        guard.refuse(images)
        if accelerator.is_main_process:
            tensors, state = gather_state(model, objective, optimizer, accelerator)
            folder = config.run_dir / "checkpoints"
            progress = {"processes": world, "epoch_loss": epoch_loss.item()}
            save_checkpoint(folder, step, tensors, state, progress, keep=config.train.keep_checkpoints)
        accelerator.wait_for_everyone()

    model.train()
    step, stopped = done, False
    with StopFlag() as stop, log:
        for step, batch in enumerate(batches, start=done):
            # Randomness of the model itself (dropout, stochastic depth): a function of the step, like all the rest.
            torch.manual_seed(derive_seed(config.seed, "model", step, rank))
            rate = _set_learning_rate(config, optimizer, step, steps_per_epoch, total_steps, peak)

            # Views are drawn for the whole global batch and each rank takes its own, so that they do not depend on
            # how many ranks there are.
            drawn = views.sample(
                config.train.batch_size, (images.size, images.size), derive_seed(config.seed, "views", step), device
            )
            drawn = drawn.rows(slice(rank * local, (rank + 1) * local))
            x = views.apply(batch.images, drawn)  # (V, B, 3, S, S)
            if step == 0 and accelerator.is_main_process:
                draw_views(config, batch.images, x, drawn, config.run_dir / "views.png")

            draws = derive_seed(config.seed, "objective", step)
            labels, indices = (gather_rows(t[None])[0] for t in (batch.labels, batch.indices))  # (global B,)
            loss, z = cached_step(
                runner,
                x,
                lambda z: objective(gather_rows(z), labels, indices, draws),  # noqa: B023 - called before it changes
                chunk=config.train.cached_chunk or local,
                backward=accelerator.backward,
            )  # scalar, (V, B, D), both without a graph; the gradients are in place
            accelerator.unscale_gradients()
            norm = nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm or float("inf"), foreach=True)
            # fp16 meets infinite gradients as a matter of course: its scaler skips those steps and lowers the scale.
            guard.watch(step, loss, z, norm if accelerator.scaler is None else loss, batch.indices)
            optimizer.step()
            optimizer.zero_grad()

            loss_sum, counted, epoch_loss = loss_sum + loss, counted + 1, epoch_loss + loss
            step += 1
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
                diagnostics = contrastive_diagnostics(gather_rows(z), model.features)
                mean_loss = epoch_loss.item() / steps_per_epoch
                # A loss at chance is normal at the start; later it means that nothing is learned.
                if epoch > max(config.schedule.warmup_epochs, 0.1 * config.train.epochs):
                    rows = len(z) * config.train.batch_size
                    warnings = warnings_in_words(diagnostics, mean_loss, rows, config.objective.name)
                    figures = {name: value.item() for name, value in objective.statistics.items()}
                    log.warn(epoch, warnings | objective.warning(mean_loss, figures))
                if online and (epoch % config.train.knn_every == 0 or last):
                    diagnostics["online_knn"] = online(model.backbone, device)
                log.epoch(step, epoch, {"epoch_loss": mean_loss, **diagnostics})
                epoch_loss = torch.zeros_like(epoch_loss)
            # With one process the flag is free to read at every step; several must agree, which costs a wait.
            stopped = (
                any_rank(stop.raised is not None, device) if world == 1 or step % config.train.log_every == 0 else False
            )
            if stopped or last or step % config.train.checkpoint_every == 0:
                save(step)
            if stopped:
                break

    finished = step == total_steps
    if accelerator.is_main_process:
        draw_curves(config.run_dir / "metrics.jsonl", config.run_dir / "curves.png")
        if finished:
            notes_on_training = {"run": config.name, "objective": config.objective.name, "epochs": config.train.epochs}
            seed = derive_seed(config.seed, "init")
            export_encoder(
                model.backbone,
                config.run_dir / "encoder",
                config=config.encoder,
                augment=config.augment,
                seed=seed,
                training=notes_on_training,
            )
    accelerator.wait_for_everyone()
    accelerator.end_training()
    scorable = finished and accelerator.is_main_process and images.labels is not None
    return RunResult(run_dir=config.run_dir, finished=finished, steps=step, metrics=log.last, scorable=scorable)


def _set_learning_rate(
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    step: int,
    steps_per_epoch: int,
    total_steps: int,
    peak: float,
) -> float:
    rate = learning_rate(
        step,
        total_steps=total_steps,
        warmup_steps=round(config.schedule.warmup_epochs * steps_per_epoch),
        peak=peak,
        final=config.schedule.final,
        decay=config.schedule.decay,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    return rate
