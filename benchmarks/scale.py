"""The linear probe and kNN on features that stay in their file: seconds, memory, and what ImageNet's size would cost.

    python benchmarks/scale.py            # 200,000 x 512, 10 and 100 classes: some minutes
    python benchmarks/scale.py --quick    # 2,000 x 32, seconds

The features are written to disk part by part and never held; each measurement is a process of its own, which maps the file.
Memory is read from the system while it works: pages of the mapped file (which count as resident as long as the system has
room for them, and go when it has not) apart from memory that is the process's own. The last table is arithmetic, not
measurement: the cost model of docs/scale.md with this run's passes and speed put in.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from linear_eval.classify.knn import knn_predictions
from linear_eval.classify.probe import STRENGTHS, linear_probe
from linear_eval.features.disk import FeatureWriter
from linear_eval.features.extract import Features

PART = 20_000


def parts(count: int, width: int, classes: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and labels a part at a time: pooled ReLU units of a latent whose variance falls as a power law, as in
    benchmarks/probe.py: correlated, badly conditioned, not separable."""
    generator = torch.Generator().manual_seed(0)
    latent = width // 2
    deviation = torch.arange(1, latent + 1).float().rsqrt()
    means = 0.25 * deviation * torch.randn(classes, latent, generator=generator)
    layers = []
    for _ in range(2):
        weight = torch.randn(latent, width, generator=generator)
        layers.append(
            (weight / (weight * deviation[:, None]).norm(dim=0), 0.5 * torch.randn(width, generator=generator))
        )
    generator.manual_seed(seed)
    for start in range(0, count, PART):
        n = min(PART, count - start)
        y = torch.randint(classes, (n,), generator=generator)
        z = means[y] + deviation * torch.randn(n, latent, generator=generator)
        yield sum((z @ weight + bias).relu() / 2 for weight, bias in layers), y  # type: ignore[misc]


def write(folder: Path, count: int, width: int, classes: int, seed: int) -> None:
    writer, done = FeatureWriter(folder, count), 0
    writer.begin()
    for x, y in parts(count, width, classes, seed):
        writer.append(x, y, torch.arange(done, done + len(x)))
        done += len(x)
    writer.close()
    writer.finish()


def status(*names: str) -> list[float]:
    """Megabytes of this process by the kernel's names; NaN where there are no such figures."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return [int(lines[name].split()[0]) * 1024 / 1e6 for name in names]
    except (OSError, KeyError):
        return [float("nan")] * len(names)


class Watch:
    """The largest own memory and the largest share of mapped files, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.base = self.own, self.file = tuple(status("RssAnon", "RssFile"))
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(0.005):
            own, file = status("RssAnon", "RssFile")
            self.own, self.file = max(self.own, own), max(self.file, file)

    def stop(self) -> dict[str, float]:
        self.done.set()
        self.thread.join()
        return {"own": self.own - self.base[0], "file": self.file - self.base[1]}


def timed(work: Callable[[], object]) -> tuple[object, float, dict[str, float]]:
    watch, began = Watch(), time.perf_counter()
    found = work()
    seconds = time.perf_counter() - began
    return found, seconds, watch.stop()


def measure(folder: Path, mapped: bool, strengths: list[float]) -> dict[str, object]:
    """In a process of its own: the probe and kNN, with seconds, passes and memory."""
    torch.ones(512, 512) @ torch.ones(512, 512)  # the libraries' own buffers are no part of the question
    torch.linalg.eigh(torch.eye(64, dtype=torch.float64))
    test = Features.load(folder / "test", mmap=False)
    passes = {"sweep": 0, "fit": 0}
    strength_passes = {"sweep": len(strengths), "fit": 1}  # of the pass at the start

    def progress(stage: str, done: int, live: int) -> None:
        passes[stage] = done
        strength_passes[stage] += live

    # Not getrusage: its maximum takes in what the parent had when it started this process.
    before = status("VmRSS")[0]
    train, _, loading = timed(lambda: Features.load(folder / "train", mmap=mapped))
    assert isinstance(train, Features)
    probe, probe_seconds, probe_memory = timed(
        lambda: linear_probe(train, test, strengths, progress=progress, device="cpu")
    )
    after_probe = status("VmHWM")[0]
    votes, knn_seconds, knn_memory = timed(lambda: knn_predictions(train, test, device="cpu"))
    return {
        "rows": len(train),
        "width": train.x.shape[1],
        "classes": len(probe.classifier.classes),  # type: ignore[attr-defined]
        "queries": len(test),
        "accuracy": probe.accuracy,  # type: ignore[attr-defined]
        "chosen": probe.chosen,  # type: ignore[attr-defined]
        "converged": probe.converged,  # type: ignore[attr-defined]
        "knn_accuracy": (votes == test.y).double().mean().item(),  # type: ignore[attr-defined]
        "passes": passes,
        "strength_passes": strength_passes,
        "probe_seconds": probe_seconds,
        "knn_seconds": knn_seconds,
        "loading": loading,
        "probe_memory": probe_memory,
        "knn_memory": knn_memory,
        "resident": after_probe - before,
    }


def probe_flops(rows: int, width: int, classes: int, strength_passes: int) -> float:
    """Operations of the sweep and the final fit; twice the second moment is the rest."""
    return 4.0 * rows * width * classes * strength_passes + 2 * 2.0 * rows * width**2


