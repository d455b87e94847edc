"""All of a run that has weights: model, objective, their moving average, and the keys that some objectives take of it."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from simclr.model.contrastive import ContrastiveModel
from simclr.objectives import Objective
from simclr.run.accelerator import maybe_compiled

__all__ = ["Weights", "momentum_keys", "rising_decay"]


class _Pair(nn.Module):
    def __init__(self, model: ContrastiveModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective


class Weights(nn.Module):
    """``model`` and ``objective``, and with ``ema`` their average, w' = d w' + (1 - d) w after every step.

    Buffers are averaged too, counters copied. The decay d rises from 0 to ``ema`` as 1 - (1 + step)^(-2/3), so that the
    first weights do not linger (timm's ModelEmaV3 with its warm-up); or, with ``rises_over`` the run's steps, from ``ema`` to 1,
    see ``rising_decay``. It is a function of the step alone, so that the tensors are all there is to save.
    """

    def __init__(
        self,
        model: ContrastiveModel,
        objective: Objective,
        ema: float | None = None,
        rises_over: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.objective, self.rises_over = model, objective, rises_over
        self.average = None if ema is None else ModelEmaV3(_Pair(model, objective), decay=ema, use_warmup=True)

    def follow(self, step: int) -> None:
        """Take the weights after ``step`` steps into the average."""
        if self.average is None:
            return
        pair = _Pair(self.model, self.objective)
        if self.rises_over is None:
            self.average.update(pair, step=step)
        else:
            with torch.no_grad():
                self.average.apply_update_(pair, rising_decay(step, self.average.decay, self.rises_over))

    @property
    def final(self) -> tuple[ContrastiveModel, Objective]:
        """What is scored and exported: the average, or without one the model and the objective themselves."""
        if self.average is None:
            return self.model, self.objective
        pair = self.average.module
        assert isinstance(pair, _Pair)
        return pair.model, pair.objective


def rising_decay(step: int, start: float, total_steps: int) -> float:
    """From ``start`` at step 0 to 1 at ``total_steps``, by half a cosine (BYOL, Grill et al. 2020, section 3.2; MoCo v3's code).

    >>> [round(rising_decay(step, 0.99, 4), 4) for step in range(5)]
    [0.99, 0.9915, 0.995, 0.9985, 1.0]
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total_steps)) / 2


def momentum_keys(
    weights: Weights, accelerator: Accelerator, chunk: int | None, compile_mode: str
) -> Callable[[Tensor], Tensor]:
    """A function from views (V, B, C, S, S) to their keys (V, B, D).

    The average is in eval mode, so that an image's key does not depend on the others in the batch, and ``chunk`` images at a
    time cut them as it likes.
    """
    average, _ = weights.final
    embed = maybe_compiled(average, compile_mode)

    @torch.no_grad()
    def keys_of(views: Tensor) -> Tensor:
        with accelerator.autocast():
            # A copy: in some modes the next call of a compiled module writes over what this one gave.
            keys = [embed(piece).clone() for piece in views.split(chunk or views.shape[1], dim=1)]
        return torch.cat(keys, dim=1)

    return keys_of
