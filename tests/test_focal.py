"""Quality and distribution focal loss against their equations in float64, and at the corners others fall over."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from augment import soft_targets
from simclr.errors import ConfigError, DataError
from simclr.losses import (
    DistributionFocalConfig,
    DistributionFocalLoss,
    DistributionHead,
    QualityFocalLoss,
    TargetBins,
    distribution_focal_loss,
    integral,
    quality_focal_loss,
)
from simclr.losses.focal import soft_quality_focal_loss


def qfl_by_loops(logits, labels, quality, beta):
    per_sample = []
    for i in range(len(logits)):
        total = 0.0
        for c in range(logits.shape[1]):
            y = float(quality[i]) if c == labels[i] else 0.0
            sigma = torch.sigmoid(logits[i, c])
            bce = -(y * torch.log(sigma) + (1 - y) * torch.log(1 - sigma))
            total = total + torch.abs(y - sigma) ** beta * bce
        per_sample.append(total)
    return torch.stack(per_sample)


@pytest.mark.parametrize("beta", [2.0, 1.0, 1.5, 0.5, 3.7])
def test_quality_focal_equals_its_equation(beta):
    torch.manual_seed(0)
    logits, labels = torch.randn(12, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, -1, 4, -100, 0])  # three are background
    quality = torch.rand(12)
    wide = logits.double().requires_grad_()
    expected = qfl_by_loops(wide, labels, quality, beta)
    expected.mean().backward()
    logits.requires_grad_()
    value = quality_focal_loss(logits, labels, quality, beta)
    value.backward()
    torch.testing.assert_close(value.double(), expected.mean(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-5, atol=1e-7)
    each = quality_focal_loss(logits, labels, quality, beta, "none")
    torch.testing.assert_close(each.double(), expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(quality_focal_loss(logits, labels, quality, beta, "sum"), each.sum())
    exact = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, labels, quality.double(), beta), (exact,))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("y", [0.25, 0.5, 0.8])
def test_quality_focal_is_least_exactly_where_sigma_is_the_quality(beta, y):
    sigma = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    values = quality_focal_loss(torch.logit(sigma)[:, None], torch.zeros(99).long(), torch.full((99,), y), beta, "none")
    assert int(values.argmin()) == round(y * 100) - 1
    logit = torch.logit(torch.tensor([[y]], dtype=torch.float64)).requires_grad_()
    there = quality_focal_loss(logit, torch.tensor([0]), torch.tensor([y], dtype=torch.float64), beta)
    there.backward()
    assert there < 1e-7 and torch.isfinite(logit.grad).all()


def test_quality_focal_at_exact_hits_and_extreme_logits():
    logits = torch.tensor([[0.0, 200.0], [-200.0, 200.0]], requires_grad=True)
    for beta in (0.5, 2.0):
        logits.grad = None
        value = quality_focal_loss(logits, torch.tensor([0, 1]), torch.tensor([0.5, 1.0]), beta)
        value.backward()
        assert float(value.detach()) == pytest.approx(100)  # sigma 1 for a class of target 0: BCE 200, over 2 samples
        assert torch.isfinite(logits.grad).all()


def dfl_by_loops(logits, target):
    total = []
    for i in range(len(logits)):
        share = torch.softmax(logits[i], 0)
        left = min(math.floor(float(target[i])), logits.shape[1] - 2)
        to_right = float(target[i]) - left
        total.append(-(1 - to_right) * torch.log(share[left]) - to_right * torch.log(share[left + 1]))
    return torch.stack(total)


def test_distribution_focal_equals_its_equation():
    torch.manual_seed(0)
    logits = torch.randn(9, 6)
    target = torch.tensor([0.0, 5.0, 4.999, 2.0, 3.5, 0.25, 1.75, 4.0, 4.5])  # both ends, whole bins, between
    wide = logits.double().requires_grad_()
    expected = dfl_by_loops(wide, target)
    expected.mean().backward()
    logits.requires_grad_()
    value = distribution_focal_loss(logits, target)
    value.backward()
    torch.testing.assert_close(value.double(), expected.mean(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(distribution_focal_loss(logits, target, "none").double(), expected, rtol=1e-5, atol=1e-6)
    exact = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distribution_focal_loss(x, target.double()), (exact,))


def test_distribution_focal_on_whole_bins_is_cross_entropy_and_the_last_bin_is_one():
    torch.manual_seed(0)
    logits = torch.randn(7, 7)
    for dtype in (torch.float32, torch.int64):
        value = distribution_focal_loss(logits, torch.arange(7).to(dtype))
        torch.testing.assert_close(value, F.cross_entropy(logits, torch.arange(7)))


def test_distribution_focal_beyond_the_ends_counts_as_the_ends():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    outside = distribution_focal_loss(logits, torch.tensor([-3.0, 9.0]), "none")
    assert torch.equal(outside, distribution_focal_loss(logits, torch.tensor([0.0, 4.0]), "none"))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_values_never_give_a_finite_focal_loss(bad):
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    target, labels = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([-1, 3, 0])
    assert torch.isnan(quality_focal_loss(logits, labels, torch.ones(3)))
    assert torch.isnan(distribution_focal_loss(logits, target))
    assert torch.isnan(distribution_focal_loss(torch.zeros(3, 4), torch.tensor([0.5, torch.nan, 2.0])))


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    target, labels = torch.linspace(0, 4, 6), torch.arange(6) % 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distribution_focal_loss(logits, target), distribution_focal_loss(logits.float(), target))
        quality = torch.rand(6)
        assert torch.equal(
            quality_focal_loss(logits, labels, quality), quality_focal_loss(logits.float(), labels, quality)
        )
        assert integral(logits).dtype == torch.float32


def test_the_head_is_the_expectation_over_its_bins():
    torch.manual_seed(0)
    head = DistributionHead(6, 9)
    x = torch.randn(4, 6)
    share = head.logits(x).detach().double().softmax(1).numpy()
    expected = [sum(i * p for i, p in enumerate(row)) for row in share]
    assert head(x).tolist() == pytest.approx(expected, rel=1e-6)
    assert head.logits(x).shape == (4, 9)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.full((9,), -1e4).index_fill(0, torch.tensor([8]), 0))
    assert head(x).tolist() == [8] * 4


def test_regression_reaches_its_targets():
    torch.manual_seed(0)
    bins = TargetBins(low=-10.0, high=10.0, count=9)
    loss = DistributionFocalLoss(4, bins)
    z = torch.rand(64, 4)
    target = 30 * z[:, 0] - 15 * z[:, 1] - 7
    target = target.clamp(-10, 10)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        loss(z, target).backward()
        optimizer.step()
    assert loss.statistics["mean_error_bins"] < 0.5
    assert float(loss.statistics["mean_error"]) == pytest.approx(float(loss.statistics["mean_error_bins"]) * 2.5)
    error = (loss.predict(z) - target).abs().mean()
    assert float(error.detach()) < 0.5 * 2.5


def test_labels_serve_as_the_number_by_default():
    loss = DistributionFocalConfig().build(10, 4, 0)
    assert loss.bins == TargetBins(low=0.0, high=9.0, count=10)
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(z, torch.tensor([0, 9, 3, 4, 1])), loss(z, torch.tensor([0.0, 9.0, 3.0, 4.0, 1.0])))
    other = DistributionFocalConfig(low=5.0, high=50.0, bins=16).build(10, 4, 0)
    assert other.bins == TargetBins(low=5.0, high=50.0, count=16)


def test_the_classifier_trains_hard_labels_with_quality_one():
    torch.manual_seed(0)
    loss = QualityFocalLoss(4, 3, beta=1.5)
    z, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 3, 0, 1, -1, 2])
    logits = z @ loss.head.weight.T + loss.head.bias
    expected = qfl_by_loops(logits.double(), labels, torch.ones(8), 1.5).mean()
    torch.testing.assert_close(loss(z, labels).double(), expected, rtol=1e-5, atol=1e-7)
    right = (logits.argmax(1) == labels).sum() / 7
    assert float(loss.statistics["accuracy"]) == pytest.approx(float(right))


def test_what_is_refused():
    logits, labels, quality = torch.zeros(3, 4), torch.zeros(3).long(), torch.zeros(3)
    with pytest.raises(TypeError, match="expected int64"):
        quality_focal_loss(logits, labels.float(), quality)
    with pytest.raises(ValueError, match=r"quality has shape \(2,\), expected \(3,\)"):
        quality_focal_loss(logits, labels, quality[:2])
    with pytest.raises(ConfigError, match="reduction is 'avg'; it must be mean, sum or none"):
        quality_focal_loss(logits, labels, quality, reduction="avg")
    with pytest.raises(ConfigError, match="beta is 0"):
        quality_focal_loss(logits, labels, quality, beta=0)
    with pytest.raises(ValueError, match="at least two bins"):
        distribution_focal_loss(logits[:, :1], quality)
    with pytest.raises(ConfigError, match="bins is 1; it must be at least 2"):
        DistributionHead(4, 1)
    with pytest.raises(ValueError, match=r"targets are torch.bool"):
        DistributionFocalLoss(4, TargetBins(low=0, high=1, count=2))(logits, torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize("beta", [0.5, 2.0, 2.5])
def test_soft_quality_focal_equals_its_equation_class_by_class(beta):
    torch.manual_seed(0)
    logits, target = torch.randn(7, 4), torch.rand(7, 4)
    target[0], target[1] = torch.zeros(4), torch.ones(4)
    wide = logits.double().requires_grad_()
    sigma, y = torch.sigmoid(wide), target.double()
    each = ((y - sigma).abs() ** beta * -(y * torch.log(sigma) + (1 - y) * torch.log(1 - sigma))).sum(1)
    each.mean().backward()
    logits.requires_grad_()
    value = soft_quality_focal_loss(logits, target, beta)
    value.backward()
    torch.testing.assert_close(value.double(), each.mean(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        soft_quality_focal_loss(logits, target, beta, "none").double(), each, rtol=1e-5, atol=1e-7
    )
    with pytest.raises(ValueError, match=r"must both be \(N, C\)"):
        soft_quality_focal_loss(logits, target[:, :2], beta)


def test_the_classifier_takes_mixed_labels_and_qualities():
    torch.manual_seed(0)
    loss = QualityFocalLoss(4, 3)
    z, labels, quality = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1]), torch.rand(6)
    logits = loss.scores(z)
    soft = soft_targets(labels, 4, quality)
    torch.testing.assert_close(loss(z, soft), quality_focal_loss(logits, labels, quality))
    assert float(loss.statistics["accuracy"]) == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    torch.testing.assert_close(loss(z, soft_targets(labels, 4)), loss(z, labels))


def test_bins_are_fitted_to_numbers_and_left_to_labels():
    torch.manual_seed(0)
    numbers = torch.cat([torch.randn(500) * 3 + 20, torch.tensor([5.0, 40.0])])
    fitted = DistributionFocalConfig().fitted(numbers, 0)
    first, third = np.quantile(numbers.double().numpy(), [0.25, 0.75])
    width = 2 * (third - first) / 502 ** (1 / 3)  # Freedman and Diaconis 1981
    assert (fitted.low, fitted.high) == (5.0, 40.0)
    assert fitted.bins == min(64, max(8, round(35 / width) + 1))
    assert fitted.build(0, 4, 0).bins == TargetBins(low=5.0, high=40.0, count=fitted.bins)
    assert fitted.fitted(numbers * 2, 0) == fitted
    assert DistributionFocalConfig().fitted(torch.arange(10), 10) == DistributionFocalConfig()
    given = DistributionFocalConfig(low=0.0, high=1.0, bins=5)
    assert given.fitted(numbers, 0) == given
    for useless in (torch.full((9,), 3.0), torch.tensor([1.0]), torch.tensor([1.0, float("nan")])):
        with pytest.raises(DataError):
            DistributionFocalConfig().fitted(useless, 0)
