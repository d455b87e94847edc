"""What is odd about the pixels of one image: constant, or of few levels, as where values were taken for the wrong range."""

import numpy as np
from torch import Tensor

__all__ = ["pixel_faults"]


def pixel_faults(pixels: Tensor) -> list[str]:
    """What is odd about a decoded image, uint8 (C, H, W), in words: mostly that its values were taken for the wrong range.

    A constant image or band, and an image of 256 or more pixels that uses fewer than 32 of the 256 levels. Two levels far apart
    are a drawing, which is as it should be.

    >>> import torch
    >>> pixel_faults(torch.arange(1024, dtype=torch.uint8).reshape(1, 32, 32) // 16)
    ['few levels are used (16 of 256, from 0 to 15)']
    """
    values = pixels.numpy()
    used = np.flatnonzero(np.bincount(values.reshape(-1), minlength=256))
    if len(used) == 1:
        return [f"constant image (every value is {used[0]})"]
    faults = []
    if len(values) not in (1, 3):
        constant = [str(band) for band, plane in enumerate(values) if plane.min() == plane.max()]
        if constant:
            faults.append(f"constant band {', '.join(constant)}, counted from 0")
    low, high = int(used[0]), int(used[-1])
    drawing = len(used) == 2 and high - low >= 128
    if values[0].size >= 256 and len(used) < 32 and not drawing:
        faults.append(f"few levels are used ({len(used)} of 256, from {low} to {high})")
    return faults
