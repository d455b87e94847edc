"""The step of an optimizer of ours: a closure as torch has it, then every group that has gradients."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from simclr.errors import ConfigError, require

__all__ = ["ByGroup", "is_number"]


def is_number(value: Any) -> bool:
    """Whether a setting is a number: not a text, as files of settings hold them, and neither NaN nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


class ByGroup(torch.optim.Optimizer):
    """An optimizer that updates one group of parameters after the other; a subclass says how in ``update``.

    Raises:
        ConfigError: a setting of a group that no step can be taken with, or a gradient that is sparse.
        TypeError: a model in the place of its parameters.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, nn.Module) and not isinstance(params, nn.ParameterList):
            name = type(self).__name__
            raise TypeError(
                f"{name} is given a {type(params).__name__}; expected its parameters: {name}(model.parameters())"
            )
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group, its settings looked at."""
        super().add_param_group(param_group)
        try:
            self.check(self.param_groups[-1])
        except ConfigError:
            del self.param_groups[-1]
            raise

    def check(self, group: dict[str, Any]) -> None:
        """Raise `ConfigError` unless a step can be taken with the settings of ``group``."""
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        # A tensor that lives on a GPU would be waited for.
        require(isinstance(lr, Tensor) or (is_number(lr) and lr >= 0), "lr", lr, "a number, 0 or more")
        require(is_number(momentum) and 0 <= momentum < 1, "momentum", momentum, "a number in [0, 1)")
        require(is_number(decay) and decay >= 0, "weight_decay", decay, "a number, 0 or more")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in weights):
                raise ConfigError(
                    f"{type(self).__name__} is given a sparse gradient; make the embedding with sparse=False, or step it with "
                    "torch.optim.SparseAdam"
                )
            if weights:
                self.update(weights, group)
        return loss

    def update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update ``weights``, those of ``group`` that have a gradient, in place."""
        raise NotImplementedError
