"""Proxy-anchor loss against loops over proxies in float64, and another library."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from simclr.losses import ProxyAnchorConfig, ProxyAnchorLoss
from simclr.objectives import build_objective
from simclr.optim.optimizers import parameter_groups


def brute_force(z, proxies, labels, alpha, margin):
    pull, push = [], []
    for c, proxy in enumerate(proxies):
        cosines = [row @ proxy / (row.norm() * proxy.norm()) for row in z]
        own = [s for s, label in zip(cosines, labels.tolist()) if label == c]
        others = [s for s, label in zip(cosines, labels.tolist()) if label != c]
        if own:
            pull.append(torch.log(1 + sum(torch.exp(-alpha * (s - margin)) for s in own)))
        push.append(torch.log(1 + sum(torch.exp(alpha * (s + margin)) for s in others)) if others else 0 * proxy.sum())
    return sum(pull) / len(pull) + sum(push) / len(push)


@pytest.mark.parametrize(("alpha", "margin"), [(32.0, 0.1), (4.0, 0.0), (10.0, 0.5)])
@pytest.mark.parametrize("most", [3, 6], ids=["classes that the batch lacks", "every class"])
def test_equals_loops_over_proxies(alpha, margin, most):
    torch.manual_seed(0)
    loss = ProxyAnchorLoss(6, 5, margin, alpha)
    z, labels = torch.randn(20, 5), torch.arange(20) % most
    wide, proxies = z.double().requires_grad_(), loss.proxies.detach().double().requires_grad_()
    expected = brute_force(wide, proxies, labels, alpha, margin)
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.proxies.grad.double(), proxies.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("alpha", "margin"), [(32.0, 0.1), (8.0, 0.3)])
def test_equals_pytorch_metric_learning(alpha, margin):
    torch.manual_seed(1)
    loss, theirs = ProxyAnchorLoss(7, 16, margin, alpha), pml_losses.ProxyAnchorLoss(7, 16, margin=margin, alpha=alpha)
    with torch.no_grad():
        theirs.proxies.copy_(loss.proxies)
    z, labels = torch.randn(20, 16), torch.randint(5, (20,))  # two of the seven classes are not in the batch
    other = z.clone().requires_grad_()
    expected = theirs(other, labels)
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_cold_similarities_do_not_overflow():
    loss = ProxyAnchorLoss(3, 2, alpha=1e4)
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = loss(z, torch.tensor([0, 1]))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all() and torch.isfinite(loss.proxies.grad).all()


def test_statistics_and_scores():
    loss = ProxyAnchorLoss(3, 2, alpha=10.0)
    with torch.no_grad():
        loss.proxies.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    loss(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    found = {name: float(value) for name, value in loss.statistics.items()}
    assert found == pytest.approx(
        {"accuracy": 0.5, "classes": 1, "positive_distance": 0.5, "negative_distance": 1 - (0 - 1 + 1 + 0) / 4}
    )
    torch.testing.assert_close(loss.scores(torch.tensor([[0.6, 0.8]])).detach(), torch.tensor([[6.0, 8.0, -6.0]]))


def test_proxies_learn_at_a_hundred_times_the_rate_without_decay():
    config = ProxyAnchorConfig()
    objective = build_objective(config, classes=4, dim=3, samples=10, seed=0)
    groups = parameter_groups(torch.nn.Linear(3, 3), 0.1, objective, config.lr_multiplier)
    own = [group for group in groups if any(p is objective.loss.proxies for p in group["params"])]
    assert [(group["lr_scale"], group["weight_decay"]) for group in own] == [(100.0, 0.0)]


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="labels run from 0 to 3, expected 0 to 2 for 3 classes"):
        ProxyAnchorLoss(3, 2)(torch.ones(2, 2), torch.tensor([0, 3]))
    assert torch.isfinite(ProxyAnchorLoss(1, 2)(torch.ones(2, 2), torch.tensor([0, 0])))
