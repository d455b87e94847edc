"""The linear probe's sweep against scikit-learn's: ten strengths on 50,000 x 512 features of 10 classes.

    python benchmarks/probe.py            # some minutes, nearly all of them scikit-learn's
    python benchmarks/probe.py --quick    # 2,000 x 32, seconds

Both fit the same ten objectives to the same optimum: the table gives how far above the lower of the two each stopped,
evaluated in float64, and on how many unseen rows the two classifiers agree. The features are pooled ReLU units of a
latent whose variance falls as a power law, as those of a frozen ResNet do: correlated, badly conditioned (four decades
from the largest to the smallest variance) and not separable.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np
import sklearn
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.probe import linear_probe
from linear_eval.features.extract import Features
from linear_eval.features.rows import Rows, column_statistics

CLASSES = 10

TIGHT = 1e-5
"""scikit-learn's tolerance, on the gradient, that ends within 1e-4 of the optimum at every strength. Its default of 1e-4
does not: at the weakest strength it stops 1e-3 above."""


def make_features(count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (count, width) float32 and labels (count,): see the module's docstring."""
    generator = torch.Generator().manual_seed(seed)
    latent = width // 2
    deviation = torch.arange(1, latent + 1).float().reciprocal()
    means = 0.3 * deviation * torch.randn(CLASSES, latent, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator)
    z = means[y] + deviation * torch.randn(count, latent, generator=generator)
    x = torch.zeros(count, width)
    for _ in range(4):
        weight = torch.randn(latent, width, generator=generator)
        weight /= (weight * deviation[:, None]).norm(dim=0)
        x += (z @ weight + 0.5 * torch.randn(width, generator=generator)).relu() / 4
    return x, y


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, strength: float) -> float:
    """The objective of ``linear_eval.classify.logistic`` in float64."""
    loss = 0.0
    for rows, labels in zip(x.split(8192), y.split(8192), strict=True):
        logits = rows.double() @ weight.double().t() + bias.double()
        loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return loss / len(x) + 0.5 * strength * float(weight.double().square().sum())


class Clocks:
    """Seconds on the wall and of all cores together since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]


@dataclass
class Peer:
    """scikit-learn's fit of one strength."""

    seconds: float
    cpu_seconds: float
    iterations: int
    weight: Tensor
    bias: Tensor


def fit_peer(x: Tensor, y: Tensor, strength: float, tolerance: float) -> Peer:
    model = LogisticRegression(C=1 / (strength * len(x)), tol=tolerance, max_iter=10_000)
    clocks = Clocks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x.numpy(), y.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    return Peer(*clocks.read(), int(model.n_iter_[0]), weight, bias)