def state_bytes(width: int, classes: int, strengths: int) -> float:
    """L-BFGS: ten pairs of steps and gradients, and about twelve more arrays of the weights' size while it works."""
    return 4.0 * (2 * 10 + 12) * strengths * classes * (width + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=5_000, help="test rows")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument(
        "--strengths", type=int, default=len(STRENGTHS), help="of the sweep, evenly from the usual ones"
    )
    parser.add_argument("--in-memory", action="store_true", help="also measure with the features loaded into memory")
    parser.add_argument("--folder", type=Path, help="where the files go; by default the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="a small size and three strengths: does it run at all?")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.width, options.queries, options.classes = 2_000, 32, 200, [10]
        options.strengths, options.in_memory = 3, True
    chosen = torch.linspace(0, len(STRENGTHS) - 1, options.strengths).round().long().tolist()
    strengths = [STRENGTHS[i] for i in chosen]
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1] == "mapped", strengths)))
        return 0

    console = Console(width=120)
    found = []
    for classes in options.classes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write(Path(folder) / "train", options.rows, options.width, classes, seed=1)
            write(Path(folder) / "test", options.queries, options.width, classes, seed=2)
            for how in ("mapped", "memory") if options.in_memory else ("mapped",):
                words = ["--strengths", str(options.strengths), "--measure", folder, how]
                command = [sys.executable, __file__, *words]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                one = json.loads(done.stdout.splitlines()[-1])
                found.append((how, one))
                seconds = f"probe {one['probe_seconds']:.1f} s, kNN {one['knn_seconds']:.1f} s"
                console.print(f"{classes} classes, {how}: {seconds}, strength {one['chosen']:.1e}")

    size = options.rows * options.width * 4 / 1e6
    table = Table(title=f"{options.rows} x {options.width} float32 ({size:.0f} MB), {len(strengths)} strengths")
    headings = (
        "features",
        "classes",
        "probe s",
        "passes",
        "strength passes",
        "GFLOP/s",
        "accuracy %",
        "kNN s",
        "GFLOP/s",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for how, one in found:
        live = sum(one["strength_passes"].values())
        flops = probe_flops(one["rows"], one["width"], one["classes"], live)
        comparing = 2 * one["rows"] * one["queries"] * one["width"]
        table.add_row(
            how,
            str(one["classes"]),
            f"{one['probe_seconds']:.1f}",
            f"{one['passes']['sweep']} + {one['passes']['fit']}",
            str(live),
            f"{flops / one['probe_seconds'] / 1e9:.0f}",
            f"{100 * one['accuracy']:.1f}",
            f"{one['knn_seconds']:.1f}",
            f"{comparing / one['knn_seconds'] / 1e9:.0f}",
        )
    console.print(table)

    table = Table(title="megabytes above what the process had before it looked at the training features")
    headings = (
        "features",
        "classes",
        "own, probe",
        "own, kNN",
        "mapped pages",
        "peak resident, probe",
        "L-BFGS, model",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for how, one in found:
        table.add_row(
            how,
            str(one["classes"]),
            f"{one['loading']['own'] + one['probe_memory']['own']:.0f}",
            f"{one['loading']['own'] + one['knn_memory']['own']:.0f}",
            f"{max(one['probe_memory']['file'], one['knn_memory']['file']):.0f}",
            f"{one['resident']:.0f}",
            f"{state_bytes(one['width'], one['classes'], len(strengths)) / 1e6:.0f}",
        )
    console.print(table)
    predict(console, found[-1][1], len(strengths))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    threads = torch.get_num_threads()
    console.print(f"torch {torch.__version__}, {platform.machine()}, {threads} threads, load at the end {load:.1f}")
    return 0


def predict(console: Console, measured: dict[str, object], strengths: int) -> None:
    """1.28M x 2048, 1000 classes, by the cost model; the passes and this processor's speed as measured last."""
    rows, width, classes, queries = 1_281_167, 2048, 1000, 50_000
    live = sum(measured["strength_passes"].values())  # type: ignore[attr-defined]
    fit = measured["strength_passes"]["fit"]  # type: ignore[index]
    speed = probe_flops(measured["rows"], measured["width"], measured["classes"], live)  # type: ignore[arg-type]
    speed /= measured["probe_seconds"]  # type: ignore[operator]
    compare = 2 * measured["rows"] * measured["queries"] * measured["width"] / measured["knn_seconds"]  # type: ignore[operator]
    table = Table(title=f"PREDICTED, not measured: {rows} x {width}, {classes} classes, {queries} test rows")
    for heading in ("", "TFLOP", "this processor, hours", "H100 at half its fp32 peak, minutes"):
        table.add_column(heading, justify="right" if heading else "left")
    half_peak = 66.9e12 / 2
    works = (
        (f"probe, {strengths} strengths", probe_flops(rows, width, classes, live), speed),
        ("probe, one strength and the refit", probe_flops(rows, width, classes, 2 * fit), speed),
        ("kNN", 2.0 * rows * width * queries, compare),
    )
    for name, flops, here in works:
        table.add_row(name, f"{flops / 1e12:.0f}", f"{flops / here / 3600:.2f}", f"{flops / half_peak / 60:.1f}")
    console.print(table)
    console.print(
        f"features {rows * width * 4 / 1e9:.1f} GB; L-BFGS {state_bytes(width, classes, strengths) / 1e9:.1f} GB "
        f"for {strengths} strengths, {state_bytes(width, classes, 1) / 1e9:.2f} GB for one"
    )


if __name__ == "__main__":
    sys.exit(main())
