"""What a person sees: bars on a terminal and in a notebook, lines in a log, and nothing of a process that is not the first."""

import io
import itertools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from simclr import TrainConfig, pretrain
from simclr import progress as shown
from simclr.__main__ import completion
from simclr.commands import refuse_module
from simclr.cores import Crowd
from simclr.data import load_source
from simclr.dry_run import dry_run
from simclr.losses import TripletConfig
from simclr.model.contrastive import build_model
from simclr.processes import note_on_accelerate
from simclr.progress import each, progress, screen, terminal
from simclr.run.length import too_short, wanted_steps

ROOT = Path(__file__).parent.parent


class Clock:
    """Seconds that pass where the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shown, "time", clock)
    monkeypatch.setattr(shown, "_LINE_SECONDS", 10.0)  # conftest.py has none said
    return clock


def lines_of(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left(clock: Clock) -> None:
    written = io.StringIO()
    with screen(Console(file=written)):
        for _ in each(range(100), "decoding"):
            clock.now += 1
    assert written.getvalue().splitlines() == [
        *[
            f"decoding: {done}/100 images, {(100 - done) // 60}:{(100 - done) % 60:02d} left"
            for done in range(10, 101, 10)
        ],
        "decoding: 100 images in 1:40",
    ]


def test_what_is_quick_leaves_nothing_in_a_log(clock: Clock) -> None:
    written = io.StringIO()
    with screen(Console(file=written)):
        for _ in each(range(3), "decoding"):
            clock.now += 1
    assert written.getvalue() == ""


def test_a_terminal_gets_a_bar_for_each_thing_and_lines_above_them(clock: Clock) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    with screen(console), progress("encoder: features", lines=False) as outer, progress("decoding", 1000) as inner:
        clock.now += 20
        inner(250)
        terminal().print("a line")
        outer.now("encoder: probe")
    said = [line.rstrip() for line in lines_of(written.getvalue())]
    assert "a line" in said
    bar = next(line for line in said if "decoding" in line)
    assert bar.endswith("250/1,000 images 1:00 left") and len(bar) <= 80
    assert any(line.startswith("encoder: probe") for line in said)
    assert written.getvalue().count("\x1b[?25l") == written.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_an_error_takes_the_bars_down_before_it_is_said() -> None:
    written = io.StringIO()
    with pytest.raises(ZeroDivisionError), screen(Console(file=written, force_terminal=True)):
        for _ in each(range(3), "decoding"):
            1 / 0  # noqa: B018  # what holds the frame, and so the bar, while it is handled
    assert written.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in written.getvalue()
    assert not shown.shows_bars()


def test_a_long_name_leaves_room_for_the_figures(clock: Clock) -> None:
    written = io.StringIO()
    with screen(Console(file=written, force_terminal=True, width=60)), progress("n" * 200, 10) as tell:
        clock.now += 1
        tell(5, figures="loss 1.234", left=61)
        tell.now("n" * 200)
    bar = next(line for line in lines_of(written.getvalue()) if "loss 1.234" in line).rstrip()
    assert bar.endswith("loss 1.234 1:01 left") and len(bar) <= 60


def test_other_processes_show_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setenv("RANK", "1")
    written = io.StringIO()
    with screen(Console(file=written)):
        for _ in each(range(100), "decoding"):
            clock.now += 1
    assert written.getvalue() == ""


def test_a_notebook_draws_over_one_output(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    drawn: list[str] = []

    class Cell:
        def update(self, content: dict[str, str], raw: bool) -> None:
            drawn.append(content["text/plain"])

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Any:
        drawn.append(content["text/plain"])
        return Cell()

    monkeypatch.setattr(pytest.importorskip("IPython.display"), "display", display)
    with screen(Console(force_jupyter=True)):
        for _ in each(range(4), "decoding"):
            clock.now += 1
    assert drawn == [
        "decoding  [####............]  1/4 images  0:03 left",
        "decoding  [########........]  2/4 images  0:02 left",
        "decoding  [############....]  3/4 images  0:01 left",
        "decoding  [################]  4/4 images  0:00 left",
        "done in 0:04",
    ]


def test_a_dry_run_tells_what_the_run_would_be_and_writes_nothing(
    tiny_run: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    growing = replace(tiny_run.schedule, view_sizes=((0.4, 8),))
    config = replace(tiny_run, augment=replace(tiny_run.augment, size=16), schedule=growing)
    config = replace(config, train=replace(config.train, epochs=7))
    assert not config.run_dir.exists()
    told = {line[2:12].strip(): line[13:] for line in dry_run(config)[1:]}
    assert not config.out.exists() or not list(config.out.iterdir())
    images = load_source(config.data, "train")
    steps = len(images) // config.train.batch_size
    assert told["images"].startswith(f"{len(images)} of digits, 10 classes")
    assert told["steps"] == f"{7 * steps}, {steps} an epoch, 7 epochs"
    seconds = float(re.search(r"steps of ([\d.e-]+) s", told["time"])[1])
    minutes, rest = map(int, re.search(r"about (\d+):(\d\d) for", told["time"]).groups())
    assert told["views"] == "2 of 8 px, then 16 px of each image"
    whole = seconds * 7 * steps * (0.4 + 0.6 * 4)  # the larger views have four times as many pixels
    assert abs(60 * minutes + rest - whole) <= 1 + 0.01 * whole
    model = build_model(config)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters" in told["network"]
    run = pretrain(replace(config, train=replace(config.train, epochs=2)))
    written = sum(file.stat().st_size for file in next((run.run_dir / "checkpoints").glob("step-*")).iterdir()) / 1e6
    promised = float(re.search(r"checkpoints of ([\d,]+) MB", told["disk"])[1])
    assert abs(written - promised) <= 1
    before = {path: path.stat().st_mtime_ns for path in run.run_dir.rglob("*")}
    capsys.readouterr()
    again = dry_run(replace(config, train=replace(config.train, epochs=2)))
    assert again[-1].endswith("where it would be finished already")
    assert {path: path.stat().st_mtime_ns for path in run.run_dir.rglob("*")} == before


def test_a_dry_run_says_that_other_work_keeps_the_cores(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run says it at its first figures: a step's time would be taken for that of an idle machine."""
    ticks = itertools.count()

    def counts(self: Crowd) -> tuple[float, float, float]:
        second = next(ticks)
        return 2.0 * second, second, 800.0 * second

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(Crowd, "_counts", counts)
        said = [line for line in dry_run(tiny_run) if "other work keeps the cores busy: 2 threads got 0.5" in line]
        assert len(said) == 1
    monkeypatch.setattr(Crowd, "_counts", lambda self: (2.0 * next(ticks), 4.0, 0.0))
    assert not any("other work" in line for line in dry_run(tiny_run))


