"""A skipped step once more, with an eye on every module: where it stopped being finite, and for which images."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr.config.yaml import load_config
from simclr.data import EpochSampler
from simclr.errors import CheckpointError
from simclr.exchange.encoder import match_tensors
from simclr.run.parts import Learner, Run
from simclr.run.profile import StepProfile
from simclr.run.skipped import SkippedStep, read_skipped
from simclr.train import build, one_step, open_run, resume

__all__ = ["replay"]

_SHOWN = 12
"""Images and activations that are named."""


def replay(folder: Path) -> list[str]:
    """Take the step again that ``folder`` keeps, ``runs/NAME/skipped/step-XXXXXXXX``; what was found, in lines.

    One process takes the whole batch, cut as the processes had it; the order of the images, their views and all seeds are
    those of the step. With several processes the dropout and the dropped paths are those of the first. Nothing is written.

    Raises:
        CheckpointError: ``folder`` is none of a skipped step, is damaged, or does not fit the run.
        ConfigError, DataError: the run, or its images, cannot be opened.
    """
    kept, run_dir = read_skipped(folder), folder.resolve().parent.parent
    config = load_config(run_dir / "config.yaml")
    config = replace(config, out=run_dir.parent, train=replace(config.train, trackers=(), knn_every=0))
    run = open_run(config)
    if len(kept.images) != config.train.batch_size or max(kept.images) >= len(run.images):
        raise CheckpointError(f"{folder} names images that the run {run_dir} does not have; were some of them removed?")
    local = config.train.batch_size // kept.processes
    if run.accelerator.device.type != "cuda" or not config.train.sync_batchnorm:
        local = min(local, config.train.cached_chunk or local)  # each process had statistics of its own
        config = replace(config, train=replace(config.train, cached_chunk=local))
    run = replace(
        run, config=replace(config, train=replace(config.train, compile="no", activation_checkpointing=False))
    )
    learner = build(run)
    weights = kept.weights if kept.weights is not None else run.checkpoint.model() if run.checkpoint else None
    if weights is None:
        raise CheckpointError(f"{folder} has no weights ({kept.note}), and the run has no checkpoint")
    match_tensors(learner.weights, weights, what=f"{folder} does not fit the run {run_dir}")
    learner.weights.load_state_dict(weights)
    return _taken_again(
        run, learner, kept, [f"step {kept.step} of {run_dir}: {len(kept.images)} images; weights {kept.note}"]
    )


def _taken_again(run: Run, learner: Learner, kept: SkippedStep, lines: list[str]) -> list[str]:
    batches = resume(replace(run, checkpoint=None), learner)
    chosen = torch.tensor(kept.images)
    batches.sampler = _OneBatch(images=len(run.images), batch_size=len(chosen), chosen=chosen)
    batches.start, batches.stop = kept.step, kept.step + 1
    batch = next(iter(batches))
    learner.model.train()
    learner.model.rest_backbone(kept.step < run.config.schedule.head_epochs * run.steps_per_epoch)
    eye = _Eye()
    eye.look_at(learner.model, "")
    eye.look_at(learner.objective, "objective.")
    done = one_step(run, learner, kept.step, batch, StepProfile(0, run.accelerator.device))
    eye.close()
    lines.append(f"loss {done.loss.item():g}, norm of the gradient {done.gradient_norm.item():g}")
    lines.append(f"forward: {eye.outputs[0] if eye.outputs else 'every output of every module is finite'}")
    finite = "every gradient is finite" + ("" if done.gradient_norm.isfinite() else ", but their norm overflows")
    lines.append(f"backward: {eye.gradients[0] if eye.gradients else finite}")
    largest = sorted(eye.largest.items(), key=lambda one: one[1], reverse=True)[:5]
    lines.append("largest activations: " + ", ".join(f"{name} {value:.3g}" for name, value in largest))
    bad = ~done.z.isfinite().all(dim=-1).all(dim=0)  # (B,)
    lines.append(_named("images whose embeddings are not finite", bad, kept.names))
    if not done.skipped.item():
        lines.append(
            "this time the step is finite: it may take the device, the number of processes or the weights that it had"
        )
    elif bad.any():
        learner.weights.load_state_dict(kept.weights or learner.weights.state_dict())
        learner.model.eval()
        with torch.no_grad():
            alone = torch.cat([learner.model(views) for views in done.views.split(8, dim=1)], dim=1)
        by_itself = ~alone.isfinite().all(dim=-1).all(dim=0)
        lines.append(_named("of them each by itself, without statistics of the batch", by_itself, kept.names))
    return lines


def _named(what: str, bad: Tensor, names: tuple[str, ...]) -> str:
    chosen = [names[i] for i in bad.nonzero().flatten().tolist()]
    shown = ", ".join(chosen[:_SHOWN]) + (" and others" if len(chosen) > _SHOWN else "")
    return f"{what}: {len(chosen)} of {len(names)}" + (f": {shown}" if chosen else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class _OneBatch(EpochSampler):
    """The same images at every step."""

    chosen: Tensor

    def indices(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        return self.chosen


@dataclass
class _Eye:
    """Looks at the outputs of modules, and at the gradients that come back to them and to weights."""

    outputs: list[str] = field(default_factory=list)
    """What was not finite, in the order of the forward pass."""
    gradients: list[str] = field(default_factory=list)
    """The same of the backward pass."""
    largest: dict[str, float] = field(default_factory=dict)
    _hooks: list[Any] = field(default_factory=list)

    def look_at(self, root: nn.Module, prefix: str) -> None:
        for name, module in root.named_modules():
            called = f"{prefix}{name or '(all of it)'} ({type(module).__name__})"
            self._hooks.append(module.register_forward_hook(self._watching(called)))
        for name, p in root.named_parameters():
            if p.requires_grad:
                self._hooks.append(p.register_hook(self._returning(f"of the weight {prefix}{name}")))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _watching(self, called: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            if (fault := _fault(output)) is not None:
                self.outputs.append(f"the first output that is not finite is that of {called}: {fault}")
            elif output.numel():
                self.largest[called] = max(self.largest.get(called, 0.0), output.detach().abs().max().item())
            if output.requires_grad:
                output.register_hook(self._returning(f"at the output of {called}"))

        return look

    def _returning(self, called: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if (fault := _fault(gradient)) is not None:
                self.gradients.append(f"the first gradient that is not finite is {called}: {fault}")

        return look


def _fault(tensor: Tensor) -> str | None:
    bad = ~tensor.detach().isfinite()
    if not bad.any():
        return None
    rows = bad.flatten(1).any(dim=1) if bad.ndim > 1 else bad.flatten()
    kind = "NaN" if tensor.detach().isnan().any() else "infinity"
    return f"{kind} in {int(bad.sum())} of {bad.numel()} numbers, {int(rows.sum())} of {len(rows)} rows"
