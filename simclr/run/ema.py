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
from simclr.run.divided import make_whole
from simclr.run.sharded import whole_model
from simclr.sharding import local

__all__ = ["Weights", "momentum_keys", "rising_decay"]


class _Pair(nn.Module):
    def __init__(self, model: ContrastiveModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective


class _Average(ModelEmaV3):
    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """As timm's, but each process averages what it holds: where weights are sharded, its own rows of them."""
        pairs = zip(self.module.state_dict().values(), model.state_dict().values(), strict=True)
        held = [(local(average), local(now)) for average, now in pairs]
        for average, now in held:
            if not average.is_floating_point():
                average.copy_(now)
        averages, present = zip(*(pair for pair in held if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, present, weight=1.0 - decay)


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
        self.average = None if ema is None else _Average(_Pair(model, objective), decay=ema, use_warmup=True)

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

    @property
    def models(self) -> list[ContrastiveModel]:
        """The model, and its average if there is one."""
        return [self.model] if self.average is None else [self.model, self.final[0]]

    @property
    def objectives(self) -> list[Objective]:
        """The objective, and its average if there is one."""
        return [self.objective] if self.average is None else [self.objective, self.final[1]]

    def whole(self, keep: bool) -> "Weights":
        """These weights on the CPU where they are sharded, see ``whole_model``; else they themselves."""
        for objective in self.objectives:
            make_whole(objective, keep)
        models = [whole_model(model, torch.device("cpu"), keep) for model in self.models]
        if models[0] is self.model or not keep:
            return self
        made = Weights(models[0], self.objective, None, self.rises_over)
        if self.average is not None:
            made.average = _Average(_Pair(models[1], self.final[1]), decay=self.average.decay, use_warmup=True)
        return made


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
