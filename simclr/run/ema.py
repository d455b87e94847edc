"""All of a run that has weights: model, objective, their moving average, and the keys that some objectives take of it."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from simclr.distributed import gather_rows
from simclr.model.contrastive import ContrastiveModel
from simclr.objectives import Objective
from simclr.run.accelerator import maybe_compiled

__all__ = ["Weights", "momentum_keys"]


class _Pair(nn.Module):
    def __init__(self, model: ContrastiveModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective


class Weights(nn.Module):
    """``model`` and ``objective``, and with ``ema`` their average, w' = d w' + (1 - d) w after every step.

    Buffers are averaged too, counters copied. The decay d rises from 0 to ``ema`` as 1 - (1 + step)^(-2/3), so that the
    first weights do not linger (timm's ModelEmaV3 with its warm-up): a function of the step alone, so that the tensors
    are all there is to save.
    """

    def __init__(self, model: ContrastiveModel, objective: Objective, ema: float | None = None) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.average = None if ema is None else ModelEmaV3(_Pair(model, objective), decay=ema, use_warmup=True)

    def follow(self, step: int) -> None:
        """Take the weights after ``step`` steps into the average."""
        if self.average is not None:
            self.average.update(_Pair(self.model, self.objective), step=step)

    @property
    def final(self) -> tuple[ContrastiveModel, Objective]:
        """What is scored and exported: the average, or without one the model and the objective themselves."""
        if self.average is None:
            return self.model, self.objective
        pair = self.average.module
        assert isinstance(pair, _Pair)
        return pair.model, pair.objective


def momentum_keys(
    weights: Weights, accelerator: Accelerator, chunk: int | None, compile_mode: str
) -> Callable[[Tensor], Tensor]:
    """A function from this process's views (V, B, C, S, S) to the keys (V, global B, D) of all processes.

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
        return gather_rows(torch.cat(keys, dim=1))

    return keys_of
