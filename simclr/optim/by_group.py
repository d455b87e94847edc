"""The step of an optimizer of ours: a closure as torch has it, then every group that has gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["ByGroup"]


class ByGroup(torch.optim.Optimizer):
    """An optimizer that updates one group of parameters after the other; a subclass says how in ``update``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self.update(weights, group)
        return loss

    def update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update ``weights``, those of ``group`` that have a gradient, in place."""
        raise NotImplementedError