def on_a_busy_machine(repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of ``linear_probe`` on 64 x 16 features while other processes keep every core busy: as it is, and in one thread.

    They are taken in turns, with as many threads as there are cores allowed in the first.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 16, generator=generator), torch.randint(4, (80,), generator=generator)
    cores, before = os.cpu_count() or 1, torch.get_num_threads()
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    taken: dict[int, list[float]] = {cores: [], 1: []}
    try:
        for _ in range(repeats):
            for threads, seconds in taken.items():
                torch.set_num_threads(threads)
                clocks = Clocks()
                linear_probe((x[:64], y[:64]), (x[64:], y[64:]))
                seconds.append(clocks.read()[0])
    finally:
        torch.set_num_threads(before)
        for other in others:
            other.kill()
            other.wait()
    return taken[cores], taken[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small size, to try the command")
    parser.add_argument("--device", default="cpu", help="where ours runs; scikit-learn runs on the CPU")
    arguments = parser.parse_args()
    count, width = (2_000, 32) if arguments.quick else (50_000, 512)
    device = torch.device(arguments.device)

    raw, labels = make_features(count + count // 4, width)
    mean, scale = column_statistics(raw[:count])
    x, x_test = ((raw - mean) / scale).split([count, count // 4])
    y, y_test = labels.split([count, count // 4])
    variances = torch.linalg.eigvalsh((x.t() @ x / count).double())
    # C from 1e-4 to 1 at 50,000 rows.
    strengths = np.logspace(np.log10(2e-5), np.log10(0.2), 10)

    def ours() -> tuple[float, float]:
        nonlocal fit
        clocks = Clocks()
        fit = fit_logistic(Rows(x, device=device), y, CLASSES, torch.from_numpy(strengths), tolerance=1e-7)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clocks.read()

    fit = None
    ours()  # warms up threads and allocator
    console = Console()
    runs, peers, hasty = [ours()], [], []
    for number, strength in enumerate(strengths):  # in turns, so that what else the machine does hits all
        peers.append(fit_peer(x, y, float(strength), TIGHT))
        hasty.append(fit_peer(x, y, float(strength), 1e-4))
        if number % 3 == 2:
            runs.append(ours())
    assert fit is not None

    table = Table(title=f"{count} x {width}, {CLASSES} classes, condition {variances[-1] / variances[0]:.0f}")
    headings = ("strength", "C", "passes, ours", "iterations, sklearn", "above best, ours", "above best, sklearn")
    for heading in (*headings, "same predictions", "accuracy"):
        table.add_column(heading, justify="right")
    for i, (strength, peer) in enumerate(zip(strengths, peers, strict=True)):
        weight, bias = fit.weight[i].cpu(), fit.bias[i].cpu()
        mine = objective(x, y, weight, bias, strength)
        theirs = objective(x, y, peer.weight, peer.bias, strength)
        best = min(mine, theirs)
        predicted = (x_test @ weight.t() + bias).argmax(1)
        other = (x_test.double() @ peer.weight.double().t() + peer.bias).argmax(1)
        table.add_row(
            f"{strength:.1e}",
            f"{1 / (strength * count):.0e}",
            str(int(fit.evaluations[i])),
            str(peer.iterations),
            f"{(mine - best) / best:.0e}",
            f"{(theirs - best) / best:.0e}",
            f"{100 * (predicted == other).double().mean():.2f} %",
            f"{100 * (predicted == y_test).double().mean():.1f} %",
        )
    console.print(table)
    own_wall, own_cpu = (statistics.median(clock) for clock in zip(*runs, strict=True))
    each = ", ".join(f"{run[0]:.2f}" for run in runs)
    console.print(f"ours, all strengths at once: {own_wall:.2f} s (median of {each}), processor {own_cpu:.2f} s")
    for name, fits in ((f"tol={TIGHT:g}, the same optimum", peers), ("its default tol=1e-4", hasty)):
        wall, cpu = sum(peer.seconds for peer in fits), sum(peer.cpu_seconds for peer in fits)
        console.print(
            f"scikit-learn, one by one, {name}: {wall:.1f} s, processor {cpu:.1f} s; "
            f"ratio {wall / own_wall:.1f} on the clock, {cpu / own_cpu:.1f} in processor time"
        )

    train = Features(raw[:count], y, torch.arange(count))
    test = Features(raw[count:], y_test, torch.arange(len(y_test)))
    began = time.perf_counter()
    result = linear_probe(train, test, device=device)
    console.print(
        f"the whole linear_probe ({len(result.strengths)} strengths, choice, refit, intervals): "
        f"{time.perf_counter() - began:.2f} s, accuracy {100 * result.accuracy:.1f} % at {result.chosen:.1e}"
    )
    many, one = on_a_busy_machine(3 if arguments.quick else 9)
    console.print(
        f"64 x 16 features while other processes keep every core busy: {statistics.median(many):.2f} s, with one thread "
        f"{statistics.median(one):.2f} s; ratio {statistics.median(many) / statistics.median(one):.2f}"
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    console.print(
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, load at the end {load:.1f}"
    )


if __name__ == "__main__":
    main()
