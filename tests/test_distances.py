"""Distances against differences taken one by one in float64, where it is hard: near-duplicates, zeros, far origins."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from simclr.distances import paired_distance, pairwise_distance
from simclr.errors import ConfigError
from simclr.numerics import full_precision, l2_normalize, row_chunks, zero_with_graph

KINDS = ["euclidean", "squared", "manhattan", "cosine"]
SCIPY = {"euclidean": "euclidean", "squared": "sqeuclidean", "manhattan": "cityblock", "cosine": "cosine"}


def rows(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient_by_loops(x, y, weight, kind):
    """Gradient in x of sum_ij weight_ij d(x_i, y_j) by the formula of each pair, in float64 numpy; 0 at distance 0."""
    x, y, weight = x.double().numpy(), y.double().numpy(), weight.double().numpy()
    grad = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(y)):
            difference = x[i] - y[j]
            if kind == "squared":
                slope = 2 * difference
            elif kind == "manhattan":
                slope = np.sign(difference)
            elif kind == "euclidean":
                length = np.sqrt((difference**2).sum())
                slope = difference / length if length > 0 else 0 * difference
            else:
                a, b = np.linalg.norm(x[i]), np.linalg.norm(y[j])
                slope = -(y[j] / (a * b) - (x[i] @ y[j]) * x[i] / (a**3 * b))
            grad[i] += weight[i, j] * slope
    return grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_between_two_sets(kind, dtype):
    x, y = rows(300, 7, dtype=dtype), rows(23, 7, seed=1, dtype=dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    d = pairwise_distance(x.requires_grad_(), y.requires_grad_(), kind)
    assert d.dtype == dtype
    expected = cdist(x.detach().double().numpy(), y.detach().double().numpy(), SCIPY[kind])
    np.testing.assert_allclose(d.detach().numpy(), expected, rtol=tolerance, atol=tolerance)
    weight = rows(300, 23, seed=2, dtype=dtype)
    (d * weight).sum().backward()
    for given, other, w in ((x, y, weight), (y, x, weight.T)):
        expected = gradient_by_loops(given.detach(), other.detach(), w, kind)
        np.testing.assert_allclose(given.grad.numpy(), expected, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_within_one_set(kind):
    x = rows(270, 5)
    x[4] = x[3]
    d = pairwise_distance(x.requires_grad_(), kind=kind)
    expected = cdist(x.detach().double().numpy(), x.detach().double().numpy(), SCIPY[kind])
    np.testing.assert_allclose(d.detach().numpy(), expected, rtol=1e-6, atol=1e-6)
    assert torch.all(d.diagonal() == 0)
    assert d[3, 4] == 0
    weight = rows(270, 270, seed=2).fill_diagonal_(0)
    (d * weight).sum().backward()
    both = gradient_by_loops(x.detach(), x.detach(), weight + weight.T, kind)
    np.testing.assert_allclose(x.grad.numpy(), both, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    x, y = rows(6, 4, dtype=torch.float64).requires_grad_(), rows(3, 4, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: pairwise_distance(x, y, kind), (x, y))
    assert torch.autograd.gradcheck(lambda x: pairwise_distance(x, kind=kind), (x,))
    assert torch.autograd.gradcheck(lambda x, y: paired_distance(x[:3], y, kind), (x, y))


@pytest.mark.parametrize("kind", KINDS)
def test_paired_is_the_diagonal_of_pairwise(kind):
    x, y = rows(2, 9, 6), rows(9, 6, seed=1)
    y[2] = 0
    expected = torch.stack([pairwise_distance(view, y, kind).diagonal() for view in x])
    torch.testing.assert_close(paired_distance(x, y, kind), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dimensions", [16, 128, 1024])
@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-5])
def test_near_duplicates_keep_their_distance_and_gradient(dimensions, apart):
    """Unit vectors `apart` from each other. The usual float32 expansion gives 0 or 3e-4 for all of 1e-4 and below."""
    x = l2_normalize(rows(40, dimensions))
    near = x + apart * l2_normalize(rows(40, dimensions, seed=1))
    both = torch.cat([x, near]).requires_grad_()
    d = pairwise_distance(both)
    exact = (x.double() - near.double()).norm(dim=1)
    ours = d[:40, 40:].diagonal()
    torch.testing.assert_close(ours.double(), exact, rtol=2e-4, atol=0)
    ours.sum().backward()
    direction = (x.double() - near.double()) / exact.unsqueeze(1)
    torch.testing.assert_close(both.grad[:40].double(), direction, rtol=0, atol=2e-4)
    naive = (2 - 2 * (x @ near.T).diagonal()).clamp(min=0).sqrt()
    if apart <= 1e-4:
        assert ((naive.double() - exact).abs() / exact).max() > 0.3  # what this test guards against


@pytest.mark.parametrize("dimensions", [2, 128, 2048])
def test_equal_rows_far_from_the_origin_are_at_distance_zero_with_zero_gradient(dimensions):
    x = rows(50, dimensions) + 1000
    both = torch.cat([x, x]).requires_grad_()
    d = pairwise_distance(both)
    assert torch.all(d[:50, 50:].diagonal() == 0)
    d[:50, 50:].diagonal().sum().backward()
    assert torch.all(both.grad == 0)
    exact = cdist(x.double().numpy(), x.double().numpy())
    np.testing.assert_allclose(d[:50, :50].detach().numpy(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_give_no_nan(kind):
    x = rows(5, 3)
    x[1] = 0
    x[3] = 0
    d = pairwise_distance(x.requires_grad_(), kind=kind)
    d.sum().backward()
    assert torch.isfinite(d).all() and torch.isfinite(x.grad).all()
    assert torch.all(d.diagonal() == 0)
    if kind == "cosine":
        assert torch.all(d[1, [0, 2, 3, 4]] == 1)
        assert torch.all(x.grad[[1, 3]] == 0)


def test_normalize_takes_any_finite_row():
    x = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = l2_normalize(x)
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(unit.detach(), expected)
    unit[:, 0].sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.all(x.grad[2] == 0)  # x / max(|x|, 1e-12) would give 1e12
    torch.testing.assert_close(x.grad[3], torch.tensor([0.64 / 5, -0.48 / 5]))
    assert torch.isnan(l2_normalize(torch.tensor([torch.inf, 1.0]))).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32_under_autocast_too(kind, dtype):
    x = rows(40, 16).to(dtype)
    expected = pairwise_distance(x.float(), kind=kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairwise_distance(x, kind=kind), expected)
        assert torch.equal(paired_distance(x[:20], x[20:], kind), paired_distance(x[:20].float(), x[20:].float(), kind))
    assert full_precision(x).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_not_finite_rows_show(kind):
    x = rows(4, 3)
    x[2, 0] = torch.nan
    d = pairwise_distance(x, kind=kind)
    assert torch.isnan(d[2, [0, 1, 3]]).all() and torch.isnan(d[[0, 1, 3], 2]).all()
    assert torch.isfinite(d[:2, :2]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty(kind):
    assert pairwise_distance(torch.zeros(0, 3), kind=kind).shape == (0, 0)
    assert pairwise_distance(torch.zeros(2, 3), torch.zeros(0, 3), kind=kind).shape == (2, 0)


def test_zero_with_graph_is_zero_unless_something_is_broken():
    x = torch.full((3, 2), 3e38, requires_grad=True)
    zero = zero_with_graph(x)
    assert zero == 0
    zero.backward()
    assert torch.all(x.grad == 0)
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert torch.isnan(zero_with_graph(torch.tensor([1.0, bad])))
    assert zero_with_graph(torch.zeros(0, 4, requires_grad=True)).requires_grad


def test_blocks_cover_all_rows_once():
    for count, columns in ((0, 5), (1, 1), (31, 10), (5000, 3000), (7, 1 << 20)):
        blocks = list(row_chunks(count, columns, torch.device("cpu")))
        assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(count))


def test_what_is_refused():
    with pytest.raises(ConfigError, match="unknown distance 'l2'; expected one of euclidean"):
        pairwise_distance(rows(2, 3), kind="l2")
    with pytest.raises(ValueError, match=r"\(\(2, 3\), \(2, 4\)\)"):
        pairwise_distance(rows(2, 3), rows(2, 4))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        pairwise_distance(rows(2, 3, 4))
