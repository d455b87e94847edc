"""lightly's SimCLR on the images and the encoder of a config of ours, for as many seconds as ours took.

    python benchmarks/cifar10/lightly_simclr.py CONFIG.yaml --seconds 450 --out FOLDER

``benchmarks/cifar10/run.py --against lightly`` runs it. Loss, projection head and transform are lightly's; the loop is that of
its SimCLR example, one pass a view; the settings are those it publishes for CIFAR-10: batch 512, SGD with learning rate
0.06 x batch / 128, momentum 0.9 and weight decay 5e-4, cosine, temperature 0.5, colour strength 0.5, no blur, head
512-512-128, ImageNet's normalisation. Five things differ, all in its favour: the cosine ends when the time does and not
after 200 or 800 epochs, the arithmetic is ours (bf16 where the device has it), the images are decoded before training,
there is a loading process a core, and where it is continued the later starts are not charged. Its time counts from the
start of the first process, as ours does.

SIGTERM ends it with a checkpoint and exit code 130; the same command goes on from there, with a new epoch. FOLDER gets the
encoder in the form of ``simclr.load_encoder``, metrics.jsonl and done.json.
"""

# ruff: noqa: E402 - the clock starts before the imports

import time

BEGAN = time.monotonic()  # the imports are part of its time, as they are of ours

import argparse
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr.command_line import run_command
from simclr.config import TrainConfig
from simclr.config.yaml import load_config
from simclr.data import ImageSet, load_source
from simclr.distributed import derive_seed
from simclr.errors import MissingExtraError
from simclr.exchange.encoder import export_encoder
from simclr.files import write_json
from simclr.model.contrastive import ContrastiveModel
from simclr.model.encoder import build_backbone, feature_width
from simclr.objectives import Objective
from simclr.run.accelerator import make_accelerator
from simclr.run.validation import ValidationScore
from simclr.stopping import StopFlag

RATE, MOMENTUM, WEIGHT_DECAY, TEMPERATURE, STRENGTH, WIDTH = 0.06, 0.9, 5e-4, 0.5, 0.5, 128
"""What lightly publishes for CIFAR-10; the rate is for a batch of 128."""


def require_lightly() -> None:
    """Raise MissingExtraError, in words, unless lightly is installed."""
    try:
        import lightly  # noqa: F401 - its absence is the user's to mend
    except ImportError as error:
        raise MissingExtraError("lightly is not installed: pip install 'simclr-pipeline[bench]'") from error


class Views(torch.utils.data.Dataset[list[torch.Tensor]]):
    """The decoded images, each as two views of lightly's transform."""

    def __init__(self, images: ImageSet) -> None:
        from lightly.transforms import SimCLRTransform
        from PIL import Image

        assert images.pixels is not None
        self.transform = SimCLRTransform(input_size=images.size, cj_strength=STRENGTH, gaussian_blur=0.0)
        self.pixels = images.pixels.cpu().permute(0, 2, 3, 1).numpy()  # (N, S, S, 3)
        self.picture = Image.fromarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        views: list[torch.Tensor] = self.transform(self.picture(self.pixels[index]))
        return views


def pretrain(config: TrainConfig, limit: float, out: Path, batch: int) -> bool:
    """Train for ``limit`` seconds in all; False when asked to stop before."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.utils import IMAGENET_NORMALIZE

    accelerator = make_accelerator(config)
    device = accelerator.device
    normalised = {name: tuple(values) for name, values in IMAGENET_NORMALIZE.items()}
    augment = replace(config.augment, **normalised)  # type: ignore[arg-type]  # mean and std
    images = load_source(config.data, "train").resident(device)
    online = ValidationScore(images, augment, config.data.split_seed)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loader = torch.utils.data.DataLoader(
        Views(images),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    backbone = build_backbone(config.encoder, images.size, derive_seed(config.seed, "init"))
    width = feature_width(backbone, images.size)
    torch.manual_seed(config.seed)
    model = ContrastiveModel(backbone, SimCLRProjectionHead(width, width, WIDTH), torch.channels_last).to(device)
    loss_of = NTXentLoss(temperature=TEMPERATURE)
    peak = RATE * batch / 128
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    state, metrics = out / "state.pt", out / "metrics.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {"seconds": 0.0, "start": 0.0, "steps": 0, "scored": 0.0}
    if state.exists():
        kept = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        done = kept["done"]
    before = done["seconds"]
    since = time.monotonic() if before else BEGAN  # a later call's start is not charged

    def clock() -> float:
        return before + time.monotonic() - since

    def score(mean_loss: float) -> None:
        figures = online(model, Objective(nn.Identity()), device)
        line = {"minutes": clock() / 60, "epoch": done["steps"] * batch / len(images), "loss": mean_loss, **figures}
        with metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        said = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"lightly: {clock() / 60:.2f} min, epoch {line['epoch']:.1f}, loss {mean_loss:.3f}, {said}", flush=True)

    model.train()
    done["start"] = done["start"] or clock()
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=accelerator.mixed_precision == "bf16")
    with StopFlag() as stop:
        while clock() < limit and stop.raised is None:
            torch.manual_seed(derive_seed(config.seed, "lightly", done["steps"]))
            total, count = torch.zeros((), device=device), 0
            for first, second in loader:
                rate = 0.5 * peak * (1 + math.cos(math.pi * min(1.0, clock() / limit)))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with autocast:
                    z = [model(view[None].to(device, non_blocking=True))[0] for view in (first, second)]  # (B, D) each
                loss = loss_of(z[0].float(), z[1].float())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                total, count = total + loss.detach(), count + 1
                done["steps"] += 1
                if stop.raised is not None or clock() >= limit:
                    break
            ended = clock() >= limit
            if ended or clock() - done["scored"] >= limit / 20:
                score(total.item() / max(1, count))
                done["scored"] = clock()
    done["seconds"] = clock()
    partial = out / ".state.pt.partial"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, partial)
    partial.replace(state)
    if done["seconds"] < limit:
        return False
    export_encoder(
        model.backbone,
        out / "encoder",
        config=config.encoder,
        augment=augment,
        seed=derive_seed(config.seed, "init"),
        training={"run": "lightly", "objective": "nt-xent", "epochs": done["steps"] * batch / len(images)},
    )
    seen, seconds = done["steps"] * batch, done["seconds"] - done["start"]
    write_json(
        out / "done.json",
        {
            "minutes": done["seconds"] / 60,
            "minutes_of_steps": seconds / 60,
            "epochs": seen / len(images),
            "images_per_second": seen / seconds,
        },
    )
    return True


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config of ours: images, encoder, seed")
    parser.add_argument("--seconds", type=float, required=True, help="of training, over all calls together")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args(words)
    require_lightly()
    finished = pretrain(load_config(options.config), options.seconds, options.out, options.batch)
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(run_command(main))
