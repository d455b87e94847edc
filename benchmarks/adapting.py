"""Does adapting help? ``python benchmarks/adapting.py --data DIR``: weights of some classes, adapted without labels to others.

A small ResNet learns every second class of a folder (``DIR/train/CLASS/*``, ``DIR/test/CLASS/*``) with labels. The preset
``adapt`` goes on from it on the others, without labels, and the score of that has a row for the weights as they were. Each seed
is another network, another draw of the images and another order. ``--quick`` takes a few pictures of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from simclr.run.log import read_metrics

PRETRAIN = Path(__file__).parent.parent / "scripts" / "pretrain.py"
NETWORK = "--encoder.layers 1 1 1 1 --encoder.channels 16 32 64 128 --encoder.stem small"
SETTINGS = {"the preset": "", "faster": "--optim.learning-rate 2e-3 --optim.layer-decay 0.9"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=16, help="pixels of the images")
    parser.add_argument("--images", type=int, default=500, help="training images of each class")
    parser.add_argument("--epochs", type=int, nargs=2, default=(15, 10), help="with labels, and of adapting")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.images, arguments.epochs = 1, 12, (1, 2)
    print(
        "| seed | adapted by | linear: start | adapted | difference, 95 % interval | kNN: start | adapted | linear CKA |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for row in one_seed(arguments, seed, Path(folder)):
                print(row, flush=True)
    return 0


def one_seed(arguments: argparse.Namespace, seed: int, folder: Path) -> Iterator[str]:
    """A row of the table for each setting, all from the same weights."""
    rng = np.random.default_rng(seed)
    source = draw(folder / "drawn", rng) if arguments.data is None else arguments.data
    classes = sorted(path.name for path in (source / "train").iterdir())
    order = rng.permutation(len(classes)) if arguments.data is None else np.arange(len(classes))
    for number, of in enumerate(order):
        half = folder / ("known" if number % 2 == 0 else "new")
        for part in ("train", "test"):
            files = sorted((source / part / classes[of]).iterdir())
            files = [files[i] for i in rng.permutation(len(files))[: arguments.images]] if part == "train" else files
            (half / part / classes[of]).mkdir(parents=True)
            for file in files:
                (half / part / classes[of] / file.name).symlink_to(file.resolve())
    labelled, adapting = arguments.epochs
    common = ["--out", folder / "runs", "--seed", seed, "--data.source", "folder"]
    common += ["--data.size", arguments.size, "--augment.size", arguments.size]
    small = ["--train.batch-size", 8] if arguments.quick else ["--train.batch-size", 128]
    flat = "--augment.views 1 --augment.jitter 0 --augment.gray 0 --augment.crop-scale 0.5 1 --head.layers 0"
    rate = "--optim.name adamw --optim.learning-rate 2e-3 --optim.scaling sqrt --optim.weight-decay 0.05"
    ends = f"--train.epochs {labelled} --schedule.warmup-epochs 1 --train.no-evaluate"
    known = [*common, *small, *NETWORK.split(), *f"{flat} {rate} {ends}".split(), "--data.path", folder / "known"]
    run("cifar10", "objective:cross-entropy", *known, "--name", "known")
    new = [*common, *small, "--encoder.init", folder / "runs" / "known", "--data.path", folder / "new"]
    warm = ["--schedule.warmup-epochs", 0] if arguments.quick else []
    for number, (name, flags) in enumerate(SETTINGS.items()):
        adapted = folder / "runs" / f"new-{number}"
        run("adapt", *new, "--name", adapted.name, "--train.epochs", adapting, *warm, *flags.split())
        result = json.loads((adapted / "result.json").read_text())
        rows, gain = result["rows"], result["comparison"]["encoder - start"]["linear"]
        linear, knn = (
            [100 * rows[row][kind]["accuracy"] for row in ("start", "encoder")] for kind in ("linear", "knn")
        )
        low, high = (100 * end for end in gain["interval"])
        cka = [line["start_cka"] for line in read_metrics(adapted / "metrics.jsonl") if "start_cka" in line]
        difference = f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        shown = [f"{share:.1f}" for share in (*linear, *knn)]
        yield f"| {' | '.join([str(seed), name, *shown[:2], difference, *shown[2:], f'{cka[-1]:.2f}'])} |"


def run(*words: object) -> None:
    done = subprocess.run([sys.executable, PRETRAIN, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def draw(folder: Path, rng: np.random.Generator) -> Path:
    """Four classes of striped pictures."""
    for part in ("train", "test"):
        for kind in range(4):
            (folder / part / "abcd"[kind]).mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 90, (32, 32, 3))
                pixels[:, :: kind + 2] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / "abcd"[kind] / f"{number}.png")
    return folder


if __name__ == "__main__":
    sys.exit(main())
