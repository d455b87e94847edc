"""Runs on a disk that refuses: one line where weights could not be written, a warning for pictures, nothing half."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import simclr
from simclr.config import TrainConfig
from simclr.config.yaml import load_config, save_config
from simclr.errors import CheckpointError, ConfigError
from simclr.run.folder import claim, find_run
from simclr.run.views import write_preview

SmallDisk = Callable[[int], AbstractContextManager[None]]


pytestmark = pytest.mark.pictures


def said_once(error: pytest.ExceptionInfo[CheckpointError], *words: str) -> None:
    said = str(error.value)
    assert said.count("\n") == 0 and all(word in said for word in words), said


def test_a_run_that_may_not_write_its_config_leaves_no_half_of_it(tiny_run: TrainConfig, small_disk: SmallDisk) -> None:
    with small_disk(100), pytest.raises(CheckpointError) as error:
        simclr.pretrain(tiny_run)
    said_once(error, f"{tiny_run.run_dir} could not be written (File too large)", "choose another --out")
    assert list(tiny_run.run_dir.iterdir()) == []
    assert find_run(tiny_run)[1:] == (None, [])


@pytest.mark.long
def test_checkpoints_that_do_not_fit_are_said_and_the_last_is_awaited(
    tiny_run: TrainConfig, small_disk: SmallDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(20_000), pytest.raises(CheckpointError) as error:
        simclr.pretrain(tiny_run)
    said_once(error, "checkpoints/step-00000010 could not be written (", "File too large", "run the same command again")
    said = capfd.readouterr().err
    for step in (3, 6, 9):
        assert said.count(f"step-{step:08d} could not be written") == 1
    assert "training goes on" in said and "step 10/10" in said
    result = simclr.pretrain(tiny_run)
    undisturbed = simclr.pretrain(replace(tiny_run, name="undisturbed"))
    weights = [load_file(one.encoder / "encoder.safetensors") for one in (result, undisturbed)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])


def test_a_disk_that_has_room_again_gets_the_checkpoint(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("simclr.run.saving.PATIENCE", 60.0)
    monkeypatch.setattr("simclr.run.saving._BETWEEN", 0.01)
    refusals = iter([OSError(28, "No space left on device")] * 3)
    written = simclr.run.checkpoint.write_json

    def on_a_full_disk(path: Path, content: object) -> None:
        if path.name == "progress.json" and "step-00000010" in str(path) and (error := next(refusals, None)):
            raise error
        written(path, content)

    monkeypatch.setattr("simclr.run.checkpoint.write_json", on_a_full_disk)
    assert simclr.pretrain(tiny_run).finished and next(refusals, None) is None
    assert capfd.readouterr().err.count("No space left on device") == 1


def test_a_disk_without_room_for_one_checkpoint_is_said_before_the_first_step(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("simclr.run.saving.free_space", lambda _: 10_000)
    with pytest.raises(
        CheckpointError, match=r"a checkpoint takes about .* MB, and .* has room for 0 MB; free some space"
    ):
        simclr.pretrain(tiny_run)
    assert not tiny_run.run_dir.exists()
    monkeypatch.setattr("simclr.run.saving.free_space", lambda _: 300_000)
    assert simclr.pretrain(tiny_run).finished
    assert "warning: a checkpoint takes about" in capfd.readouterr().err


@pytest.mark.long
def test_pictures_that_do_not_fit_are_warnings_and_the_run_ends_well(
    tiny_run: TrainConfig, small_disk: SmallDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    first = simclr.pretrain(replace(tiny_run, name="first"))
    # Weights of another size than the pictures', so that these alone do not fit.
    largest = max(path.stat().st_size for path in first.run_dir.rglob("*") if path.suffix != ".png")
    picture = (first.run_dir / "views.png").stat().st_size
    assert largest < picture
    capfd.readouterr()
    with small_disk((largest + picture) // 2):
        result = simclr.pretrain(tiny_run)
    said = capfd.readouterr().err
    assert result.finished and simclr.load_encoder(result.run_dir).features
    assert f"warning: {result.run_dir / 'views.png'} could not be written (File too large)" in said
    assert not (result.run_dir / "views.png").exists()
    assert sorted(path.name for path in result.run_dir.iterdir() if path.suffix != ".png") == [
        "checkpoints",
        "config.yaml",
        "encoder",
        "metrics.jsonl",
    ]


def test_an_encoder_that_does_not_fit_is_one_line_and_the_same_command_writes_it(
    tiny_run: TrainConfig, small_disk: SmallDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    result = simclr.pretrain(tiny_run)
    wanted = load_file(result.encoder / "encoder.safetensors")
    shutil.rmtree(result.encoder)
    (result.run_dir / "curves.png").write_bytes(b"the old picture")
    capfd.readouterr()
    with small_disk(10_000), pytest.raises(CheckpointError) as error:
        simclr.pretrain(tiny_run)
    said_once(error, f"{result.encoder} could not be written (", "File too large", "run the same command again")
    said = capfd.readouterr().err
    assert f"warning: {result.run_dir / 'curves.png'} could not be written (File too large)" in said
    assert (result.run_dir / "curves.png").read_bytes() == b"the old picture"
    assert list(result.encoder.iterdir()) == []
    found = load_file(simclr.pretrain(tiny_run).encoder / "encoder.safetensors")
    assert all((found[name] == wanted[name]).all() for name in wanted)


def test_a_preview_that_does_not_fit_is_one_line_and_no_half_picture(
    tiny_run: TrainConfig, small_disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with small_disk(10_000), pytest.raises(CheckpointError) as error:
        write_preview(tiny_run)
    said_once(error, "tiny-preview.png could not be written (File too large)", "choose another --out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# The run's config: whole, or mended by what is said.


def test_a_kill_in_the_middle_of_the_config_leaves_the_folder_free(tiny_run: TrainConfig, tmp_path: Path) -> None:
    save_config(tiny_run, tmp_path / "given.yaml")
    # Beyond the limit the kernel kills a process that does not ignore the signal: in the middle of the file.
    program = """
