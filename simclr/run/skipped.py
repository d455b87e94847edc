"""What is said of a step that was skipped, and whether the weights are to blame for it."""

from collections.abc import Sequence

import torch

from simclr.data.embed import embed_images
from simclr.run.log import RunLog
from simclr.run.nan_guard import PATIENCE, FiniteGuard, NotFiniteError, Skip, refuse_weights
from simclr.run.parts import Learner, Run

__all__ = ["guard_of"]

_ASKED = 64
"""Images that the weights are asked about."""


def guard_of(run: Run, learner: Learner, log: RunLog) -> FiniteGuard:
    """The guard of a run's steps: each one that was skipped is said and logged; where the weights are to blame, it ends."""
    latest = -2

    def told(skips: Sequence[Skip]) -> None:
        nonlocal latest
        if skips[0].step != latest + 1:
            _refuse_to_go_on(run, learner, skips[0])
        latest = skips[-1].step
        for skip in skips:
            words = f"{skip.what(run.images)}: the step is skipped, all weights are as before it"
            names = [run.images.describe(i) for i in skip.rows]
            log.skipped(skip.step, skip.step // run.steps_per_epoch + 1, skip.parts, names, words)

    return FiniteGuard(
        run.local,
        run.accelerator.device,
        run.images,
        told,
        patience=min(PATIENCE, run.total_steps),  # a run that skipped all of its steps is none
        scaled=run.accelerator.scaler is not None,
    )


@torch.no_grad()
def _refuse_to_go_on(run: Run, learner: Learner, skip: Skip) -> None:
    """Raise NotFiniteError, on every process alike, where no batch will be better than that of ``skip``.

    An update before it may have overflowed, or left weights of 1e30 that are finite themselves: its own loss did not show that.
    """
    refuse_weights(learner.weights, learner.optimizer, skip.step - 1)
    model, training = learner.model, learner.model.training
    some = run.images.subset(torch.tensor(skip.batch[:_ASKED]))
    model.eval()  # each image by itself, where statistics of the batch would spread what is wrong with one
    try:
        z, _ = embed_images(
            some, lambda x: model(x[None])[0], run.config.augment, run.accelerator.device, run.left_out, batch=8
        )
    finally:
        model.train(training)
    if not z.isfinite().all(dim=1).any():
        raise NotFiniteError(f"{skip.what(run.images)}, and the weights give no image a finite embedding", skip.step)
