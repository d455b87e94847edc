"""How a value of ours and one of another library's are held together: the value and the gradient, in float64."""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def embeddings(rows: int, dim: int, seed: int = 0) -> Tensor:
    """Rows (N, D) float64 of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, dim, dtype=torch.float64, generator=generator)
    return z * (0.5 + torch.rand(rows, 1, dtype=torch.float64, generator=generator))


def labels_of(kind: str, rows: int = 18) -> Tensor:
    """Labels (N,) of a batch: even classes, uneven ones with one alone, two classes."""
    if kind == "even":
        return torch.arange(rows) % 6
    if kind == "two":
        return (torch.arange(rows) % 3 == 0).long()
    return torch.tensor([7, 7, 7, 7, 7, 7, 7, 3, 3, 3, 3, 5, 5, 5, 9, 9, 4, 2])[:rows]


def assert_alike(
    ours: Loss, theirs: Loss, z: Tensor, rtol: float = 1e-9, atol: float = 1e-11, gradient: bool = True
) -> None:
    """``ours`` and ``theirs`` have one value, and one gradient, at ``z``."""
    here, there = z.clone().requires_grad_(), z.clone().requires_grad_()
    value, expected = ours(here), theirs(there)
    assert expected.isfinite()
    torch.testing.assert_close(value, expected.to(value.dtype), rtol=rtol, atol=atol)
    if gradient:
        value.backward()
        expected.backward()
        torch.testing.assert_close(here.grad, there.grad, rtol=10 * rtol, atol=10 * atol)
