"""The last step of the fused augmentation: normalise, convert, and lay out the pixels channels last."""

from typing import Annotated

import torch
from torch import Tensor

__all__ = ["copy_rows", "normalised_pixels"]


def normalised_pixels(
    views: Annotated[Tensor, "float N C S S"],
    mean: Annotated[Tensor, "float 1 C 1 1"] | None,
    std: Annotated[Tensor, "float 1 C 1 1"] | None,
    dtype: torch.dtype,
) -> Annotated[Tensor, "float N S S C"]:
    """Views (N, C, S, S), which are overwritten, as contiguous pixels (N, S, S, C); mean and std are (1, C, 1, 1)."""
    if mean is not None and std is not None:
        views = views.sub_(mean).div_(std)
    # To convert what is contiguous is three times as fast on a CPU as to convert on the way.
    return views.permute(0, 2, 3, 1).contiguous().to(dtype)


def copy_rows(
    target: Annotated[Tensor, "M ..."], rows: Annotated[Tensor, "int64 N"], source: Annotated[Tensor, "N ..."]
) -> None:
    """``target[rows] = source`` along the first dimension, both contiguous: the bits, in elements as wide as fit."""
    flat = target.flatten(1), source.flatten(1)
    if flat[0].shape[1] * flat[0].element_size() % 16 == 0:
        flat = flat[0].view(torch.complex128), flat[1].view(torch.complex128)  # 3 times as fast as float32
    flat[0].index_copy_(0, rows, flat[1])
