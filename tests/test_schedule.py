"""The learning rate against torch's own schedulers."""

import pytest
import torch

from simclr.optim.schedule import learning_rate


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


def test_no_warmup_and_constant() -> None:
    assert learning_rate(0, total_steps=5, warmup_steps=0, peak=1.0) == 1.0
    assert learning_rate(4, total_steps=5, warmup_steps=0, peak=1.0, decay="constant") == 1.0
    assert learning_rate(3, total_steps=5, warmup_steps=1, peak=1.0, decay="linear") == pytest.approx(0.5)
