"""A step that is not finite leaves nothing behind, is told with its images, and ends the run only with many in a row."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from simclr.data import ImageSet
from simclr.data.decode import Reader
from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS
from simclr.run.nan_guard import FiniteGuard, NotFiniteError, Skip, refuse_weights
from simclr.run.undo import Undo

CPU, ONE, GOOD, NAN = torch.device("cpu"), torch.tensor(1.0), torch.ones(2, 4, 3), torch.tensor(float("nan"))
YES, NO = torch.tensor(True), torch.tensor(False)
BIRDS = ImageSet(name="birds", reader=Reader(size=8), pixels=torch.zeros(100, 3, 8, 8, dtype=torch.uint8))


def test_every_skipped_step_is_told_with_its_images() -> None:
    told: list[Skip] = []
    guard, indices = FiniteGuard(4, CPU, BIRDS, told.extend), torch.tensor([7, 5, 9, 2])
    guard.watch(0, NO, ONE, GOOD, ONE, indices)
    guard.check()
    assert told == []
    bad = GOOD.clone()
    bad[1, 2, 0] = float("nan")
    bad[0, 3, 1] = float("inf")
    guard.watch(1, YES, NAN, bad, ONE, indices)
    guard.watch(2, NO, ONE, GOOD, ONE, indices)
    guard.watch(3, YES, ONE, GOOD, torch.tensor(float("inf")), indices + 10)
    assert told == [
        Skip(1, ("embedding", "loss"), (9, 2), (7, 5, 9, 2)),
        Skip(3, ("gradient",), (), (17, 15, 19, 12)),
    ]
    words = "the embedding and the loss became NaN or infinite at step 1 of image 9 of birds, image 2 of birds"
    assert told[0].what(BIRDS) == words


def test_only_many_bad_steps_in_a_row_end_the_run() -> None:
    guard, indices = FiniteGuard(4, CPU, BIRDS, patience=3), torch.arange(4)
    for step in (0, 1, 3, 4, 6, 7):
        guard.watch(step, YES, NAN, GOOD, NAN, indices)
    with pytest.raises(NotFiniteError, match=r"at step 6, and so it was in all 3 steps from there on\. Check") as end:
        guard.watch(8, YES, NAN, GOOD, NAN, indices)
    assert end.value.step == 6


def test_what_a_gradient_scaler_skips_is_counted_and_no_fault() -> None:
    told: list[Skip] = []
    guard, indices = FiniteGuard(4, CPU, BIRDS, told.extend, patience=1, scaled=True), torch.arange(4)
    for norm in (ONE, torch.tensor(float("inf")), NAN):
        guard.watch(0, NO, ONE, GOOD, norm, indices)
    assert (told, guard.figures()) == ([], {"scaler_skips": 2.0})
    assert FiniteGuard(4, CPU, BIRDS).figures() == {}


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "lars": lambda p: LARS(p, lr=0.1, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "adamw as on a GPU": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "muon": lambda p: Muon(
        [{"params": [q for q in p if q.ndim > 1]}, {"params": [q for q in p if q.ndim == 1], "adapt": False}], lr=0.1
    ),
}


def trained(make: Make, bad: int | None, left_out: int | None, at_once: bool, scaled: bool = False) -> list[Tensor]:
    """All tensors after six batches, the batch ``bad`` with a NaN in it, the batch ``left_out`` never seen."""
    torch.manual_seed(0)
    # Without a bias in front of BatchNorm, whose gradient is rounding alone.
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = make(list(net.parameters()))
    undo = Undo(net, optimizer, scaled=scaled, at_once=at_once)
    for step, batch in enumerate(torch.randn(6, 8, 4)):
        if step == left_out:
            continue
        if step == bad:
            batch = batch.index_fill(0, torch.tensor([2]), float("nan"))
        undo.begin()
        loss = net(batch).square().sum()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        if undo.worth_taking(loss, norm):
            optimizer.step()
        undo.put_back()
        optimizer.zero_grad()
        if isinstance(optimizer, Muon) and not at_once:  # as on a GPU, where steps are counted in tensors
            for state in optimizer.state.values():
                if isinstance(state.get("step"), int):
                    state["step"] = torch.tensor(float(state["step"]))
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [torch.as_tensor(value) for value in [*net.state_dict().values(), *states]]


@pytest.mark.parametrize("at_once", [True, False], ids=["read at once", "undone by the device"])
@pytest.mark.parametrize("bad", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_leaves_every_bit_as_if_its_batch_had_not_been(name: str, bad: int, at_once: bool) -> None:
    if name == "muon" and not at_once and bad == 0:
        pytest.skip("its count becomes a tensor in the first step, which this machine does not do by itself")
    skipped = trained(OPTIMIZERS[name], bad, None, at_once)
    without = trained(OPTIMIZERS[name], None, bad, at_once)
    assert len(skipped) == len(without)
    assert all(torch.equal(one, other) for one, other in zip(skipped, without, strict=True))
    assert all(tensor.isfinite().all() for tensor in skipped)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_undone_on_the_device_changes_no_bit_of_good_steps(name: str) -> None:
    read, undone = (trained(OPTIMIZERS[name], None, None, at_once) for at_once in (True, False))
    for one, other in zip(read, undone, strict=True):
        if name == "muon":  # tensors count its steps there, in another order of products
            torch.testing.assert_close(one, other.to(one.dtype))
        else:
            assert torch.equal(one, other)


def test_a_gradient_that_overflows_in_fp16_is_left_to_its_scaler() -> None:
    net = nn.Linear(2, 2)
    undo = Undo(net, torch.optim.SGD(net.parameters(), lr=0.1), scaled=True, at_once=True)
    assert undo.worth_taking(ONE, torch.tensor(float("inf"))) and not undo.skipped
    assert not undo.worth_taking(NAN, ONE) and undo.skipped


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
