"""A network as it answers, without a trace: eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, ``module`` is in eval mode; behind it each of its modules is in the mode that it had.

    >>> body = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with evaluating(body):
    ...     body[0].training
    False
    >>> body[0].training, body[1].training
    (True, False)
    """
    modes = {one: one.training for one in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for one, training in modes.items():
            one.training = training
