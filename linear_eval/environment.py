"""Where a result is taken: the device unless one is named; versions and hardware, to judge a difference by."""

import platform
from typing import Any

import numpy as np
import sklearn
import torch

__all__ = ["default_device", "environment"]


def default_device(device: torch.device | str | None = None) -> torch.device:
    """``device``, or where it is None CUDA where there is one, and else the CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def environment(device: torch.device) -> dict[str, dict[str, Any]]:
    """``versions`` and ``hardware`` of this process, which ran the encoder on ``device``; plain JSON types."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