import resource, signal, sys
from pathlib import Path
from simclr.config.yaml import load_config
from simclr.run.folder import claim
config = load_config(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
claim(config)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "given.yaml")], cwd=Path(__file__).parents[2]
    )
    assert killed.returncode == -signal.SIGXFSZ
    assert tiny_run.run_dir.is_dir() and not (tiny_run.run_dir / "config.yaml").exists()
    assert find_run(tiny_run)[1:] == (None, [])
    (tiny_run.run_dir / "mine.txt").touch()
    with pytest.raises(ConfigError, match="holds files, but is no run"):
        find_run(tiny_run)


def test_what_a_killed_process_was_writing_goes_when_the_run_goes_on(tiny_run: TrainConfig) -> None:
    claim(tiny_run)
    (tiny_run.run_dir / "encoder").mkdir()
    for name in (".views.png.ab12.partial", "encoder/.encoder.safetensors.ab12.partial", ".hidden", "a.partial"):
        (tiny_run.run_dir / name).touch()
    claim(tiny_run)
    left = {path.name for path in tiny_run.run_dir.rglob("*")}
    assert left == {"config.yaml", "encoder", ".hidden", "a.partial"}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8])
def test_a_config_that_was_cut_is_refused_with_the_mend(share: float, tiny_run: TrainConfig) -> None:
    tiny_run.run_dir.mkdir(parents=True)
    file = tiny_run.run_dir / "config.yaml"
    save_config(tiny_run, file)
    whole = file.read_text()
    file.write_text(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError) as error:
        find_run(tiny_run)
    said = str(error.value)
    assert str(file) in said and "cut short" in said and "under another --name" in said and "remove that folder" in said
    # The mend that is told: the same command under another name, and the key name.
    other = replace(tiny_run, name="other")
    other.run_dir.mkdir()
    save_config(other, other.run_dir / "config.yaml")
    file.write_text((other.run_dir / "config.yaml").read_text().replace("name: other", "name: tiny"))
    assert load_config(file) == tiny_run and find_run(tiny_run)[1:] == (None, [])


def test_another_config_is_no_cut_one(tiny_run: TrainConfig) -> None:
    tiny_run.run_dir.mkdir(parents=True)
    save_config(replace(tiny_run, seed=7), tiny_run.run_dir / "config.yaml")
    with pytest.raises(ConfigError, match=r"another config: seed: 7 -> 0\. Give this run a name of its own") as error:
        find_run(tiny_run)
    assert "cut short" not in str(error.value)


def test_a_log_with_damage_in_the_middle_is_continued(
    tiny_run: TrainConfig, stop_after: Callable[[int], object]
) -> None:
    with stop_after(6):
        assert not simclr.pretrain(tiny_run).finished
    log = tiny_run.run_dir / "metrics.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([*lines[:2], b"\xff{", b"null", *lines[2:]]))
    assert simclr.pretrain(tiny_run).finished
    steps = [line["step"] for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == "step"]
    assert steps == list(range(1, 11))
