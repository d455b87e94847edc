"""torch.compile where it works: a machine without a C compiler trains too, only slower, and says so once."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CompiledModel", "maybe_compiled"]


class CompiledModel(nn.Module):
    """``model`` through ``torch.compile`` in ``mode``; where compiling fails, a warning says why and it goes on eagerly.

    What the model itself raises, eagerly too, is raised by its own name.
    """

    def __init__(self, model: nn.Module, mode: str) -> None:
        super().__init__()
        self.model = model
        self._compiled: Callable[..., Any] | None = torch.compile(model.forward, mode=mode)

    def forward(self, views: Tensor) -> Tensor:
        if self._compiled is None:
            z: Tensor = self.model(views)
            return z
        try:
            z = self._compiled(views)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler fails in more ways than it has exceptions
            z = self.model(views)  # a fault of the model shows here
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile failed, training goes on without it: {reason}", stacklevel=2)
            self._compiled = None
        return z


def maybe_compiled(model: nn.Module, mode: str) -> nn.Module:
    """``model`` itself for the mode "no"."""
    return model if mode == "no" else CompiledModel(model, mode)
