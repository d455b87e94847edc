"""What a run refuses it refuses before anything is written: the folder is not there, and the mended command is taken."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.command_line import run_command
from simclr.config import DataConfig
from simclr.data import load_source

ROOT = Path(__file__).resolve().parents[1]
FOLDER = [
    "--data.source", "folder", "--data.path", "pictures", "--data.size", "16", "--augment.size", "16",
    "--data.workers", "0", "--train.batch-size", "6", "--train.epochs", "1", "--train.no-evaluate", "--name", "run",
    "--encoder.channels", "4", "8", "8", "16", "--schedule.warmup-epochs", "0", "--train.precision", "fp32",
    "--data.test-fraction", "0.1",
]  # fmt: skip
MINED = ["objective:triplet", "--objective.mining", "given", "--sampler.name", "mined"]


@pytest.mark.parametrize(
    ("words", "said", "mended"),
    [
        (["--data.validation", "0.2"], "BROKEN: not an image", ["--data.validation", "0.2"]),
        (["--data.labels", "few.csv", "--data.validation", "0.2"], "none of the validation images", []),
        (["--data.labels", "one.csv", *MINED], "triplets need a class with two images", MINED),
        (["--train.batch-size", "30"], "fewer than one batch of 30", []),
    ],
    ids=["validation file", "validation labels", "triplets", "batch"],
)
def test_a_refusal_leaves_no_folder(
    words: list[str],
    said: str,
    mended: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("script_pretrain", ROOT / "scripts" / "pretrain.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rng = np.random.default_rng(0)
    names = [f"{'ab'[number % 2]}/{number:02d}.png" for number in range(30)]
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "pictures" / name)
    monkeypatch.chdir(tmp_path)
    config = DataConfig(
        source="folder", path=Path("pictures"), size=16, test_fraction=0.1, labels="none", validation=0.2
    )
    validation = load_source(config, "validation").paths
    assert validation is not None
    rest = [name for name in names if Path("pictures", name) not in validation]
    Path("few.csv").write_text("path,label\n" + "".join(f"{name},{name[0]}\n" for name in rest[:2]))
    Path("one.csv").write_text("path,label\n" + "".join(f"{name},a\n" for name in names))
    broken = load_source(replace(config, labels="auto"), "validation").paths[0]
    content = broken.read_bytes()
    if "BROKEN" in said:  # the validation images fit into memory, those of training do not
        broken.write_bytes(b"spoilt")
        monkeypatch.setattr("simclr.data.loader.fits_on", lambda device, nbytes: nbytes < 10 * 3 * 16 * 16)

    def run(*given: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *FOLDER, *given])
        return run_command(script.main, keep_memory=False)

    assert run(*words) == 2
    err = capsys.readouterr().err
    assert said.replace("BROKEN", str(broken)) in err and err.count("\n") == 1
    assert not Path("runs").exists()
    broken.write_bytes(content)
    assert run(*mended) == 0, capsys.readouterr().err
