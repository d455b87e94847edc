"""The way from picture files to a batch of SimCLR's views: ours beside lightly's loader, on the same files.

    python benchmarks/data_path.py --data DIR                       # a folder of pictures; --quick makes a few, takes seconds
    python benchmarks/data_path.py --data DIR --packed --sizes 224  # as folder, shards, parquet; beside webdataset and datasets

Every side reads the same files with as many workers (two) and gives two views an image. Ours: the workers decode each file once
and cut both crops out of it; the row "with augmentation" then finishes the views on the device, which on a CPU takes turns
with the workers for the cores. "square crops" are those of earlier versions: each file is cut to a square, and the device crops
that. Lightly's transform does all of it, colours and blur too, image by image in the workers; "crop and flip alone" is the same
transform with colours, gray and blur switched off. Sides take turns for several rounds; a row gives the fastest round and the
ratio to lightly's.

With ``--packed`` the same pictures are made into shards and parquet first. Ours read each in the order of training; webdataset's
pipeline has a shuffle buffer of 1,000 images, Hugging Face's ``datasets`` is read by rows in random order. Both cut two crops out
of what Pillow decodes, by torchvision's RandomResizedCrop, and flip them; our workers cut two crops too.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from augment import AugmentConfig, ViewGenerator
from simclr.command_line import run_command
from simclr.config import DataConfig
from simclr.data import Batches, EpochSampler, ImageSet, load_source
from simclr.data.cut import CropPlan, Cut
from simclr.data.packed.make import make_shards
from simclr.data.packed.plan import MakeOptions
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


class TwoCrops:
    """Two crops of a picture, flipped or not: uint8 (2, 3, size, size)."""

    def __init__(self, config: AugmentConfig) -> None:
        self.crop = transforms.RandomResizedCrop(config.size, config.crop_scale, antialias=True)
        self.flip = transforms.RandomHorizontalFlip()

    def __call__(self, image: Image.Image) -> Tensor:
        image = image.convert("RGB")
        return torch.stack([pil_to_tensor(self.flip(self.crop(image))) for _ in range(2)])


def webdatasets(shards: Path, config: AugmentConfig, batch: int) -> Iterator[object]:
    import webdataset

    files = sorted(map(str, shards.glob("train-*.tar")))
    pictures = (
        webdataset.WebDataset(files, shardshuffle=100, nodesplitter=None, empty_check=False).shuffle(1000).decode("pil")
    )
    return iter(
        DataLoader(pictures.to_tuple("jpg;png").map_tuple(TwoCrops(config)).repeat(), batch, num_workers=WORKERS)
    )


def datasets_own(tables: Path, config: AugmentConfig, batch: int) -> Iterator[object]:
    import datasets

    crops = TwoCrops(config)
    rows = datasets.load_dataset(str(tables), cache_dir=os.environ["SIMCLR_CACHE"])["train"]
    rows = rows.with_transform(lambda some: {"views": [crops(image) for image in some["image"]]}, columns=["image"])
    return iter(DataLoader(rows, batch, shuffle=True, drop_last=True, num_workers=WORKERS))


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


def compare_packed(folder: Path, size: int, batch: int, most: int, rounds: int) -> None:
    config = AugmentConfig(size=size, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
    with tempfile.TemporaryDirectory() as made:
        os.environ["SIMCLR_CACHE"] = f"{made}/cache"
        data = DataConfig(source="folder", path=folder, size=size if size < 64 else round(size * 8 / 7))
        for kind in ("shards", "parquet"):
            done = make_shards(MakeOptions(out=Path(made, kind), shard_mb=16, data=data), kind)
            print(done.lines()[-2])
        images = {
            kind: load_source(
                replace(data, source=kind, path=folder if kind == "folder" else Path(made, kind)), "train"
            )
            for kind in ("folder", "shards", "parquet")
        }
        sides: dict[str, Callable[[], Iterator[object]]] = {
            f"ours, {kind}": partial(ours, found, config, batch, False, False) for kind, found in images.items()
        }
        sides["webdataset"] = lambda: webdatasets(Path(made, "shards"), config, batch)
        sides["datasets, by rows"] = lambda: datasets_own(Path(made, "parquet"), config, batch)
        best = dict.fromkeys(sides, 0.0)
        for _ in range(rounds):
            for name, make in sides.items():
                best[name] = max(best[name], images_a_second(make, batch, most))
        print(
            f"{size} px, {len(images['folder'])} pictures, batches of {batch}, {WORKERS} workers, fastest of {rounds} rounds"
        )
        for name, speed in best.items():
            print(f"  {name:<40} {speed:8.0f} images/s   {speed / best['ours, folder']:5.2f} x ours from a folder")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=24, help="batches timed in a round")
    parser.add_argument("--packed", action="store_true", help="as a folder, as shards and as parquet")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 128], help="of the views, in pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures in a batch")
    parser.add_argument("--quick", action="store_true", help="a few made-up pictures, for a try")
    given = parser.parse_args(arguments)
    for name, extra in (("webdataset", "shards"), ("datasets", "parquet")) if given.packed else (("lightly", "bench"),):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"this comparison needs {name}; pip install 'simclr-pipeline[{extra}]'")
    torch.set_num_threads(1)
    if given.quick or given.data is None:
        with tempfile.TemporaryDirectory() as folder:
            (compare_packed if given.packed else compare)(made_up(Path(folder), 40), 64, 8, 2, 1)
        return 0
    for size in given.sizes:
        (compare_packed if given.packed else compare)(given.data, size, given.batch, given.batches, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
