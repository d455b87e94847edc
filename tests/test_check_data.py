"""Looking through a dirty folder: every broken file and every copy is found, and nothing else."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import ExifTags, Image

from simclr.config import DataConfig
from simclr.data import load_source
from simclr.data.check import check_folder
from simclr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def loaded(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script, ROOT / "scripts" / f"{script}.py")
    assert spec is not None and spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    return command


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
    command = loaded("check_data")
    assert command.main(["--data.path", str(dirty)]) == 1
    assert "cut.jpg" in capsys.readouterr().out
    for path in check_folder(DataConfig(source="folder", path=dirty)).broken:
        path.unlink()
    capsys.readouterr()
    assert command.main(["--data.path", str(dirty)]) == 1  # copies in both classes, and in both parts
    said = capsys.readouterr().out
    assert [line.split()[-2:] for line in said.splitlines() if line.endswith("fault")] == [["1", "fault"]] * 2
    (dirty / "train" / "dogs" / "cat.png").unlink()
    (dirty / "test" / "dogs" / "leak.png").unlink()
    assert command.main(["--data.path", str(dirty)]) == 0
    with pytest.raises(ConfigError, match="only folders"):
        command.main(["digits"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_among_the_files_is_one_that_does_not_decode(dirty: Path) -> None:
    os.mkfifo(dirty / "train" / "cats" / "pipe.jpg")
    broken = check_folder(DataConfig(source="folder", path=dirty)).broken
    assert len(broken) == 4 and broken[dirty / "train" / "cats" / "pipe.jpg"].endswith("not a regular file")


def test_the_json_names_all_of_it(dirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = loaded("check_data")
    (dirty / "train" / "cats" / "\udc80$[b].png").write_bytes(b"x")
    file = tmp_path / "new" / "report.json"
    assert command.main(["--data.path", str(dirty), "--json", str(file)]) == 1
    capsys.readouterr()
    assert command.main([f"--json={'-'}", "--data.path", str(dirty)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text())
    report = check_folder(DataConfig(source="folder", path=dirty))
    assert found["faulty"] is True and len(found["broken"]) == 4
    assert found["broken"] == {str(path): reason for path, reason in report.broken.items()}
    assert found["leaked"] == [[str(path) for path in group] for group in report.leaked] != []
    assert found["findings"]["files that do not decode"] == {"found": 4, "fault": True}
    assert found["classes"] == report.classes and found["parts"] == report.parts
    for wrong in (["--json"], ["--json", "--data.path", str(dirty)]):
        with pytest.raises(ConfigError, match="--json needs a file"):
            command.main(wrong)


def test_small_classes_long_pictures_and_near_copies_in_training_are_counted(tmp_path: Path) -> None:
    for name, count in (("many", 12), ("few", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            photo(100 * count + number, 60, 200 if number == 1 else 80).save(tmp_path / name / f"{number}.png")
    photo(1200, 60, 80).resize((72, 54)).save(tmp_path / "many" / "again.jpg", quality=80)
    report = check_folder(DataConfig(source="folder", path=tmp_path, test_fraction=0.5))
    assert report.few == {"few": 4, "two": 2}
    assert sorted(path.name for path in report.cropped) == ["1.png"] * 3
    pairs = [{path.name for path in pair} for pair in (*(report.near_in_training or ()), *report.near)]
    assert pairs == [{"0.png", "again.jpg"}]
    words = "\n".join(report.lines())
    assert "2 classes have fewer than 10 images, too few to tell what is learned of them: few (4), two (2)" in words
    assert "the middle square shows less than half of 3 of 19 images (longer than 2 : 1); --data.fit pad" in words
    padded = check_folder(DataConfig(source="folder", path=tmp_path, fit="pad"))
    assert not padded.cropped and "middle square" not in "\n".join(padded.lines())


def photo(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    """A picture with shapes in it, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A folder with one of everything that can be odd about a folder of images, 32 px wanted."""
    root = tmp_path / "everything"
    for part, animals in (("train", ("cat", "dog", "bear", "yak")), ("test", ("cat", "dog", "wolf"))):
        for number, animal in enumerate(animals):
            (root / part / animal).mkdir(parents=True)
            count = {"yak": 1, "dog": 12 if part == "train" else 4}.get(animal, 4)
            for i in range(count):
                photo(1000 * number + i + 500 * (part == "test") + 100).save(
                    root / part / animal / f"{part}-{animal}{i}.png"
                )
    cats, dogs, held = root / "train" / "cat", root / "train" / "dog", root / "test" / "dog"
    photo(1).save(cats / "copied-a.png")
    shutil.copy(cats / "copied-a.png", cats / "copied-b.png")
    photo(2).save(cats / "contradicting-a.png")
    shutil.copy(cats / "contradicting-a.png", dogs / "contradicting-b.png")
    photo(3).save(dogs / "leaked-a.png")
    shutil.copy(dogs / "leaked-a.png", held / "leaked-b.png")
    photo(4, 120, 160).save(dogs / "near-a.png")
    photo(4, 120, 160).resize((96, 72)).save(held / "near-b.jpg", quality=70)
    Image.new("RGB", (50, 50), (90, 90, 90)).save(cats / "constant.png")
    Image.fromarray(np.random.default_rng(5).integers(0, 16, (50, 50), dtype=np.uint8)).save(cats / "few-levels.png")
    photo(6, 40, 600).save(cats / "strip.png")
    photo(7, 20, 25).save(cats / "tiny.png")
    photo(8).save(cats / "turned.jpg", exif=exif_of(6))
    photo(9).save(cats / "pages.tif", save_all=True, append_images=[photo(10), photo(11)])
    (cats / "empty.png").write_bytes(b"")
    (cats / "text.jpg").write_text("no image")
    whole = (dogs / "near-a.png").read_bytes()
    (held / "cut.png").write_bytes(whole[: len(whole) // 2])
    np.save(cats / "four-bands.npy", np.zeros((40, 40, 4), dtype=np.uint8))
    photo(12, 400, 500).save(cats / "large.png")
    photo(13).save(cats / "line\nbreak.png")
    (root / "train" / "scan.dcm").write_bytes(b"x")
    (root / "unlabeled").mkdir()
    for i in range(2):
        photo(40 + i).save(root / "unlabeled" / f"unlabeled{i}.png")
    (cats / "escape\x1b[31m.png").write_bytes(b"red" * 20)
    return root


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def test_one_of_everything_is_named_on_one_line_each(everything: Path) -> None:
    config = DataConfig(source="folder", path=everything, size=32, max_pixels=100_000)
    lines = check_folder(config).lines()
    for names in (
        ("copied-a.png", "copied-b.png"),
        ("contradicting-a.png", "contradicting-b.png", "several classes"),
        ("leaked-a.png", "leaked-b.png", "training and test"),
        ("near-a.png", "near-b.jpg"),
        ("constant.png", "constant image"),
        ("few-levels.png", "few levels are used (16 of 256"),
        ("strip.png", "600 x 40 px"),
        ("empty.png", "the file is empty"),
        ("text.jpg", "not an image"),
        ("cut.png",),
        ("four-bands.npy", "--data.channels 4"),
        ("large.png", "data.max-pixels"),
        ("escape\\x1b[31m.png", "not an image"),
        ("bear", "the test part lacks"),
        ("wolf", "training lacks"),
    ):
        named = [line for line in lines if names[0] in line and "/bear/" not in line and "/wolf/" not in line]
        assert len(named) == 1 and all(name in named[0] for name in names), (names, lines)
    for counted in (
        "smaller than data.size (32 px), to be enlarged: 1 of 50 images",
        "turned or mirrored, as their EXIF says: 1 of 50 images",
        "1 of 41 files hold several pages",
        "6 files do not decode",
        "and no exact one: 1 of 15",
        "3 files are copies of others",
        "images without a label: 2",
        "left out: 1 .dcm",
        "the largest has 23 times",
    ):
        assert sum(counted in line for line in lines) == 1, (counted, lines)
    # What is right is not named.
    for right in ("tiny.png", "turned.jpg", "pages.tif", "line\\nbreak.png", "train-dog0.png", "test-cat1.png"):
        assert not any(right in line for line in lines), (right, lines)
    assert sum("yak" in line for line in lines) == 1
    assert all(line.isprintable() for line in lines)


def test_preview_warns_of_the_images_that_it_draws(
    everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("constant.png", "few-levels.png", "train-cat0.png", "train-cat1.png"):
        shutil.copy(everything / "train" / "cat" / name, pictures / name)
    command = loaded("preview")
    flags = ["--data.path", str(pictures), "--data.size", "32", "--augment.size", "32", "--data.test-fraction", "0.1"]
    assert command.main(["folder", *flags, "--name", "seen"]) == 0
    said = capsys.readouterr()
    assert said.out == "runs/seen-preview.png\n" and (tmp_path / "runs" / "seen-preview.png").exists()
    warned = said.err.splitlines()
    training = load_source(DataConfig(source="folder", path=pictures, test_fraction=0.1), "train")
    drawn = {path.name for path in training.paths or ()}
    named = sorted(line.split(": ")[1].rsplit("/")[-1] for line in warned if line.startswith("warning: "))
    assert named == sorted(drawn & {"constant.png", "few-levels.png"}) and named


def test_numbers_to_predict_are_counted(tmp_path: Path) -> None:
    for i in range(10):
        photo(i).save(tmp_path / f"{i}.png")
    (tmp_path / "ages.csv").write_text("path,value\n" + "".join(f"{i}.png,{2 * i}\n" for i in range(7)))
    lines = check_folder(DataConfig(source="folder", path=tmp_path, labels=tmp_path / "ages.csv")).lines()
    assert "numbers to predict: 0 to 12, median 6" in lines and "images without a number: 3" in lines
    assert not any("no labels" in line for line in lines)


def test_a_validation_part_is_a_part(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        for name in "abc" if part != "val" else "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                photo(100 * number + 10 * ord(name) + i).save(tmp_path / part / name / f"{i}.png")
    report = check_folder(DataConfig(source="folder", path=tmp_path))
    assert report.parts == {"train": 9, "validation": 6, "test": 9} and report.lacking == {"validation": ("c",)}
    assert sum("lacks: c" in line for line in report.lines()) == 1


def test_every_page_is_looked_at(tmp_path: Path) -> None:
    for i in range(4):
        photo(i).save(tmp_path / f"{i}.png")
    photo(5).save(tmp_path / "stack.tif", save_all=True, append_images=[Image.new("RGB", (80, 60)), photo(6)])
    report = check_folder(DataConfig(source="folder", path=tmp_path, pages="all"))
    assert sum(report.parts.values()) == 7
    assert report.odd == {tmp_path / "stack.tif": (("constant image", "page 1: constant image (every value is 0)"),)}
    assert check_folder(DataConfig(source="folder", path=tmp_path)).odd == {}