def test_a_run_too_short_to_win_says_so_before_it_starts(tiny_run: TrainConfig) -> None:
    """As many epochs as it names are enough; labels and weights that are there already want no such length."""
    epochs = tiny_run.train.epochs
    steps = len(load_source(tiny_run.data, "train")) // tiny_run.train.batch_size
    short = [line for line in dry_run(tiny_run) if f"{epochs * steps:,} steps, too few to beat raw pixels" in line]
    assert len(short) == 1
    enough = int(re.search(r"--train\.epochs (\d+) has", short[0])[1])
    wanted = wanted_steps(tiny_run)
    assert (enough - 1) * steps < wanted <= enough * steps
    assert too_short(replace(tiny_run, train=replace(tiny_run.train, epochs=enough)), steps) == []
    assert wanted_steps(replace(tiny_run, objective=TripletConfig())) == 0
    assert wanted_steps(replace(tiny_run, encoder=replace(tiny_run.encoder, init="runs/before"))) == 0


@pytest.mark.parametrize("module", ["simclr.train", "linear_eval.evaluate", "simclr.run.log"])
def test_a_module_that_is_no_command_says_which_is_meant(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", module])
    with pytest.raises(SystemExit) as end:
        refuse_module(module.split(".")[0])
    meant = {"simclr.train": "simclr pretrain", "linear_eval.evaluate": "simclr evaluate"}.get(module, "simclr --help")
    assert end.value.code == 2 and meant in capsys.readouterr().err
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "simclr", "pretrain"])
    refuse_module("simclr")


def test_the_packages_ask_before_a_module_of_theirs_is_run() -> None:
    done = subprocess.run([sys.executable, "-m", "simclr.config"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: python -m simclr.config does")


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "simclr", "--help"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("launch script.py", True),
        ("launch --quiet script.py", True),
        ("launch --config-file mine.yaml script.py", False),
        ("launch --num_processes=1 --num_machines 1 --mixed_precision no --dynamo_backend no script.py", False),
    ],
)
def test_accelerates_warning_is_explained_where_it_was_given(words: str, said: bool, tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text("\0".join(["accelerate", *words.split()]))
    started = {"ACCELERATE_MIXED_PRECISION": "no", "HF_HOME": str(tmp_path)}
    assert (note_on_accelerate(started, tmp_path) is not None) == said
    assert note_on_accelerate(started | {"RANK": "1"}, tmp_path) is None and note_on_accelerate({}, tmp_path) is None
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").touch()
    assert note_on_accelerate(started, tmp_path) is None


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What bash completes a line to, by the script that ``simclr --completion bash`` prints."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = tmp_path_factory.mktemp("completion") / "simclr.bash"
    script.write_text(completion())
    ask = """source "$1"; COMP_LINE="$2"; COMP_POINT=${#2}; complete -p simclr accelerate >/dev/null || exit 3
    _simclr; printf '%s\\n' "${COMPREPLY[@]}" """

    def of(line: str) -> list[str]:
        done = subprocess.run(["bash", "-c", ask, "bash", script, line], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return of


def test_a_shell_completes_commands_presets_objectives_flags_and_values(completed: Any) -> None:
    assert completed("simclr pre") == ["pretrain", "predict", "preview"]
    assert "check-data" in completed("simclr ") and "selftest" in completed("accelerate launch -m simclr ")
    assert completed("simclr pretrain fold") == ["folder", "folder-small"]
    assert completed("accelerate launch scripts/pretrain.py cifar10-f") == ["cifar10-fast"]
    assert completed("python scripts/pretrain.py cifar10 objective:tri") == ["triplet"]  # bash begins anew at a colon
    assert completed("python ./scripts/pretrain.py --dry") == ["--dry-run"]
    assert completed("simclr pretrain --train.precision ") == ["auto", "fp32", "bf16", "fp16"]
    assert completed("simclr evaluate runs/birds --prot") == ["--protocol"]
    assert completed("simclr evaluate runs/birds --protocol o") == ["open-set", "one-shot"]
    assert completed("simclr check-data --js") == ["--json"] and completed("simclr export runs/x --format h") == ["hub"]
    assert completed("python train.py --dat") == [] == completed("ls scripts/")


def test_streams_that_are_closed_end_no_command() -> None:
    command = f"{sys.executable} {ROOT / 'scripts' / 'check_data.py'} --help 2>&- >&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0
