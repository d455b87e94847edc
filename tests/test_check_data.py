"""Looking through a dirty folder: every broken file and every copy is found, and nothing else."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.config import DataConfig
from simclr.data.check import check_folder
from simclr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Two classes with parts of their own; 3 broken files; copies inside a class, in both classes, and in the test part."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for part, count in (("train", 10), ("test", 4)):
        for number in range(count):
            folder = root / part / ("cats" if number % 2 else "dogs")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.{'png' if number % 3 else 'jpg'}")
    (root / "train" / "cats" / "empty.png").write_bytes(b"")
    (root / "train" / "cats" / "text.jpg").write_text("not an image")
    whole = (root / "train" / "dogs" / "0.jpg").read_bytes()
    (root / "test" / "dogs" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(root / "train" / "cats" / "1.png", root / "train" / "cats" / "again.png")
    shutil.copy(root / "train" / "cats" / "5.png", root / "train" / "dogs" / "cat.png")
    shutil.copy(root / "train" / "dogs" / "2.png", root / "test" / "dogs" / "leak.png")
    return root


def test_what_is_broken_and_what_is_there_twice(dirty: Path) -> None:
    report = check_folder(DataConfig(source="folder", path=dirty, limit=3, validation=0.5))
    assert {path.name for path in report.broken} == {"empty.png", "text.jpg", "cut.jpg"}
    assert {frozenset(path.name for path in group) for group in report.duplicates} == {
        frozenset({"1.png", "again.png"}),
        frozenset({"5.png", "cat.png"}),
        frozenset({"2.png", "leak.png"}),
    }
    assert [{path.name for path in group} for group in report.contradicting] == [{"5.png", "cat.png"}]
    assert [{path.name for path in group} for group in report.leaked] == [{"2.png", "leak.png"}]
    assert report.parts == {"train": 14, "test": 6} and report.classes == {"cats": 10, "dogs": 10}
    assert min(height for _, height in report.sizes) == 20 and len(report.sizes) == 17
    words = "\n".join(report.lines())
    assert "3 files do not decode" in words and "3 files are copies of others" in words
    assert "in training and test alike: 1, in several classes: 1" in words
    groups = [line for line in words.splitlines() if " = " in line]
    assert len(groups) == 3 and groups[0].startswith("  (several classes) ") and "cat.png" in groups[0]
    assert groups[1].startswith("  (training and test) ") and "leak.png" in groups[1]
    for name in ("empty.png", "text.jpg", "cut.jpg"):
        assert name in words


def test_many_copies_are_one_short_line(tmp_path: Path) -> None:
    for number in range(24):
        Image.new("RGB", (8, 8)).save(tmp_path / (f"{number}.png" if number else "0\nbreak.png"))
    lines = check_folder(DataConfig(source="folder", path=tmp_path)).lines()
    (group,) = (line for line in lines if " = " in line)
    assert group.endswith(" = 19 more") and "\n" not in group and "break.png" in group


def test_the_command(dirty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("check_data", ROOT / "scripts" / "check_data.py")
    assert spec is not None and spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    assert command.main(["--data.path", str(dirty)]) == 1
    assert "cut.jpg" in capsys.readouterr().out
    for path in check_folder(DataConfig(source="folder", path=dirty)).broken:
        path.unlink()
    assert command.main(["--data.path", str(dirty)]) == 0
    with pytest.raises(ConfigError, match="only folders"):
        command.main(["digits"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_among_the_files_is_one_that_does_not_decode(dirty: Path) -> None:
    os.mkfifo(dirty / "train" / "cats" / "pipe.jpg")
    broken = check_folder(DataConfig(source="folder", path=dirty)).broken
    assert len(broken) == 4 and broken[dirty / "train" / "cats" / "pipe.jpg"].endswith("not a regular file")
