"""What several test files share: tiny configs that train in a second, and image folders made on the spot."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("MPLBACKEND", "Agg")

import simclr
from simclr.config import EncoderConfig, HeadConfig, LoopConfig, TrainConfig


@pytest.fixture
def tiny_run(tmp_path: Path) -> TrainConfig:
    """Digits at 16 px, a ResNet of 20k parameters, 2 epochs of 5 steps; everything below the test's own folder."""
    config = simclr.preset("digits")
    return replace(
        config,
        name="tiny",
        out=tmp_path / "runs",
        data=replace(config.data, limit=640),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=1),
        train=LoopConfig(
            epochs=2, batch_size=128, precision="fp32", log_every=1, checkpoint_every=3, keep_checkpoints=2, knn_every=2
        ),
    )


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of 12 images of mixed sizes and modes, below ``cats/`` and ``dogs/deep/er/``."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    modes = ("RGB", "L", "RGBA", "P", "LA", "1")
    for number in range(24):
        folder = root / ("cats" if number % 2 else "dogs/deep/er")
        folder.mkdir(parents=True, exist_ok=True)
        height, width = int(rng.integers(20, 60)), int(rng.integers(20, 60))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.convert(modes[number % len(modes)]).save(folder / f"{number:02d}.png")
    return root
