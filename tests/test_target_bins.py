"""Bins from the histogram of a target, against numpy's rule of the same name."""

import numpy as np
import pytest
import torch

from simclr.errors import ConfigError, DataError
from simclr.losses import TargetBins, choose_bins


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("draw", ["standard_normal", "random", "standard_exponential"])
def test_as_many_bins_as_numpy_cuts_the_histogram_into(draw, seed):
    values = getattr(np.random.default_rng(seed), draw)(700) * 40 + 3
    bins = choose_bins(torch.from_numpy(values), at_least=2, at_most=10_000)
    edges = np.histogram_bin_edges(values, bins="fd")
    assert abs((bins.count - 1) - (len(edges) - 1)) <= 1  # numpy rounds up, so that its bins are never wider
    assert (bins.low, bins.high) == pytest.approx((values.min(), values.max()))


def test_limits():
    values = torch.linspace(0, 1, 100_000)
    assert choose_bins(values).count == 47
    assert choose_bins(values, at_most=16).count == 16
    assert choose_bins(torch.tensor([0.0, 1.0])).count == 8
    assert choose_bins(torch.tensor([0.0] * 90 + [1.0] * 10)).count == 64  # no spread between the quartiles


def test_coverage_leaves_outliers_to_the_ends():
    values = torch.cat([torch.linspace(0, 1, 999), torch.tensor([1000.0])])
    assert choose_bins(values).high == 1000
    trimmed = choose_bins(values, coverage=0.99)
    expected = np.quantile(values.numpy().astype(np.float64), [0.005, 0.995])
    assert (trimmed.low, trimmed.high) == pytest.approx(tuple(expected))
    assert trimmed.to_bins(torch.tensor([1000.0])) == trimmed.count - 1


def test_bins_and_values_are_inverse():
    bins = TargetBins(low=-3.0, high=12.0, count=31)
    values = torch.linspace(-3, 12, 77)
    torch.testing.assert_close(bins.to_values(bins.to_bins(values)), values)
    assert bins.step == 0.5
    assert bins.to_bins(torch.tensor([-4.0, 13.0])).tolist() == [0, 30]


@pytest.mark.parametrize("values", [[1.0], [], [1.0, torch.nan], [1.0, torch.inf], [2.0, 2.0, 2.0]])
def test_targets_that_cannot_be_binned_are_refused(values):
    with pytest.raises(DataError, match=r"finite targets|all 2\.0"):
        choose_bins(torch.tensor(values))


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match="low must be below high"):
        TargetBins(low=1.0, high=1.0, count=4)
    with pytest.raises(ConfigError, match="count is 1"):
        TargetBins(low=0.0, high=1.0, count=1)
    with pytest.raises(ConfigError, match="coverage is 0"):
        choose_bins(torch.rand(10), coverage=0)
