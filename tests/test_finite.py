"""The guard keeps the first bad step and names its rows, however late it is asked."""

import torch

from simclr.finite import FiniteGuard


def test_the_first_bad_step_is_kept() -> None:
    guard = FiniteGuard(4, torch.device("cpu"))
    one, good, indices = torch.tensor(1.0), torch.ones(2, 4, 3), torch.tensor([7, 5, 9, 2])
    guard.watch(0, one, good, one, indices)
    assert guard.check() is None
    bad = good.clone()
    bad[1, 2, 0] = float("nan")
    bad[0, 3, 1] = float("inf")
    guard.watch(1, torch.tensor(float("nan")), bad, one, indices)
    guard.watch(2, one, good * float("nan"), torch.tensor(float("inf")), indices + 10)
    assert guard.check() == (1, ["embedding", "loss"], [9, 2])


def test_a_bad_gradient_alone_is_noticed() -> None:
    guard = FiniteGuard(4, torch.device("cpu"))
    guard.watch(3, torch.tensor(1.0), torch.ones(2, 4, 3), torch.tensor(float("inf")), torch.arange(4))
    assert guard.check() == (3, ["gradient"], [])
