"""Planted wrong labels and near-duplicates in a folder of images: how many of the first 50 named are planted.

    python benchmarks/planted.py RUN --path DIR

DIR is a folder of photographs by class, with or without train and test; RUN an encoder: a run, a file or the name of a timm
model. Of a copy of DIR 5 % of the files are moved into another class's folder, and 48 others get a copy beside them that is
re-encoded, half as large, brighter, cropped or mirrored, half of these in another part where there are parts. What
``linear_eval/look`` names is compared with what was planted, with the encoder and with raw pixels in its place.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits

from augment import AugmentConfig
from linear_eval.look.copies import copies, group_numbers
from linear_eval.look.prints import pixels_of
from linear_eval.look.seen import Seen, look_at
from linear_eval.look.surprising import agreed, neighbour_votes, out_of_fold
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig, EncoderConfig
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone

FIRST, SHARE, COPIED = 50, 0.05, 48


@dataclass(frozen=True)
class Planted:
    """What was done to a copy of a folder."""

    moved: set[str]
    """Files that are in another class's folder, by their path below the copy."""

    copied: dict[str, tuple[str, str]]
    """Copy -> the image it is of, and how it was made."""


def plant(folder: Path, share: float, copied: int, seed: int) -> Planted:
    """Move ``share`` of the files of ``folder`` to other classes, and make copies of ``copied`` others."""
    generator = torch.Generator().manual_seed(seed)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    classes = sorted({path.parent.name for path in files})
    order = torch.randperm(len(files), generator=generator).tolist()
    moved, made = set[str](), dict[str, tuple[str, str]]()
    wrong = round(share * len(files))
    for i in order[:wrong]:
        others = [name for name in classes if name != files[i].parent.name]
        name = others[int(torch.randint(len(others), (1,), generator=generator))]
        target = files[i].parent.parent / name / files[i].name
        target.parent.mkdir(exist_ok=True)
        files[i].rename(target)
        moved.add(target.relative_to(folder).as_posix())
    parts = sorted({path.parent.parent for path in files})
    for number, i in enumerate(order[wrong : wrong + copied]):
        source = files[i]
        how, change = list(CHANGES.items())[number % len(CHANGES)]
        part = source.parent.parent
        if number // len(CHANGES) % 2 and len(parts) > 1:
            part = parts[(parts.index(part) + 1) % len(parts)]
        target = part / source.parent.name / f"copy-{number}.jpg"
        with Image.open(source) as image:
            change(image.convert("RGB")).save(target, quality=60 if how == "re-encoded" else 90)
        names = [path.relative_to(folder).as_posix() for path in (target, source)]
        made[names[0]] = names[1], how
    return Planted(moved, made)


def _cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        left, top = round((1 - share) * width / 2), round((1 - share) * height / 2)
        return image.crop((left, top, width - left, height - top))

    return crop


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "cropped to 90 %": _cropped(0.9),
    "cropped to 70 %": _cropped(0.7),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def planted_labels(seen: Seen, planted: Planted) -> dict[str, tuple[int, float]]:
    """Ranking -> how many of the first images it names were planted, and its average precision."""
    classes, target = seen.y.unique(return_inverse=True)
    wrong = torch.tensor([name in planted.moved for name in seen.names])
    groups = group_numbers(seen)
    p, votes = out_of_fold(seen.x, target, groups), neighbour_votes(seen.x, target, len(classes), groups)
    rankings = {
        "probe and neighbours (shipped)": agreed(p, votes),
        "probe alone": p + 1e-9,
        "neighbours alone": votes + 1e-3,
    }
    found = {}
    for name, q in rankings.items():
        own = q.gather(1, target[:, None]).flatten()
        odds = own.log() - q.scatter(1, target[:, None], -1.0).max(1).values.log()
        hit = wrong[odds.argsort(stable=True)].double()
        precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
        found[name] = int(hit[:FIRST].sum()), float((precision * hit).sum() / hit.sum())
    return found


def planted_copies(seen: Seen, planted: Planted) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Change -> copies found and planted; how many of the first groups hold a planted pair, and how many groups there are."""
    pairs = {frozenset((copy, source)): how for copy, (source, how) in planted.copied.items()}
    groups = copies(seen)
    held = [{frozenset((seen.names[a], seen.names[b])) for a in group.rows for b in group.rows} for group in groups]
    named = set[frozenset[str]]().union(*held) & set(pairs)
    count = {
        how: (sum(pairs[pair] == how for pair in named), sum(one == how for one in pairs.values())) for how in CHANGES
    }
    return count, sum(bool(some & set(pairs)) for some in held[:FIRST]), len(groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a run, a file or the name of a timm model")
    parser.add_argument("--path", type=Path, help="a folder of images by class")
    parser.add_argument(
        "--quick", action="store_true", help="digits and an encoder of random weights, to try the script"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a copy each")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as scratch:
            measure(digits_and_no_encoder(Path(scratch)), Path(scratch) / "digits", [0])
    elif arguments.run is None or arguments.path is None:
        parser.error("give a run and the images: RUN --path DIR")
    else:
        measure(arguments.run, arguments.path, arguments.seeds)


def digits_and_no_encoder(folder: Path) -> Path:
    """An encoder of random weights, and scikit-learn's digits as files by class beside it."""
    found = load_digits()
    for number, (image, label) in enumerate(zip(found.images[:300], found.target[:300], strict=True)):
        target = folder / "digits" / str(label) / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).save(target)
    small, augment = (
        EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)),
        AugmentConfig(size=32),
    )
    backbone = build_backbone(small, 32, seed=0)
    return export_encoder(backbone, folder / "encoder", config=small, augment=augment, seed=0, training={})


def measure(given: Path | str, path: Path, seeds: list[int]) -> None:
    """Print what is named of what was planted in a copy of ``path`` for each of ``seeds``."""
    run = ScoredRun.at(given)
    size = run.description.reader.size if run.data is None else run.data.size
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "copy"
            shutil.copytree(path, folder)
            planted = plant(folder, SHARE, COPIED, seed)
            seen = look_at(run, DataConfig(source="folder", path=folder, size=size))
            print(
                f"seed {seed}: {len(seen)} images, {len(planted.moved)} wrong labels and {len(planted.copied)} copies planted"
            )
            for name, one in (("encoder", seen), ("raw pixels", replace(seen, x=pixels_of(seen)))):
                for ranking, (hits, precision) in planted_labels(one, planted).items():
                    print(
                        f"  {name:10} {ranking:31} {hits} of the first {FIRST} are planted, average precision {precision:.3f}"
                    )
                count, hits, groups = planted_copies(one, planted)
                found = ", ".join(f"{how} {n} of {all_}" for how, (n, all_) in count.items())
                print(
                    f"  {name:10} copies: {found}; {hits} of the first {min(FIRST, groups)} groups hold a planted pair"
                )


if __name__ == "__main__":
    main()
