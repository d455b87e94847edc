"""The tiled denominator of NT-Xent against the full float64 matrix, whatever the tile size and whatever is kept."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from simclr.losses.ntxent import tiled as nt_xent_tiled
from simclr.losses.ntxent.loss import nt_xent
from simclr.losses.ntxent.tiled import Tiles, negative_logsumexp
from simclr.numerics import float32_products, unit_rows

ALL, SOME, NONE = 2**30, 3000, 0


def unit(num_views: int, batch: int, width: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(num_views * batch, width, generator=generator, dtype=torch.float64)).to(dtype)


def full_matrix(z: Tensor, num_views: int, temperature: float) -> Tensor:
    """One row at a time: exp of the similarity to each row of another image, summed in float64."""
    batch = len(z) // num_views
    z = z.double()
    sums = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k % batch != i % batch]
        sums.append(torch.logsumexp(z[others] @ z[i] / temperature, dim=0))
    return torch.stack(sums)


def value_and_gradient(function, z: Tensor, *args) -> tuple[Tensor, Tensor]:
    """The result and its gradient for an incoming gradient that differs from row to row, in sign too."""
    z = z.clone().requires_grad_()
    value = function(z, *args)
    incoming = torch.linspace(-1, 2, len(z), dtype=value.dtype)
    value.backward(incoming)
    assert z.grad is not None
    return value.detach(), z.grad


@pytest.fixture(params=[ALL, SOME, NONE], ids=["all kept", "some kept", "none kept"])
def kept_bytes(request, monkeypatch):
    monkeypatch.setattr(nt_xent_tiled, "KEPT_BYTES", request.param)


@pytest.mark.parametrize("tile", [5, 8, 512])
@pytest.mark.parametrize(("num_views", "batch"), [(2, 12), (2, 13), (3, 4), (7, 2), (5, 3), (2, 2)])
def test_equals_the_full_matrix(kept_bytes, monkeypatch, tile, num_views, batch):
    monkeypatch.setitem(nt_xent_tiled.TILE_ROWS, "cpu", tile)
    z = unit(num_views, batch, 6)
    value, gradient = value_and_gradient(negative_logsumexp, z, num_views, 0.3)
    expected, expected_gradient = value_and_gradient(full_matrix, z, num_views, 0.3)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.015, 0.02, 0.1, 2.0])
def test_float32_at_any_temperature(monkeypatch, temperature):
    monkeypatch.setitem(nt_xent_tiled.TILE_ROWS, "cpu", 16)
    z = unit(2, 40, 32, torch.float32)
    value, gradient = value_and_gradient(negative_logsumexp, z, 2, temperature)
    expected, expected_gradient = value_and_gradient(full_matrix, z, 2, temperature)
    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    # The dense form below 1/600 has float32 similarities over a tiny temperature; all others keep to a millionth.
    limit = 1e-6 if temperature > 1 / 600 else 1e-4
    assert (gradient - expected_gradient).norm() <= limit * expected_gradient.norm()


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_extreme_geometry_stays_in_range(temperature):
    """All rows equal but one opposite: the largest and the smallest sums that can occur, in float32."""
    z = torch.zeros(400, 4)
    z[:, 0] = 1.0
    z[7, 0] = -1.0
    value, gradient = value_and_gradient(negative_logsumexp, z, 2, temperature)
    expected, expected_gradient = value_and_gradient(full_matrix, z, 2, temperature)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    assert (gradient - expected_gradient).norm() <= 1e-6 * expected_gradient.norm()


def test_each_tile_of_one_triangle_is_computed_once_when_kept(monkeypatch):
    computed = []
    compute = Tiles.compute

    def spy(self: Tiles, i: int, j: int, out: Tensor, total: Tensor | None = None) -> Tensor:
        computed.append((i, j))
        return compute(self, i, j, out, total)

    monkeypatch.setattr(Tiles, "compute", spy)
    monkeypatch.setitem(nt_xent_tiled.TILE_ROWS, "cpu", 8)
    z = unit(2, 16, 4).requires_grad_()
    negative_logsumexp(z, 2, 0.5).sum().backward()
    assert computed == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]
    monkeypatch.setattr(nt_xent_tiled, "KEPT_BYTES", 0)
    computed.clear()
    negative_logsumexp(z, 2, 0.5).sum().backward()
    assert len(computed) == 20


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_grows_with_the_square_of_the_rows(monkeypatch):
    monkeypatch.setitem(nt_xent_tiled.TILE_ROWS, "cpu", 32)
    monkeypatch.setattr(nt_xent_tiled, "KEPT_BYTES", 0)
    views = torch.randn(2, 256, 8).requires_grad_()
    with LargestTensor() as seen:
        nt_xent(views, 0.5).backward()
    assert seen.elements == 512 * 8  # the embeddings themselves; a tile is 32 * 32


def test_nothing_is_kept_where_no_gradient_is_wanted():
    z = unit(2, 8, 4)
    with torch.no_grad():
        assert negative_logsumexp(z.requires_grad_(), 2, 0.5).grad_fn is None
    value = negative_logsumexp(z, 2, 0.5)
    value.sum().backward()
    assert value.grad_fn.kept == {}  # used up by the backward pass, so that the memory goes back at once


def test_a_second_backward_pass_gives_the_same_gradient():
    z = unit(2, 8, 4).requires_grad_()
    value = negative_logsumexp(z, 2, 0.5).square().sum()
    (first,) = torch.autograd.grad(value, z, retain_graph=True)
    (second,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


@pytest.mark.parametrize("num_views", [2, 3])
def test_gradcheck_and_second_derivatives(num_views):
    views = torch.randn(num_views, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    views.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: nt_xent(v, 0.2), views)
    assert torch.autograd.gradgradcheck(lambda v: nt_xent(v, 0.2), views)


def test_a_well_trained_batch_keeps_its_relative_accuracy():
    """Positives agree, negatives do not: the loss is 1e-6 of either of the terms whose difference it is."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 32, 64, generator=generator)
    views[1] = views[0] + 0.2 * views[1]
    views.requires_grad_()
    value = nt_xent(views, 0.05)
    value.backward()
    gradient, views.grad = views.grad, None

    z = torch.nn.functional.normalize(views.double(), dim=-1)
    s = z.flatten(0, 1) @ z.flatten(0, 1).T / 0.05
    positive = s.diagonal(32)
    other = torch.ones(64, 64, dtype=torch.bool) & ~torch.eye(32, dtype=torch.bool).repeat(2, 2)
    negatives = s.masked_fill(~other, -math.inf).logsumexp(dim=1)
    expected = torch.log1p((negatives - positive.repeat(2)).exp()).mean()
    expected.backward()
    assert expected.item() < 1e-4
    assert value.item() == pytest.approx(expected.item(), rel=2e-6)
    assert (gradient - views.grad).norm() <= 4e-6 * views.grad.norm()


def test_strided_rows_are_accepted():
    z = unit(2, 8, 4)
    wide = torch.stack([z, z], dim=-1)[..., 0]
    assert not wide.is_contiguous()
    torch.testing.assert_close(negative_logsumexp(wide, 2, 0.5), negative_logsumexp(z, 2, 0.5))


def test_products_are_float32_and_the_setting_comes_back():
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        with pytest.raises(RuntimeError, match="inside"), float32_products():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            raise RuntimeError("inside")
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_tiles_on_cuda_even_where_tf32_is_allowed(monkeypatch, temperature):
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    monkeypatch.setitem(nt_xent_tiled.TILE_ROWS, "cuda", 64)
    z = unit(2, 100, 48, torch.float32)
    expected, expected_gradient = value_and_gradient(full_matrix, z, 2, temperature)
    leaf = z.cuda().requires_grad_()
    value = negative_logsumexp(leaf, 2, temperature)
    value.backward(torch.linspace(-1, 2, len(z), device="cuda"))
    torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-6, atol=1e-6)
    assert (leaf.grad.cpu() - expected_gradient).norm() <= 1e-6 * expected_gradient.norm()
