"""What happens to a tile of `nt_xent_tiled` between two matrix products, each as one Triton kernel, for CUDA.

The products belong to cuBLAS: float32 without TF32 has no tensor cores, and Triton's own float32 dot spills registers at
the widths of an embedding. What torch would do in between, exp2, mask, two sums, an outer sum and a product, reads and
writes a tile eight times; these kernels do it in two reads and two writes. They have no atomics: partial sums are stored
and added up in a fixed order, so that the same input gives the same bits.

Needs Triton, which comes with the CUDA builds of torch on Linux. Without a GPU the arithmetic runs, slowly, on CPU
tensors under Triton's interpreter: set TRITON_INTERPRET=1 before importing this module.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["exponentiate_tile", "weigh_tile"]

ROWS, COLUMNS = 32, 128
"""What one program holds of a tile."""


@triton.jit
def exponentiate_kernel(  # type: ignore[no-untyped-def]  # Triton's compiler gives the types
    tile_ptr,
    row_sums_ptr,
    column_sums_ptr,
    rows,
    columns,
    images,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    address = tile_ptr + row[:, None].to(tl.int64) * columns + column[None, :]
    e = tl.exp2(tl.load(address, mask=inside, other=float("-inf")))
    if MASKED:
        e = tl.where(row[:, None] % images == column[None, :] % images, 0.0, e)
    tl.store(address, e, mask=inside)
    tl.store(row_sums_ptr + tl.program_id(0) * rows + row, tl.sum(e, axis=1), mask=row < rows)
    tl.store(column_sums_ptr + tl.program_id(1) * columns + column, tl.sum(e, axis=0), mask=column < columns)


@triton.jit
def weigh_kernel(  # type: ignore[no-untyped-def]  # Triton's compiler gives the types
    tile_ptr, row_weight_ptr, column_weight_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    address = tile_ptr + row[:, None].to(tl.int64) * columns + column[None, :]
    row_weight = tl.load(row_weight_ptr + row, mask=row < rows, other=0.0)
    column_weight = tl.load(column_weight_ptr + column, mask=column < columns, other=0.0)
    e = tl.load(address, mask=inside, other=0.0)
    tl.store(address, e * (row_weight[:, None] + column_weight[None, :]), mask=inside)


def exponentiate_tile(tile: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Overwrite the contiguous `tile` (R, C) by 2^tile; its sums over columns (R,) and over rows (C,).

    With `images` above 0, elements whose row and column leave the same remainder by it become 0: both are views of the
    same `images` images.
    """
    rows, columns = tile.shape
    grid = (triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS))
    row_sums = tile.new_empty(grid[0], rows)
    column_sums = tile.new_empty(grid[1], columns)
    blocks = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    with torch.cuda.device_of(tile):  # Triton launches on the current device, wherever the tensor is
        exponentiate_kernel[grid](
            tile, row_sums, column_sums, rows, columns, max(images, 1), MASKED=images > 0, **blocks
        )
    return row_sums.sum(dim=0), column_sums.sum(dim=0)


def weigh_tile(tile: Tensor, row_weight: Tensor, column_weight: Tensor) -> None:
    """Multiply element (i, j) of the contiguous `tile` (R, C) by row_weight[i] + column_weight[j], in place."""
    rows, columns = tile.shape
    grid = (triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS))
    with torch.cuda.device_of(tile):
        weigh_kernel[grid](tile, row_weight, column_weight, rows, columns, ROWS=ROWS, COLUMNS=COLUMNS)
