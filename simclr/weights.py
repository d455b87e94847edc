"""All of a run that has weights: the model, what it minimises, and their moving average where one is kept."""

from timm.utils import ModelEmaV3
from torch import nn

from simclr.model import ContrastiveModel
from simclr.objectives import Objective

__all__ = ["Weights"]


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
