"""Numbers that stay right: the widest arithmetic at hand, rows of length 1, blocks that fit the memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

__all__ = [
    "OneByOne",
    "differentiated_once",
    "float32_products",
    "full_precision",
    "in_forward_mode",
    "in_transform",
    "l2_normalize",
    "native_bf16",
    "row_chunks",
    "safe_sqrt",
    "squares_fit",
    "unit_rows",
    "wide_dtype",
    "widened",
    "zero_with_graph",
]


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is float64 already: what every distance and loss is computed in."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def zero_with_graph(x: Tensor) -> Tensor:
    """A scalar 0 that depends on every element of ``x``: it carries a graph, and is NaN if any element is not finite.

    Added to a loss, it makes an empty batch differentiable and keeps a mask from hiding a broken row.

        >>> zero_with_graph(torch.tensor([1.0, float("inf")]))
        tensor(nan)
    """
    return (x * 0).sum()


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root of ``x`` >= 0 whose gradient at 0 is 0 instead of infinite. NaN stays NaN."""
    zero = x <= 0
    return x.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def squares_fit(*rows: Tensor) -> bool:
    """Whether float32 surely holds squares of numbers of this size, and of differences down to a millionth of it.

    False where they are on a device, which would have to be waited for.
    """
    if any(x.device.type != "cpu" for x in rows) or torch.compiler.is_compiling() or in_transform():
        return False
    largest = max((float(x.detach().abs().amax()) for x in rows if x.numel()), default=1.0)
    return not largest or not math.isfinite(largest) or 1e-10 < largest < 1e15


def l2_normalize(x: Tensor) -> Tensor:
    """Rows of ``x`` (..., D) scaled to length 1, the same dtype. A row of zeros stays zero and gets no gradient.

    The length is taken in float64, so that no finite row overflows or vanishes.
    """
    norm = safe_sqrt(widened(x).square().sum(-1, keepdim=True))
    return torch.where(norm > 0, x / norm.masked_fill(norm == 0, 1), 0 * x).to(x.dtype)


def row_chunks(rows: int, columns: int, device: torch.device, at_least: int = 32) -> Iterator[slice]:
    """Slices over ``rows``: blocks of ``rows`` x ``columns`` that fit the cache of a CPU, and are large on a device."""
    budget = 1 << 17 if device.type == "cpu" else 1 << 24
    step = max(at_least, budget // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: Apple's has not."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened(x: Tensor) -> Tensor:
    """``x`` in ``wide_dtype``."""
    return x.to(wide_dtype(x.device))


def unit_rows(x: Tensor) -> Tensor:
    """Rows of `x` (N, D) scaled to length 1; a zero row stays zero and receives a zero gradient.

    `F.normalize` divides by max(length, 1e-12), so that a zero row receives 1e12 times the gradient, and the length of
    a row of 1e20 overflows in float32, which makes it zero. Dividing by the largest entry first avoids both.

    >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(largest < torch.finfo(x.dtype).tiny, 1.0, largest)
    square = (x * x).sum(dim=-1, keepdim=True)
    zero = square == 0
    return x * torch.where(zero, 0.0, torch.where(zero, 1.0, square).rsqrt())


@contextmanager
def float32_products() -> Iterator[None]:
    """Matrix products of float32 in float32, even where the process allows TF32 or bfloat16 inside them.

    While torch compiles, the switches are no part of the program: there the products are as the process allows them.
    """
    if torch.compiler.is_compiling():
        yield
        return
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # its module replaces itself at run time
    backends = (torch.backends.cuda.matmul, mkldnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware; emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Private to torch, and not in every release: where one is missing the answer is no, which is always right.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)


def in_transform() -> bool:
    """Whether this is called inside ``torch.func.grad``, ``vmap`` or another of these transforms."""
    return bool(getattr(torch._C, "_are_functorch_transforms_active", bool)())  # private to torch, which asks it itself


def in_forward_mode() -> bool:
    """Whether derivatives are carried along with values: ``torch.func.jvp``, ``jacfwd`` and ``hessian``."""
    return (
        not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0
    )  # private, no other asks it


class OneByOne(torch.autograd.Function):
    """Base of functions that write into memory of their own: ``torch.func.vmap`` takes the batch one by one."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """The outputs for every entry of the batch, stacked."""
        each = [
            cls.apply(*[x if dim is None else x.select(dim, i) for x, dim in zip(inputs, in_dims, strict=True)])
            for i in range(info.batch_size)
        ]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(torch.stack(list(one)) for one in zip(*each, strict=True)), (0,) * len(each[0])


def differentiated_once(x: Tensor, instead: str) -> Tensor:
    """``x``, whose gradient cannot be differentiated: NotImplementedError ``instead`` says why, and what to use.

    For what is held while a gradient is taken: the derivative of that gradient would leave it out in silence.
    """
    if torch.compiler.is_compiling():  # which refuses it itself
        return x
    if in_forward_mode():
        raise NotImplementedError(instead)
    return cast(Tensor, _Once.apply(x, instead))


class _Once(OneByOne):
    @staticmethod
    def forward(x: Tensor, instead: str) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.instead = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _NotAgain.apply(grad, ctx.instead)) if torch.is_grad_enabled() else grad, None


class _NotAgain(_Once):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        raise NotImplementedError(ctx.instead)
