"""A folder of images for the ``--quick`` of the benchmarks that want one: scikit-learn's digits in CIFAR-10's folders."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

__all__ = ["few_images"]


def few_images(folder: Path, train: int = 32, test: int = 8) -> Path:
    """Write ``train`` and ``test`` digits of each class, 8 px wide, to ``folder/{train,test}/CLASS/``; return ``folder``."""
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)  # (N, 8, 8), values 0..16
    for number in range(10):
        chosen = pixels[digits.target == number]
        for part, images in (("train", chosen[:train]), ("test", chosen[train : train + test])):
            place = folder / part / str(number)
            place.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(place / f"{index:03d}.png")
    return folder
