"""Files that break and workers that die while a run goes on: one line, a checkpoint first, and the same bits afterwards."""

import importlib.util
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import simclr
from simclr.command_line import run_command
from simclr.config import DataConfig
from simclr.data import EpochSampler, ImageSet, load_source
from simclr.data.left_out import LeftOut, read_bad_images
from simclr.data.loader import place_and_tell
from simclr.run.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
BATCH = 8
FLAGS = [
    "--data.source", "folder", "--data.path", "pictures", "--data.size", "16", "--data.device-resident", "no",
    "--data.test-fraction", "0.2", "--augment.size", "16", "--train.batch-size", str(BATCH), "--train.epochs", "2",
    "--train.checkpoint-every", "100", "--train.log-every", "2", "--train.precision", "fp32", "--train.no-evaluate",
    "--encoder.channels", "4", "8", "8", "16", "--schedule.warmup-epochs", "0",
]  # fmt: skip

Pretrain = Callable[..., tuple[int, list[str]]]
Breaking = Callable[[Mapping[Path, bytes | None]], AbstractContextManager[None]]


def pretrain_command(*words: str) -> int:
    spec = importlib.util.spec_from_file_location("script_pretrain", ROOT / "scripts" / "pretrain.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sys.argv = ["pretrain.py", *FLAGS, *words]
    return run_command(script.main, keep_memory=False)


@pytest.fixture
def pretrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pretrain:
    """``pretrain(*words)`` runs scripts/pretrain.py on 60 files of two classes; gives its exit code and its lines."""
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "pictures" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])

    def call(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = pretrain_command(*words)
        return code, capsys.readouterr().err.splitlines()

    return call


def first_seen_at(step: int, row: int = 0) -> Path:
    """A file that no step before ``step`` reads."""
    images = load_source(DataConfig(source="folder", path=Path("pictures"), size=16, test_fraction=0.2), "train")
    assert images.paths is not None and len(images) == 48
    return images.paths[EpochSampler(images=48, batch_size=BATCH, seed=0).indices(step)[row]]


def same_weights(one: str, other: str) -> bool:
    a, b = (load_file(Path("runs") / name / "encoder" / "encoder.safetensors") for name in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def checkpoints(name: str) -> list[str]:
    return sorted(path.name for path in (Path("runs") / name / "checkpoints").iterdir())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_broken_file_ends_the_run_with_a_checkpoint_and_one_line(pretrain: Pretrain, workers: str) -> None:
    quick = ["--train.knn-every", "0", "--data.workers", workers]
    assert pretrain("--name", "whole", *quick)[0] == 0
    file = first_seen_at(3)
    content = file.read_bytes()
    file.write_bytes(content[:60])
    code, lines = pretrain("--name", "hit", *quick)
    assert code == 2
    errors = lines[next(i for i, line in enumerate(lines) if line.startswith("starting")) :]
    errors = [line for line in errors if not line.startswith(("starting", "step"))]
    assert len(errors) == 1 and errors[0].startswith(f"error: {file}: ") and "Traceback" not in "".join(lines)
    assert checkpoints("hit") == ["step-00000003"]
    file.write_bytes(content)
    code, lines = pretrain("--name", "hit", *quick)
    assert code == 0 and any("continuing runs/hit at step 3" in line for line in lines)
    assert same_weights("whole", "hit")


def test_a_file_that_breaks_in_an_epochs_score_ends_it_behind_that_epoch(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation images are read by the score alone."""
    words = ["--data.validation", "0.1", "--train.knn-every", "1", "--data.workers", "0", "--name", "scored"]
    config = DataConfig(source="folder", path=Path("pictures"), size=16, test_fraction=0.2, validation=0.1)
    images = load_source(config, "validation")
    assert images.paths is not None
    content = images.paths[1].read_bytes()
    images.paths[1].write_bytes(b"")
    code, lines = pretrain(*words)
    assert code == 2 and lines[-1].startswith(f"error: {images.paths[1]}: ")
    logged = read_metrics(Path("runs/scored/metrics.jsonl"))
    assert [line["step"] for line in logged if line["kind"] == "epoch"] == [5]
    assert checkpoints("scored") == ["step-00000005"]
    images.paths[1].write_bytes(content)
    assert pretrain(*words)[0] == 0
    epochs = [line for line in read_metrics(Path("runs/scored/metrics.jsonl")) if line["kind"] == "epoch"]
    assert [line["step"] for line in epochs] == [5, 10] and "validation_knn" in epochs[1]
    steps = [line["loss"] for line in logged + read_metrics(Path("runs/scored/metrics.jsonl")) if "loss" in line]
    assert epochs[1]["epoch_loss"] < 2 * max(steps)  # of one epoch, not of both


def test_with_skip_a_file_that_breaks_after_the_start_is_said_once_and_replaced(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [first_seen_at(3), first_seen_at(3, 5)]
    content = {file: file.read_bytes() for file in files}

    def placed_and_spoilt(images: ImageSet, *rest: object, **more: object) -> tuple[ImageSet, dict[int, str]]:
        found = place_and_tell(images, *rest, **more)  # type: ignore[arg-type]
        for file in files:
            file.write_bytes(b"spoilt")
        return found

    for workers in ("0", "2"):
        for file in files:
            file.write_bytes(content[file])
        with monkeypatch.context() as patch:
            patch.setattr("simclr.run.division.place_and_tell", placed_and_spoilt)
            words = ["--data.broken", "skip", "--data.workers", workers, "--name", workers]
            code, lines = pretrain(*words)
        assert code == 0, lines
        for file in files:
            assert sum(str(file) in line for line in lines) == 1
        assert sum("left out, since it broke after the start" in line for line in lines) == 2
    assert same_weights("0", "2")  # what takes their place does not depend on who reads


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_a_killed_worker_ends_the_run_behind_the_step_it_fell_in(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["--train.knn-every", "0", "--train.epochs", "12", "--data.workers", "1"]
    assert pretrain("--name", "whole", *quick)[0] == 0
    calls = []
    step = simclr.train.cached_step
    others = set(multiprocessing.active_children())  # of tests before this one, not collected yet

    def killing(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            (worker,) = set(multiprocessing.active_children()) - others
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join(20)  # and the rest of this step is done
        return step(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("simclr.train.cached_step", killing)
        code, lines = pretrain("--name", "killed", *quick)
    assert code == 2 and "error: DataLoader worker" in lines[-1] and "Traceback" not in "".join(lines)
    assert checkpoints("killed") == ["step-00000004"]
    code, lines = pretrain("--name", "killed", *quick)
    assert code == 0 and any("continuing runs/killed at step 4" in line for line in lines)
    assert same_weights("whole", "killed")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_a_signal_to_the_whole_group_is_a_stop_and_no_error(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls while the loop waits for its first batch, which the worker reads all the same."""
    cut = simclr.data.decode_batch.cut_views

    def told_with_the_group(*arguments: Any) -> Any:
        if not Path("told").exists():
            Path("told").touch()
            os.kill(os.getppid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return cut(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("simclr.data.decode_batch.cut_views", told_with_the_group)
        code, lines = pretrain("--train.knn-every", "0", "--data.workers", "1", "--name", "ended")
    assert code == 143 and lines[-1] == "stopped at step 1; the same command continues there"
    assert pretrain("--train.knn-every", "0", "--data.workers", "1", "--name", "ended")[0] == 0


def on_a_rank(rank: int, ports: dict[str, int], folder: str, *words: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    os.chdir(folder)
    torch.set_num_threads(1)
    for name, port in ports.items():
        os.environ["MASTER_PORT"] = str(port)
        with open(f"{rank}-{name}.txt", "w") as file:  # noqa: PTH123
            sys.stderr = file
            if name == "skip":  # the file is whole while the set is looked through, and broken afterwards
                simclr.run.division.place_and_tell = spoilt_on_both
            code = pretrain_command("--name", name, "--data.broken", name, "--train.knn-every", "1", *words)
            print("exit", code, file=file)


def spoilt_on_both(images: ImageSet, *rest: object, **more: object) -> tuple[ImageSet, dict[int, str]]:
    file = first_seen_at(3, BATCH - 1)
    file.write_bytes(Path("whole.png").read_bytes())
    torch.distributed.barrier()
    found = place_and_tell(images, *rest, **more)  # type: ignore[arg-type]
    torch.distributed.barrier()
    file.write_bytes(b"spoilt")
    return found


@pytest.mark.long
def test_of_two_processes_the_second_meets_it_and_the_first_names_it(
    pretrain: Pretrain, ranks: Callable[..., None], free_port: Callable[[], int], tmp_path: Path
) -> None:
    file = first_seen_at(3, BATCH - 1)  # in the second half of its batch
    Path("whole.png").write_bytes(file.read_bytes())
    file.write_bytes(b"spoilt")
    ports = {name: free_port() for name in ("refuse", "skip")}
    ranks(2, on_a_rank, ports, str(tmp_path), "--data.workers", "1")
    said = {name: [Path(f"{rank}-{name}.txt").read_text() for rank in (0, 1)] for name in ("refuse", "skip")}
    lines = said["refuse"][0].splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [line for line in lines if str(file) in line] != []
    assert said["refuse"][1] == "exit 2\n" and lines[-1] == "exit 2" and "Traceback" not in said["refuse"][0]
    assert checkpoints("refuse") == ["step-00000003"]
    assert said["skip"][0].count(str(file)) == 1 and said["skip"][0].endswith("exit 0\n")
    assert "left out, since it broke after the start" in said["skip"][0]
    assert said["skip"][1] == "exit 0\n"
    assert [(line["path"], line["step"]) for line in listed("skip")] == [(str(file), 3)]


def listed(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path("runs") / name / "bad_images.jsonl").read_bytes().splitlines()]


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Breaking:
    """``with breaking({file: content}):`` the files hold that, or vanish, as soon as a run has looked through them."""

    @contextmanager
    def arrange(files: Mapping[Path, bytes | None]) -> Iterator[None]:
        def placed_and_spoilt(images: ImageSet, *rest: object, **more: object) -> tuple[ImageSet, dict[int, str]]:
            found = place_and_tell(images, *rest, **more)  # type: ignore[arg-type]
            for file, content in files.items():
                file.unlink() if content is None else file.write_bytes(content)
            return found

        with monkeypatch.context() as patch:
            patch.setattr("simclr.run.division.place_and_tell", placed_and_spoilt)
            yield

    return arrange


SKIP = ["--data.broken", "skip", "--train.knn-every", "0", "--data.workers", "0"]


def test_what_is_left_out_is_listed_once_with_its_step_and_reason(pretrain: Pretrain, breaking: Breaking) -> None:
    """One file is broken from the start, one is emptied and one vanishes while the run goes on."""
    spoilt = [Path("pictures/cats") / name for name in ("text.png", "\udc80\n[b].png", "cut.png")]
    for path in spoilt:
        path.write_text("no picture")
    trained = load_source(DataConfig(source="folder", path=Path("pictures"), size=16, test_fraction=0.2), "train").paths
    assert pretrain("--name", "known", *SKIP)[0] == 0
    assert [(line["path"], line["when"], line["step"]) for line in listed("known")] == [
        (str(path), "start", 0) for path in trained or () if path in spoilt
    ] != []  # fmt: skip
    for path in spoilt:
        path.unlink()
    emptied, gone = first_seen_at(2), first_seen_at(4)
    with breaking({emptied: b"", gone: None}):
        code, said = pretrain("--name", "hit", *SKIP)
    assert code == 0
    assert [(line["path"], line["when"], line["step"], line["file"]) for line in listed("hit")] == [
        (str(file), "training", step, file.relative_to("pictures").as_posix())
        for file, step in ((emptied, 2), (gone, 4))
    ]
    assert [line["reason"] for line in listed("hit")] == [
        f"{emptied}: the file is empty", f"{gone}: No such file or directory"
    ]  # fmt: skip
    assert all(sum(str(file) in line for line in said) == 1 for file in (emptied, gone))


def test_a_run_that_goes_on_sees_what_it_would_have_seen_and_names_nothing_twice(
    pretrain: Pretrain, stop_after: Callable[..., Any]
) -> None:
    """What was left out at the start stays out though it is mended; what broke later is in again when it is."""
    never = first_seen_at(0)
    whole = never.read_bytes()
    never.write_bytes(b"spoilt")
    assert pretrain("--name", "undisturbed", *SKIP)[0] == 0
    with stop_after(3):
        assert pretrain("--name", "stopped", *SKIP)[0] != 0
    assert [line["path"] for line in listed("stopped")] == [str(never)]
    never.write_bytes(whole)
    code, said = pretrain("--name", "stopped", *SKIP)
    assert code == 0 and same_weights("undisturbed", "stopped")
    assert (
        sum("1 files that this run has left out so far are listed in runs/stopped/bad_images.jsonl" in s for s in said)
        == 1
    )
    assert not any(str(never) in line for line in said)
    assert [line["path"] for line in listed("stopped")] == [str(never)]


def test_a_run_that_misses_more_than_a_hundredth_stops_with_a_checkpoint_until_the_files_are_back(
    pretrain: Pretrain, breaking: Breaking
) -> None:
    assert pretrain("--name", "undisturbed", *SKIP)[0] == 0
    files = [first_seen_at(2, row) for row in (1, 4, 6)]
    content = {file: file.read_bytes() for file in files}
    with breaking(dict.fromkeys(files, b"spoilt")):
        code, said = pretrain("--name", "hit", *SKIP)
    assert code == 2 and "Traceback" not in "".join(said)
    assert said[-1].startswith("error: 3 of 48 training images broke since the run began, more than 1 %")
    assert "runs/hit/bad_images.jsonl lists them" in said[-1] and checkpoints("hit") == ["step-00000002"]
    assert sorted(line["path"] for line in listed("hit")) == sorted(map(str, files))
    code, said = pretrain("--name", "hit", *SKIP)  # they are still broken: nothing is trained
    assert code == 2 and said[-1].startswith("error: 3 of 48 training images broke")
    assert checkpoints("hit") == ["step-00000002"]
    for file in files:
        file.write_bytes(content[file])
    code, said = pretrain("--name", "hit", *SKIP)
    assert code == 0 and same_weights("undisturbed", "hit") and len(listed("hit")) == 3


def test_a_list_that_was_cut_by_a_crash_keeps_its_whole_lines_and_a_full_disk_ends_no_run(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "run" / "bad_images.jsonl"
    left = LeftOut(said.append, None, tmp_path, file)
    left({str(tmp_path / "a.png"): "a.png: cut"}, "start", {str(tmp_path / "a.png"): [0, 3]})
    assert not file.exists()
    left.begin(said.append)
    left({"b.png": "b.png: cut"}, "training")
    text = file.read_bytes()
    assert text.count(b"\n") == 2
    file.write_bytes(text + b'{"path": "c.png", "when": "sta\n[1]\n{"path": 3}\n\xff')
    lines = read_bad_images(file)
    assert lines is not None and [line["path"] for line in lines] == [str(tmp_path / "a.png"), "b.png"]
    again = LeftOut(said.append, lines, tmp_path / "moved", file)
    assert again.at_start == {(str(tmp_path / "moved" / "a.png"), 0), (str(tmp_path / "moved" / "a.png"), 3)}
    assert again.since == {"b.png"}
    again.begin(said.append)
    assert [json.loads(line)["path"] for line in file.read_bytes().splitlines()] == [
        str(tmp_path / "moved" / "a.png"), "b.png"
    ]  # fmt: skip
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    said.clear()
    again({"c.png": "c.png: cut"}, "training")
    again({"d.png": "d.png: cut"}, "training")
    assert sum("could not be written" in line for line in said) == 1
    file.parent.unlink()
    again({"e.png": "e.png: cut"}, "training")
    assert [json.loads(line)["path"][0] for line in file.read_bytes().splitlines()][1:] == list("bcde")
