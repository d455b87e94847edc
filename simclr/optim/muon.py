"""Muon: momentum made orthogonal by a Newton-Schulz iteration for matrices and convolutions, AdamW for the rest."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from simclr.errors import require
from simclr.numerics import native_bf16
from simclr.optim.by_group import ByGroup, is_number
from simclr.optim.muon_shards import orthogonal_shards
from simclr.sharding import is_sharded, local

__all__ = ["Muon", "orthogonalised"]

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # Jordan 2024: the odd quintic that is steepest at 0


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: (..., R, C) -> (..., R, C) with singular values from 0.7 to 1.2.

    Five steps of X <- a X + (b A + c A^2) X with A = X X^T, from X / |X| (Jordan 2024, eq. of "Newton-Schulz"). They keep the
    singular vectors. float32 is iterated in bfloat16 where the device multiplies that natively.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    short = matrices.mT if tall else matrices
    dtype = torch.bfloat16 if matrices.dtype == torch.float32 and native_bf16(matrices.device) else matrices.dtype
    x = short.reshape(-1, *short.shape[-2:]).to(dtype)  # (N, R, C)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    x = x.view(short.shape).to(matrices.dtype)
    return x.mT if tall else x


class Muon(ByGroup):
    """Muon (Jordan et al. 2024) with the step size of Liu et al. 2025: one learning rate for matrices of every shape.

    In groups with ``adapt=True``, the default, matrices take this step; a convolution (O, I, H, W) counts as (O, I H W).
    With gradient g, ``v = momentum * v + g``, ``u = orthogonalised(g + momentum * v)``,
    ``w = (1 - lr * weight_decay) * w - 0.2 * sqrt(max(R, C)) * lr * u``: a root mean square of 0.2 an entry. Biases, scales
    and other vectors in them, and all of the other groups, take AdamW's step, which is of about that size:
    ``Muon(model.parameters())`` serves a whole model.

    Args:
        params: parameters or groups of them.
        lr: learning rate, some ten times AdamW's.
        momentum: decay of the velocity, in [0, 1).
        weight_decay: decoupled decay, of all that is in the group.
        betas: AdamW's two decay rates, in [0, 1).
        adapt: whether the group's matrices are orthogonalised; False for embeddings and the last layer of a classifier, which
            Jordan et al. leave to AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas, "adapt": adapt}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # a state that is loaded may be of another device
        for p, one in self.state.items():
            if "step" in one:
                one["step"] = _count(one["step"], p)

    def check(self, group: dict[str, Any]) -> None:
        """As the base, and AdamW's two decay rates."""
        super().check(group)
        betas = group["betas"]
        fine = (
            isinstance(betas, tuple | list)
            and len(betas) == 2
            and all(is_number(beta) and 0 <= beta < 1 for beta in betas)
        )
        require(fine, "betas", betas, "two numbers in [0, 1)")

    def update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """The step of one group."""
        if group["weight_decay"]:
            torch._foreach_mul_([local(p) for p in weights], 1 - group["lr"] * group["weight_decay"])
        matrices = [p for p in weights if group["adapt"] and p.ndim > 1]
        others = [p for p in weights if not group["adapt"] or p.ndim < 2]
        if matrices:
            self._step_matrices(matrices, group)
        if others:
            self._step_others(others, group)

    def _step_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if "velocity" not in self.state[p]:
                self.state[p]["velocity"] = torch.zeros_like(p)
        velocities = [local(self.state[p]["velocity"]) for p in weights]
        gradients = [local(p.grad) for p in weights if p.grad is not None]  # all of them
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        updates = torch._foreach_add(gradients, velocities, alpha=group["momentum"])
        matrices = [_as_matrix(update) for update in updates]
        if is_sharded(weights[0]):
            orthogonal = orthogonal_shards(matrices, [p.shape[0] for p in weights], _each_orthogonalised)
        else:
            orthogonal = _each_orthogonalised(matrices)
        steps = [_from_matrix(matrix, update) for matrix, update in zip(orthogonal, updates, strict=True)]
        scales = [0.2 * max(p.shape[0], p[0].numel()) ** 0.5 for p in weights]
        weights = [local(p) for p in weights]
        if isinstance(group["lr"], Tensor):  # while the step is captured as a CUDA graph
            torch._foreach_mul_(steps, scales)
            torch._foreach_mul_(steps, group["lr"])
            torch._foreach_sub_(weights, steps)
            return
        for p, step, scale in zip(weights, steps, scales, strict=True):
            p.sub_(step, alpha=scale * group["lr"])

    def _step_others(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW (Loshchilov and Hutter 2019) with an epsilon of 1e-8; the decay is already done."""
        first, second = group["betas"]
        for p in weights:
            if "step" not in self.state[p]:
                self.state[p] |= {"step": _count(0, p), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        gradients = [local(p.grad) for p in weights if p.grad is not None]
        means, squares = ([local(self.state[p][name]) for p in weights] for name in ("mean", "square"))
        steps, held = [self.state[p]["step"] for p in weights], [local(p) for p in weights]
        if isinstance(steps[0], Tensor):  # torch has it in one kernel, where a dozen a tensor would be launched here
            adamw(
                held,
                gradients,
                means,
                squares,
                [],
                steps,
                fused=True,
                lr=group["lr"],
                beta1=first,
                beta2=second,
                eps=1e-8,
                weight_decay=0.0,
                amsgrad=False,
                maximize=False,
            )
            return
        for p in weights:
            self.state[p]["step"] += 1
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_div_(divisors, [(1 - second ** (step + 1)) ** 0.5 for step in steps])
        torch._foreach_add_(divisors, 1e-8)
        torch._foreach_addcdiv_(held, means, divisors, [-group["lr"] / (1 - first ** (step + 1)) for step in steps])


def _each_orthogonalised(matrices: list[Tensor]) -> list[Tensor]:
    """Matrices made orthogonal, those of one shape in one product."""
    found = list(matrices)
    for shape in dict.fromkeys(matrix.shape for matrix in matrices):
        places = [place for place, matrix in enumerate(matrices) if matrix.shape == shape]
        orthogonal = orthogonalised(torch.stack([matrices[place] for place in places]))
        for place, matrix in zip(places, orthogonal, strict=True):
            found[place] = matrix
    return found


def _as_matrix(update: Tensor) -> Tensor:
    """(O, ...) -> (O, R), of a convolution with its columns in the order of memory: the result's are in the same, and a copy
    is saved."""
    in_memory = update.permute(0, 2, 3, 1) if _is_channels_last(update) else update
    return in_memory.flatten(1)


def _from_matrix(matrix: Tensor, update: Tensor) -> Tensor:
    """The way back: (O, R) -> (O, ...) as ``update`` is in memory."""
    if not _is_channels_last(update):
        return matrix.reshape(update.shape)
    out, channels, height, width = update.shape
    return matrix.reshape(out, height, width, channels).permute(0, 3, 1, 2)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _count(steps: int | Tensor, p: Tensor) -> int | Tensor:
    """Steps done of ``p``: on a GPU, where a step may be undone without waiting for it, a tensor there."""
    if p.is_cuda:
        return torch.full((), float(steps), device=p.device)
    return int(steps)
