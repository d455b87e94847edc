"""The learning rate against torch's own schedulers."""

import pytest
import torch

from simclr.config import ScheduleConfig
from simclr.optim.schedule import decay_begins, learning_rate, set_learning_rate


def test_cosine_equals_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.7)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.07)
    for step in range(10, 100):
        ours = learning_rate(step, total_steps=100, warmup_steps=10, peak=0.7, final=0.1)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warmup_rises_linearly_to_the_peak_and_never_above() -> None:
    rates = [learning_rate(s, total_steps=50, warmup_steps=20, peak=2.0) for s in range(50)]
    assert rates[:20] == pytest.approx([2.0 * (s + 1) / 20 for s in range(20)])
    assert max(rates) == 2.0
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_warmup_stable_decay() -> None:
    """The last fifth falls by 1 - sqrt; before it the rates are those of a run of any other length."""
    rates = [learning_rate(s, total_steps=100, warmup_steps=10, peak=2.0, final=0.1, decay="wsd") for s in range(100)]
    longer = [learning_rate(s, total_steps=170, warmup_steps=10, peak=2.0, final=0.1, decay="wsd") for s in range(170)]
    assert rates[:80] == longer[:80] == pytest.approx([0.2 * (s + 1) for s in range(10)] + 70 * [2.0])
    assert rates[80:] == pytest.approx([0.2 + 1.8 * (1 - (s / 20) ** 0.5) for s in range(20)])
    assert longer[135] == 2.0 > longer[137]


@pytest.mark.parametrize(("epochs", "head", "warmup"), [(1, 0, 1.0), (4, 1, 0.5), (10, 2, 1.0), (30, 0, 28.0)])
def test_the_decay_begins_where_the_rates_of_a_longer_run_part(epochs: int, head: int, warmup: float) -> None:
    schedule = ScheduleConfig(decay="wsd", head_epochs=head, warmup_epochs=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.param_groups[0]["lr_scale"] = 1.0

    def rates(epochs: int) -> list[float]:
        lengths = {"steps_per_epoch": 7, "total_steps": 7 * epochs}
        return [set_learning_rate(optimizer, schedule, step, peak=0.5, **lengths) for step in range(7 * epochs)]

    begins = decay_begins(schedule, steps_per_epoch=7, total_steps=7 * epochs)
    short, long = rates(epochs), rates(epochs + 50)
    assert begins is not None and short[:begins] == long[:begins]
    # The decay's first step has still the peak, so the rates part one later.
    assert all(a < b for a, b in zip(short[begins + 1 :], long[begins + 1 :]))


def test_no_warmup_and_constant() -> None:
    assert learning_rate(0, total_steps=5, warmup_steps=0, peak=1.0) == 1.0
    assert learning_rate(4, total_steps=5, warmup_steps=0, peak=1.0, decay="constant") == 1.0
    assert learning_rate(3, total_steps=5, warmup_steps=1, peak=1.0, decay="linear") == pytest.approx(0.5)
