"""Matrices of distances with their derivatives: once in blocks of rows, again or in forward mode as whole matrices.

Each function has a gradient in closed form. Where that is to be differentiated again, it is written in operations that
can be; else it writes over its own memory, a block of rows after the other. Forward mode is a class of its own, since a
compiler takes no function that has one.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from simclr.numerics import OneByOne, in_forward_mode, row_chunks, squares_fit, widened

__all__ = ["euclidean", "manhattan", "unit_cosine"]


def euclidean(x: Tensor, y: Tensor | None, squared: bool) -> Tensor:
    """|x_i - y_j|, or its square, for rows x (N, D) and y (M, D), or x itself: (N, M)."""
    return cast(Tensor, (EuclideanForward if in_forward_mode() else Euclidean).apply(x, y, squared))


def unit_cosine(x: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
    """1 - x_i . y_j in ``dtype``, for rows of length 1 or 0 in the widest type."""
    return cast(Tensor, (CosineForward if in_forward_mode() else Cosine).apply(x, y, dtype))


def manhattan(x: Tensor, y: Tensor | None) -> Tensor:
    """sum_d |x_id - y_jd|."""
    return cast(Tensor, (ManhattanForward if in_forward_mode() else Manhattan).apply(x, y))


def _same_point(dimensions: int) -> float:
    """Share of |x|^2 below which a squared distance is the rounding of its own float64 evaluation (twice that)."""
    return float(torch.finfo(torch.float64).eps) * (16 + 4 * math.sqrt(dimensions))


class Euclidean(OneByOne):
    @staticmethod
    def forward(x: Tensor, y: Tensor | None, squared: bool) -> Tensor:
        other = x if y is None else y
        out = x.new_empty(len(x), len(other))
        if x.dtype == torch.float64 or x.device.type == "mps":  # nothing wider to evaluate the expansion in
            for rows in row_chunks(len(x), len(other), x.device):
                block = torch.cdist(x[rows], other, compute_mode="donot_use_mm_for_euclid_dist")
                out[rows] = block.square_() if squared else block
        else:
            # One product gives the whole expansion: (x, |x|^2, 1) . (-2y, 1, |y|^2). It is lowered by its own rounding,
            # so that a clamp makes the distance of equal rows exactly 0.
            left, right = x.double(), other.double()
            left_norm, right_norm = left.square().sum(1, keepdim=True), right.square().sum(1, keepdim=True)
            lowered = left_norm * (1 - _same_point(x.shape[1]))
            left = torch.cat([left, lowered, torch.ones_like(left_norm)], 1)
            right = torch.cat([-2 * right, torch.ones_like(right_norm), right_norm], 1).t()
            buffer, fit = None, squared or squares_fit(x, other)
            for rows in row_chunks(len(x), len(other), x.device):
                block = left[rows]
                buffer = torch.mm(block, right) if buffer is None else torch.mm(block, right, out=buffer[: len(block)])
                out[rows] = buffer.relu_() if fit else buffer.relu_().sqrt_()
                if fit and not squared:  # several times faster than in float64
                    out[rows].sqrt_()
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, squared = inputs
        ctx.save_for_backward(x, y, None if squared else output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, distance = ctx.saved_tensors
        # d|x-y|^2 = 2 (x - y) and d|x-y| = (x - y) / |x-y|: a weighted sum of differences, as one product per block.
        if torch.is_grad_enabled():  # somebody will differentiate this too
            return *_differences(x, y, 2 * grad if distance is None else _over(grad, distance)), None
        if y is None:
            wide = widened(x)
            out = torch.empty_like(x)
            for rows in row_chunks(len(x), len(x), x.device):
                weight = _pull(grad[rows] + grad[:, rows].t(), None if distance is None else distance[rows])
                out[rows] = weight.sum(1, keepdim=True) * wide[rows] - weight @ wide
            return out, None, None
        left, right = widened(x), widened(y)
        left_grad, right_grad = torch.empty_like(x), torch.zeros_like(right)
        for rows in row_chunks(len(x), len(y), x.device):
            weight = _pull(grad[rows].clone(), None if distance is None else distance[rows])
            left_grad[rows] = (weight.sum(1, keepdim=True) * left[rows] - weight @ right).to(x.dtype)
            right_grad += weight.sum(0).unsqueeze(1) * right - weight.t() @ left[rows]
        return left_grad, right_grad.to(y.dtype), None


class EuclideanForward(Euclidean):
    """With its forward mode, which a compiler takes for no part of a function."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Euclidean.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[1], None if inputs[2] else output)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        x, y, distance = ctx.saved_for_forward
        left, right = widened(x), widened(x if y is None else y)
        dx = torch.zeros_like(left) if dx is None else widened(dx)
        dy = dx if y is None else torch.zeros_like(right) if dy is None else widened(dy)
        own, others = (left * dx).sum(1, keepdim=True), (right * dy).sum(1)
        along = (own + others - left @ dy.t() - dx @ right.t()).to(x.dtype)  # (x - y) . (dx - dy)
        return 2 * along if distance is None else _over(along, distance)


