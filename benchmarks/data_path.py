"""The way from picture files to a batch of SimCLR's views: ours beside lightly's loader, on the same files.

    python benchmarks/data_path.py --data DIR      # a folder of pictures; --quick makes a few and takes seconds

Every side reads the same files with as many workers (two) and gives two views an image. Ours: the workers decode each file once
and cut both crops out of it; the row "with augmentation" then finishes the views on the device, which on a CPU takes turns
with the workers for the cores. "square crops" are those of earlier versions: each file is cut to a square, and the device crops
that. Lightly's transform does all of it, colours and blur too, image by image in the workers; "crop and flip alone" is the same
transform with colours, gray and blur switched off. Sides take turns for several rounds; a row gives the fastest round and the
ratio to lightly's.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augment import AugmentConfig, ViewGenerator
from simclr.command_line import run_command
from simclr.config import DataConfig
from simclr.data import Batches, EpochSampler, ImageSet, load_source
from simclr.data.cut import CropPlan, Cut
from simclr.errors import MissingExtraError

CPU = torch.device("cpu")
WORKERS = 2


class Pictures(Dataset[list[Tensor]]):
    """Files as lightly's transform takes them."""

    def __init__(self, images: ImageSet, config: AugmentConfig, colours: bool) -> None:
        from lightly.transforms import SimCLRTransform

        options = {} if colours else {"cj_prob": 0.0, "random_gray_scale": 0.0, "gaussian_blur": 0.0}
        self.paths = images.paths or ()
        self.transform = SimCLRTransform(input_size=config.size, min_scale=config.crop_scale[0], **options)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[Tensor]:
        with Image.open(self.paths[index]) as image:
            views: list[Tensor] = self.transform(image.convert("RGB"))
        return views


def lightlys(images: ImageSet, config: AugmentConfig, batch: int, colours: bool) -> Iterator[object]:
    return iter(DataLoader(Pictures(images, config, colours), batch, shuffle=True, drop_last=True, num_workers=WORKERS))


def ours(images: ImageSet, config: AugmentConfig, batch: int, square: bool, finish: bool) -> Iterator[object]:
    sampler = EpochSampler(images=len(images), batch_size=batch, seed=0)
    plan = None if square else CropPlan(configs=(config,), ends=(), batch=batch, seed=0)
    generator = ViewGenerator(config)
    steps = Batches(images, sampler, CPU, start=0, stop=sampler.steps_per_epoch, workers=WORKERS, plan=plan)
    for step, read in enumerate(steps):
        if not finish:
            yield read
            continue
        drawn = generator.sample(batch, (images.size, images.size), step)
        if isinstance(read.images, Cut):
            drawn = replace(drawn, crop=read.images.boxes, image_size=read.images.size)
            yield generator.finish(read.images.views, drawn)
        else:
            yield generator.apply(read.images, drawn)


def images_a_second(make: Callable[[], Iterator[object]], batch: int, most: int) -> float:
    """From the second batch on: the first waits for the workers to start."""
    batches = make()
    next(batches)
    began = time.perf_counter()
    count = sum(1 for _ in islice(batches, most))
    return count * batch / (time.perf_counter() - began)


def made_up(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 256, (20, 15, 3), dtype=np.uint8)
        Image.fromarray(small).resize((400, 533), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.jpg", quality=90)
    return folder


def compare(folder: Path, size: int, batch: int, most: int, rounds: int) -> None:
    config = AugmentConfig(size=size, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
    images = load_source(DataConfig(source="folder", path=folder, size=round(size * 8 / 7), labels="none"), "train")
    sides: dict[str, Callable[[], Iterator[object]]] = {
        "lightly": lambda: lightlys(images, config, batch, True),
        "lightly, crop and flip alone": lambda: lightlys(images, config, batch, False),
        "ours, cut by the workers": lambda: ours(images, config, batch, False, False),
        "ours, with augmentation": lambda: ours(images, config, batch, False, True),
        "ours, square crops": lambda: ours(images, config, batch, True, False),
        "ours, square crops, with augmentation": lambda: ours(images, config, batch, True, True),
    }
    best = dict.fromkeys(sides, 0.0)
    for _ in range(rounds):
        for name, make in sides.items():
            best[name] = max(best[name], images_a_second(make, batch, most))
    print(f"{size} px, {len(images)} files, batches of {batch}, {WORKERS} workers, fastest of {rounds} rounds")
    for name, speed in best.items():
        print(f"  {name:<40} {speed:8.0f} images/s   {speed / best['lightly']:5.2f} x lightly")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=24, help="batches timed in a round")
    parser.add_argument("--quick", action="store_true", help="a few made-up pictures, for a try")
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("lightly") is None:
        raise MissingExtraError("this comparison needs lightly; pip install 'simclr-pipeline[bench]'")
    torch.set_num_threads(1)
    if given.quick or given.data is None:
        with tempfile.TemporaryDirectory() as folder:
            compare(made_up(Path(folder), 40), 64, 8, 2, 1)
        return 0
    for size in (224, 128):
        compare(given.data, size, 32, given.batches, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
