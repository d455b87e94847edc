"""Two SimCLR views of every image: ours against the stock Kornia chain, torchvision v2 and lightly's transform.

    python benchmarks/views.py            # on the GPU where there is one; --quick takes seconds instead of minutes

Images of 32 px without blur (CIFAR-10's recipe), and of 256 px to views of 224 px with blur (ImageNet's). Kornia and
ours augment a batch where it lies; torchvision and lightly augment image by image in a DataLoader with a worker a core.
All take turns for several rounds, so that a busy machine slows all of them alike. The table has the median round and the
fastest; the first says what to expect, the second what the code can do where nothing else happens.
"""

import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from augment import AugmentConfig, ViewGenerator
from simclr.command_line import run_command
from simclr.errors import MissingExtraError
from simclr.run.process import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One column of the table."""

    name: str
    batch: int
    stored: int
    config: AugmentConfig


def settings(cuda: bool, quick: bool) -> list[Setting]:
    large = AugmentConfig(size=224, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
    small_batch, large_batch = (1024, 256) if cuda else (256, 64)
    if quick:
        small_batch, large_batch = 32, 4
    return [
        Setting(name="32 px", batch=small_batch, stored=32, config=AugmentConfig(size=32)),
        Setting(name="224 px, blur", batch=large_batch, stored=256, config=large),
    ]


def kornia_chain(config: AugmentConfig) -> nn.Module:
    from kornia import augmentation as kornia

    operations = [
        kornia.RandomResizedCrop(
            (config.size, config.size), scale=config.crop_scale, ratio=config.crop_ratio, align_corners=False
        ),
        kornia.RandomHorizontalFlip(p=config.horizontal_flip),
        kornia.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue, p=config.jitter),
        kornia.RandomGrayscale(p=config.gray),
    ]
    if config.blur:
        kernel = (config.blur_kernel_size, config.blur_kernel_size)
        operations.append(kornia.RandomGaussianBlur(kernel, config.blur_sigma, p=config.blur))
    return nn.Sequential(*operations)


def torchvision_transform(config: AugmentConfig) -> Callable[[Tensor], list[Tensor]]:
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    operations = [
        v2.RandomResizedCrop(config.size, config.crop_scale, config.crop_ratio),
        v2.RandomHorizontalFlip(config.horizontal_flip),
        v2.RandomApply([jitter], p=config.jitter),
        v2.RandomGrayscale(config.gray),
    ]
    if config.blur:
        operations.append(v2.RandomApply([v2.GaussianBlur(config.blur_kernel_size, config.blur_sigma)], p=config.blur))
    one = v2.Compose([*operations, v2.ToDtype(torch.float32, scale=True)])
    return lambda image: [one(image) for _ in range(config.views)]


def lightly_transform(config: AugmentConfig) -> Callable[[Any], list[Tensor]]:
    from lightly.transforms import SimCLRTransform

    transform: Callable[[Any], list[Tensor]] = SimCLRTransform(
        input_size=config.size,
        cj_prob=config.jitter,
        cj_strength=config.brightness / 0.8,
        min_scale=config.crop_scale[0],
        random_gray_scale=config.gray,
        gaussian_blur=config.blur,
        sigmas=config.blur_sigma,
        hf_prob=config.horizontal_flip,
        normalize=None,
    )
    return transform


class Transformed(Dataset[list[Tensor]]):
    """The images, over and over, each transformed when it is asked for."""

    def __init__(self, images: list[Any], transform: Callable[[Any], list[Tensor]], length: int) -> None:
        self.images, self.transform, self.length = images, transform, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index % len(self.images)])


Timing = Callable[[], float]


def by_loader(images: list[Any], transform: Callable[[Any], list[Tensor]], batches: int, batch: int) -> Timing:
    """Seconds for one batch, from an epoch of several through a DataLoader with a worker a core."""
    workers = os.cpu_count() or 1
    # Small loader batches, so that every worker has its share however few images there are.
    loader = DataLoader(
        Transformed(images, transform, batches * batch),
        batch_size=max(1, batch // (2 * workers)),
        num_workers=workers,
        persistent_workers=True,
    )

    def timing() -> float:
        start = time.perf_counter()
        for _ in loader:
            pass
        return (time.perf_counter() - start) / batches

    return timing


def on_batch(views: Callable[[Tensor], object], images: Tensor) -> Timing:
    """Seconds for one batch that is augmented where it lies."""

    def timing() -> float:
        if images.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        views(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return timing


def contenders(setting: Setting, device: str, compile: bool, batches: int) -> dict[str, Timing]:
    from torchvision.transforms.v2.functional import to_pil_image

    config = setting.config
    generator = torch.Generator().manual_seed(0)
    # Smooth images: what a codec leaves of a photograph, and not noise, whose colours no jitter would clip.
    coarse = torch.rand(setting.batch, 3, setting.stored // 8, setting.stored // 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, setting.stored, mode="bicubic").clamp(0, 1)
    images = (smooth * 255).to(torch.uint8)
    chain = kornia_chain(config)

    def stock(batch: Tensor) -> list[Tensor]:
        pixels = batch.float() / 255
        return [chain(pixels) for _ in range(config.views)]

    there = images.to(device)
    timings = {
        "ours, fused": on_batch(ViewGenerator(config), there),
        "ours, reference": on_batch(ViewGenerator(config, "reference"), there),
        "stock Kornia chain": on_batch(stock, there),
        "torchvision v2, a worker a core": by_loader(
            list(images), torchvision_transform(config), batches, setting.batch
        ),
        "lightly, a worker a core": by_loader(
            [to_pil_image(image) for image in images], lightly_transform(config), batches, setting.batch
        ),
    }
    if compile:
        timings["ours, fused and compiled"] = on_batch(ViewGenerator(config, compile=True), there)
    return timings


def rounds(timings: dict[str, Timing], seconds: float, least: int) -> dict[str, list[float]]:
    """The rounds of each, in ascending order. One that takes more than a second sits out after the third."""
    for timing in timings.values():
        timing()  # starts the workers, fills the caches
    taken: dict[str, list[float]] = {name: [] for name in timings}
    deadline = time.perf_counter() + seconds
    done = 0
    while done < least or time.perf_counter() < deadline:
        for name, timing in timings.items():
            if done < 3 or min(taken[name]) < 1:
                taken[name].append(timing())
        done += 1
    return {name: sorted(values) for name, values in taken.items()}


def copy_seconds(setting: Setting) -> float:
    """What it takes the device to read the images and write the views once: the floor."""
    config = setting.config
    images = torch.zeros(setting.batch, 3, setting.stored, setting.stored, dtype=torch.uint8, device="cuda")
    views = torch.zeros(config.views, setting.batch, 3, config.size, config.size, device="cuda")
    source, target = images.flatten(), views.flatten()
    copies = (on_batch(lambda _: source.clone(), images), on_batch(lambda _: target.fill_(0.5), images))
    for _ in range(3):
        for copy in copies:
            copy()
    # A clone reads and writes: half of it is the reading.
    return min(copies[0]() for _ in range(20)) / 2 + min(copies[1]() for _ in range(20))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, few rounds: does it run at all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile", action="store_true", help="also ours through torch.compile, on a GPU: takes minutes"
    )
    parser.add_argument("--keep-memory", action="store_true", help="all with the allocator's setting of our commands")
    options = parser.parse_args(words)
    if options.keep_memory:
        keep_freed_memory()
    if importlib.util.find_spec("lightly") is None:
        raise MissingExtraError("lightly is not installed; install it with: pip install 'simclr-pipeline[bench]'")
    cuda = options.device == "cuda"
    hardware = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{hardware} of {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    for setting in settings(cuda, options.quick):
        timings = contenders(setting, options.device, options.compile and cuda, batches=1 if options.quick else 4)
        taken = rounds(timings, *((0.0, 1) if options.quick else (30.0, 5)))
        ours = taken["ours, fused"]
        print(f"\n{setting.name}: {setting.config.views} views of {setting.batch} images of {setting.stored} px\n")
        print("| transform | batch (ms), median | fastest | images/s | ours is faster by, median | fastest |")
        print("|---|---|---|---|---|---|")
        for name, seconds in sorted(taken.items(), key=lambda item: median(item[1])):
            typical, ratio = median(seconds), median(seconds) / median(ours)
            print(
                f"| {name} | {typical * 1e3:,.1f} | {seconds[0] * 1e3:,.1f} | {setting.batch / typical:,.0f} "
                f"| {ratio:.2f} | {seconds[0] / ours[0]:.2f} |"
            )
        if cuda:
            floor = copy_seconds(setting)
            print(f"\nReading the images and writing the views once takes {floor * 1e3:.2f} ms:")
            print(f"the fused form runs at {floor / ours[0]:.0%} of the bandwidth of a copy.")
    return 0


if __name__ == "__main__":
    # Peers run in what their users have: the allocator's defaults.
    sys.exit(run_command(main, keep_memory=False))
