"""Where a result was taken: versions and hardware, so that a reader can judge a difference."""

import platform
from typing import Any

import numpy as np
import sklearn
import torch

__all__ = ["environment"]


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
