"""What several test files share: tiny configs that train in a second, and image folders made on the spot."""

import importlib.util
import itertools
import multiprocessing
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapes  # noqa: F401  # before the packages: from here on the shapes in their signatures are executed
import torch.multiprocessing as mp
from PIL import Image

import simclr
import simclr.progress
from simclr.command_line import run_command
from simclr.config import EncoderConfig, HeadConfig, LoopConfig, TrainConfig

Command = Callable[..., tuple[int, str, str]]
Ranks = Callable[..., None]
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Command]:
    """``script("export")(*words)`` runs scripts/export.py in this process; gives its exit code, its output and its errors."""

    def load(name: str) -> Command:
        spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def call(*words: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
            capsys.readouterr()  # of what was done before
            code = run_command(module.main, keep_memory=False)
            return code, *capsys.readouterr()

        return call

    return load


simclr.progress._LINE_SECONDS = float("inf")
"""What a log hears of slow work depends on how busy the machine is, and is no part of what a test compares."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: tests that draw their cases draw many more of them, and those marked ``long`` run."""
    parser.addoption(
        "--long", action="store_true", help="the long form of tests that draw their cases, and those marked long"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take minutes run with ``--long`` alone."""
    if not config.getoption("--long"):
        left = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """``tally("200 damages, 198 refused")`` puts a line under pytest's results, whoever ran the test."""
    return lambda line: request.node.user_properties.append(("tally", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The lines of ``tally``, in the order of the tests' names."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [
        f"{report.nodeid.split('::')[-1]}: {line}"
        for report in sorted(reports, key=lambda report: report.nodeid)
        for name, line in getattr(report, "user_properties", ())
        if name == "tally" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("counts")
        terminalreporter.write("\n".join([*lines, ""]))


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """``ranks(n, function, *args)`` calls ``function(rank, *args)`` in n processes at once and waits for all of them.

    They are forks of a process that has done nothing but the imports, which each would have to do first otherwise.
    """
    multiprocessing.set_forkserver_preload(["simclr.train", "simclr.command_line", "linear_eval.evaluate"])

    def call(count: int, function: Callable[..., None], *args: object) -> None:
        mp.start_processes(function, args, nprocs=count, start_method="forkserver")

    return call


@pytest.fixture
def free_port() -> Callable[[], int]:
    """``free_port()`` is a port for one meeting of processes: the next one takes another, or meets the end of this one."""

    def choose() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    return choose


@pytest.fixture(autouse=True)
def small_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process leave pictures of one pixel and empty reports, which take no second; not those marked ``pictures``."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("linear_eval.page.write.page_in_bytes", lambda folders: b"")
        for name in ("draw_curves", "draw_first_views"):
            monkeypatch.setattr(f"simclr.train.{name}", lambda *args: Image.new("RGB", (1, 1)).save(args[-1], "png"))


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run notes for its user, and what is kept for all runs, goes elsewhere."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process do not wait for a full disk to be emptied."""
    for name in ("PATIENCE", "STOP_PATIENCE"):
        monkeypatch.setattr(f"simclr.run.saving.{name}", 0.0)


@pytest.fixture
def tiny_run(tmp_path: Path) -> TrainConfig:
    """Digits at 16 px, views of 8 px, a ResNet of 20k parameters, 2 epochs of 5 steps; everything below the test's own folder.

    Views of 16 px would take five times as long, nearly all of it in convolutions.
    """
    config = simclr.preset("digits")
    return replace(
        config,
        name="tiny",
        out=tmp_path / "runs",
        data=replace(config.data, limit=640),
        augment=replace(config.augment, size=8),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=1),
        train=LoopConfig(
            epochs=2, batch_size=128, precision="fp32", log_every=1, checkpoint_every=3, keep_checkpoints=2, knn_every=2
        ),
    )


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on digits whose encoder is the start of all that follows."""
    config = simclr.preset("digits")
    config = replace(
        config,
        name="birds",
        out=tmp_path_factory.mktemp("start"),
        data=replace(config.data, limit=128, label_fraction=1.0),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=0),
        train=replace(config.train, epochs=1, batch_size=64, precision="fp32", knn_every=0),
    )
    return simclr.pretrain(config).run_dir


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


@pytest.fixture
def lake_runs(tmp_path: Path) -> Path:
    """One-shot trials in the form of Lake's for Omniglot: black on white, 1 bit; a run has more candidates than trials."""
    rng = np.random.default_rng(0)
    root = tmp_path / "all"
    for name, (trials, ways) in {"run01": (4, 4), "run02": (3, 5), "run03": (2, 2)}.items():
        right = rng.permutation(ways)[:trials]
        strokes = rng.random((ways, 7, 7)) < 0.3
        for part in ("test", "training"):
            (root / name / part).mkdir(parents=True)
        for c in range(ways):
            Image.fromarray(np.kron(~strokes[c], np.ones((3, 3), bool))).save(
                root / name / f"training/class{c + 1:02d}.png"
            )
        lines = []
        for t, c in enumerate(right):
            noisy = strokes[c] ^ (rng.random((7, 7)) < 0.25)
            Image.fromarray(np.kron(~noisy, np.ones((3, 3), bool))).save(root / name / f"test/item{t + 1:02d}.png")
            lines.append(f"{name}/test/item{t + 1:02d}.png {name}/training/class{c + 1:02d}.png")
        (root / name / "class_labels.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``with small_disk(n):`` the kernel refuses to let a file grow beyond n bytes inside, as a full disk does."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(most: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """``with stop_after(n):`` what trains inside is asked to stop at its n-th step, counted over all runs inside."""

    @contextmanager
    def stopping(steps: int) -> Iterator[None]:
        looks = itertools.count(1)

        class Flag:
            """Stands for the loop's StopFlag, which it looks at once a step."""

            def __enter__(self) -> "Flag":
                return self

            def __exit__(self, *args: object) -> None:
                pass

            @property
            def raised(self) -> bool | None:
                return True if next(looks) == steps else None

        with monkeypatch.context() as patch:
            patch.setattr("simclr.run.saving.StopFlag", Flag)
            yield

    return stopping