def _over(grad: Tensor, distance: Tensor) -> Tensor:
    """``grad`` / ``distance``, 0 where the distance is 0, in operations that can be differentiated."""
    zero = distance == 0
    return grad.masked_fill(zero, 0) / distance.masked_fill(zero, 1)


def _differences(x: Tensor, y: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """sum_j w_ij (x_i - y_j), and sum_i w_ij (y_j - x_i), or their sum where y is x."""
    weight, left = widened(weight), widened(x)
    if y is None:
        weight = weight + weight.t()
        return (weight.sum(1, keepdim=True) * left - weight @ left).to(x.dtype), None
    right = widened(y)
    of_right = weight.sum(0).unsqueeze(1) * right - weight.t() @ left
    return (weight.sum(1, keepdim=True) * left - weight @ right).to(x.dtype), of_right.to(y.dtype)


def _pull(grad: Tensor, distance: Tensor | None) -> Tensor:
    """Weight of each difference x - y in the gradient: 2 g of |x - y|^2, g / d of |x - y|, 0 where d = 0.

    Overwrites ``grad``. Arithmetic instead of a mask: several times faster on a CPU.
    """
    if distance is None:
        return widened(grad.mul_(2))
    positive = distance.sign()
    grad.mul_(positive).div_(positive.neg_().add_(1).add_(distance))
    return widened(grad)


class Cosine(OneByOne):
    """1 - x.y for unit rows in float64; cast to ``dtype``, so that the distance of near-duplicates keeps its digits."""

    @staticmethod
    def forward(x: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        other = x if y is None else y
        out = torch.empty(len(x), len(other), dtype=dtype, device=x.device)
        for rows in row_chunks(len(x), len(other), x.device):
            block = (x[rows] @ other.t()).neg_().add_(1)
            out[rows] = block.masked_fill_(block <= _same_point(x.shape[1]), 0)
        if y is None:
            out.fill_diagonal_(0)  # a zero vector too is at distance 0 from itself
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, _ = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        other = x if y is None else y
        if torch.is_grad_enabled():
            grad = grad.to(x.dtype)
            left, right = -(grad @ other), -(grad.t() @ x)
            return (left + right, None, None) if y is None else (left, right, None)
        left, right = torch.empty_like(x), torch.zeros_like(other)
        for rows in row_chunks(len(x), grad.shape[1], x.device):
            weight = grad[rows].to(x.dtype)
            left[rows] = -(weight @ other)
            right -= weight.t() @ x[rows]
        return (left + right, None, None) if y is None else (left, right, None)


class CosineForward(Cosine):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Cosine.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])
        ctx.dtype = inputs[2]

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        x, y = ctx.saved_for_forward
        other = x if y is None else y
        dx = torch.zeros_like(x) if dx is None else dx
        dy = dx if y is None else torch.zeros_like(other) if dy is None else dy
        return -(dx @ other.t() + x @ dy.t()).to(ctx.dtype)


class Manhattan(OneByOne):
    @staticmethod
    def forward(x: Tensor, y: Tensor | None) -> Tensor:
        return torch.cdist(x, x if y is None else y, p=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        function = SignsForward if in_forward_mode() else Signs
        left, right = function.apply(grad, x.detach(), (x if y is None else y).detach())
        return (left + right, None) if y is None else (left, right)


class ManhattanForward(Manhattan):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Manhattan.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None) -> Tensor:
        x, y = ctx.saved_for_forward
        other = x if y is None else y
        dx = torch.zeros_like(x) if dx is None else dx
        return _along_signs(x, other, dx, dx if y is None else torch.zeros_like(other) if dy is None else dy)


class Signs(OneByOne):
    """sum_j g_ij sign(x_i - y_j) and -sum_i g_ij sign(x_i - y_j), whose signs are the same near x and y."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        left, right = torch.empty_like(x), torch.zeros_like(y)
        # torch's own backward allocates N x M x D on a GPU.
        for rows in row_chunks(len(x), y.numel(), x.device, at_least=1):
            pull = torch.sign(x[rows, None] - y) * grad[rows, :, None]  # (rows, M, D)
            left[rows] = pull.sum(1)
            right -= pull.sum(0)
        return left, right

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, left: Tensor, right: Tensor) -> tuple[Tensor, None, None]:
        x, y = ctx.saved_tensors
        return _along_signs(x, y, left, right), None, None


class SignsForward(Signs):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        Signs.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, dgrad: Tensor, *_: None) -> tuple[Tensor, Tensor]:
        left, right = Signs.apply(dgrad, *ctx.saved_for_forward)
        return left, right


def _along_signs(x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_d sign(x_id - y_jd) (left_id - right_jd), (N, M)."""
    return torch.cat(
        [
            (torch.sign(x[rows, None] - y) * (left[rows, None] - right)).sum(-1)
            for rows in row_chunks(len(x), y.numel(), x.device, at_least=1)
        ]
        or [x.new_zeros(0, len(y))]
    )
