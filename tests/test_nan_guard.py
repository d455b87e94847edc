"""The guard keeps the first bad step and names its rows, however late it is asked."""

import pytest
import torch
from torch import nn

from simclr.run.nan_guard import FiniteGuard, NotFiniteError, refuse_weights


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


def stepped(optimizer: type[torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    built = optimizer(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    built.step()
    return model, built


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_finite_weights_are_not_refused(optimizer: type[torch.optim.Optimizer]) -> None:
    refuse_weights(*stepped(optimizer), 4)


def test_a_variance_that_overflows_is_refused_by_name() -> None:
    model, optimizer = stepped(torch.optim.SGD)
    z = model(torch.full((5, 3), 1e20) * torch.arange(5)[:, None])
    assert z.isfinite().all()  # the guard sees nothing: the batch's own variance overflows, and the rows come out as 0
    with pytest.raises(NotFiniteError, match=r"^1\.running_var became NaN or infinite at step 4 or before it\. Check"):
        refuse_weights(model, optimizer, 4)


def test_an_update_that_overflows_is_refused_by_name() -> None:
    model, optimizer = stepped(torch.optim.SGD)
    optimizer.param_groups[0]["lr"] = 3e38
    for p in model.parameters():
        p.grad = torch.full_like(p, 10.0)
    optimizer.step()
    with pytest.raises(NotFiniteError, match=r"^0\.weight and 3 other tensors became"):
        refuse_weights(model, optimizer, 4)


def test_a_state_of_the_optimizer_that_overflows_is_refused_by_name() -> None:
    """A squared gradient of 1e44 leaves every weight finite, and where it is for ever."""
    model, optimizer = stepped(torch.optim.AdamW)
    model[0].bias.grad = torch.full((4,), 1e22)
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(NotFiniteError, match=r"^exp_avg_sq of 0\.bias became"):
        refuse_weights(model, optimizer, 4)
    refuse_weights(model, None, 4)
