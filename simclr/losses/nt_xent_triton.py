"""The two sums of `nt_xent_tiled` as Triton kernels, for CUDA: the N x N similarities never leave the chip.

A program owns a block of rows and walks over all columns, once for L and once for the gradient. That is 3 N^2 D
multiply-adds where tiles on one side of the diagonal need 2, but no two programs write to one row: there are no
atomics, and the same input gives the same bits. Everything is accumulated in float32, without TF32.

Needs Triton, which comes with the CUDA builds of torch on Linux. Without a GPU the arithmetic runs, slowly, on CPU
tensors under Triton's interpreter: set TRITON_INTERPRET=1 before importing this module.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["exp_sums", "weighted_gradient"]


@triton.jit
def load_rows(z_ptr, index, count, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    column = tl.arange(0, PADDED)
    mask = (index[:, None] < count) & (column[None, :] < WIDTH)
    return tl.load(z_ptr + index[:, None] * WIDTH + column[None, :], mask=mask, other=0.0)


@triton.jit
def exp_similarity(anchors, others, row, column, count, batch, scale):
    s = tl.dot(anchors, tl.trans(others), input_precision="ieee") * scale
    left_out = (row[:, None] % batch == column[None, :] % batch) | (column[None, :] >= count)
    return tl.where(left_out, 0.0, tl.exp2(s))


@triton.jit
def sums_kernel(
    z_ptr,
    total_ptr,
    count,
    batch,
    scale,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    anchors = load_rows(z_ptr, row, count, WIDTH, PADDED)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, count, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        others = load_rows(z_ptr, column, count, WIDTH, PADDED)
        total += tl.sum(exp_similarity(anchors, others, row, column, count, batch, scale), axis=1)
    tl.store(total_ptr + row, total, mask=row < count)


@triton.jit
def gradient_kernel(
    z_ptr,
    weight_ptr,
    dz_ptr,
    count,
    batch,
    scale,
    factor,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    anchors = load_rows(z_ptr, row, count, WIDTH, PADDED)
    row_weight = tl.load(weight_ptr + row, mask=row < count, other=0.0)
    dz = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, count, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        others = load_rows(z_ptr, column, count, WIDTH, PADDED)
        weight = row_weight[:, None] + tl.load(weight_ptr + column, mask=column < count, other=0.0)[None, :]
        tile = exp_similarity(anchors, others, row, column, count, batch, scale)
        dz += tl.dot(tile * weight, others, input_precision="ieee")
    width = tl.arange(0, PADDED)
    mask = (row[:, None] < count) & (width[None, :] < WIDTH)
    tl.store(dz_ptr + row[:, None] * WIDTH + width[None, :], dz * factor, mask=mask)


def launch_shape(count: int, width: int) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and constants of both kernels for `count` rows of `width`."""
    side = 64 if width <= 128 else 32  # two blocks of rows have to fit the shared memory of the smallest chips
    constants = {
        "WIDTH": width,
        "PADDED": max(16, triton.next_power_of_2(width)),
        "ROWS": side,
        "COLUMNS": side,
        "num_warps": 4,
        "num_stages": 1,
    }
    return (triton.cdiv(count, side),), constants


def exp_sums(z: Tensor, num_views: int, temperature: float) -> Tensor:
    """L (N,) for contiguous float32 unit rows `z` (N, D)."""
    count, width = z.shape
    total = torch.empty(count, dtype=z.dtype, device=z.device)
    grid, constants = launch_shape(count, width)
    scale = math.log2(math.e) / temperature
    sums_kernel[grid](z, total, count, count // num_views, scale, **constants)
    return total


def weighted_gradient(z: Tensor, weight: Tensor, num_views: int, temperature: float) -> Tensor:
    """dz (N, D) for contiguous float32 `z` (N, D) and `weight` = g / L (N,)."""
    count, width = z.shape
    dz = torch.empty_like(z)
    grid, constants = launch_shape(count, width)
    scale = math.log2(math.e) / temperature
    gradient_kernel[grid](z, weight, dz, count, count // num_views, scale, 1 / temperature, **constants)
    return dz
