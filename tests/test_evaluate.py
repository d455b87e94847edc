"""Which images are the run's own, and where the report of a score goes."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import simclr
from linear_eval.open_set_images import open_set_images
from linear_eval.scored_run import ScoredRun, same_images
from simclr.config import DataConfig
from simclr.config.yaml import save_config
from simclr.errors import DataError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, seen from the one above it, and two links that lead to it."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def encoder_of(data: DataConfig, folder: Path) -> Path:
    """The encoder's folder of a run on ``data``."""
    (folder / "run" / "encoder").mkdir(parents=True)
    save_config(replace(simclr.preset("digits"), name="run", data=data), folder / "run" / "config.yaml")
    return folder / "run" / "encoder"


@pytest.mark.parametrize("trained", ["photos", "{root}/photos", "link"])
@pytest.mark.parametrize("scored", ["photos", "{root}/photos", "./photos/../photos", "link", "{root}/chain"])
def test_every_path_to_the_runs_own_folder_gives_the_runs_own_report(
    photos: Path, tmp_path: Path, trained: str, scored: str
) -> None:
    own = DataConfig(source="folder", path=Path(trained.format(root=tmp_path)))
    data = replace(own, path=Path(scored.format(root=tmp_path)))
    encoder = encoder_of(own, tmp_path)
    assert same_images(data, own)
    assert ScoredRun(encoder).report_folder(data) == encoder.parent


def test_other_images_labels_and_sizes_have_reports_of_their_own(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "photos").mkdir(parents=True)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    (tmp_path / "again.csv").symlink_to("a.csv")
    own = DataConfig(source="folder", path=Path("photos"), labels=Path("a.csv"))
    encoder = encoder_of(own, tmp_path)
    others = [
        replace(own, path=Path("other/photos")),
        replace(own, labels=Path("b.csv")),
        replace(own, labels="auto"),
        replace(own, size=48),
    ]
    found = [ScoredRun(encoder).report_folder(data) for data in others]
    assert len({*found, encoder.parent}) == 1 + len(others)
    assert all(folder.parent == encoder.parent and folder.name.startswith("on-folder-photos") for folder in found)
    assert ScoredRun(encoder).report_folder(replace(own, labels=tmp_path / "again.csv")) == encoder.parent
    # The folder's name depends on the images alone, not on how they were named.
    assert ScoredRun(encoder).report_folder(replace(others[0], path=tmp_path / "other" / "photos")) == found[0]


def test_an_open_set_takes_the_runs_own_labels_by_whatever_path(photos: Path, tmp_path: Path) -> None:
    for number in range(40):
        Image.new("RGB", (8, 8), (6 * number, 0, 0)).save(photos / f"{number}.png")
    (tmp_path / "names.csv").write_text("path,label\n" + "".join(f"{n}.png,{n % 5}\n" for n in range(40)))
    (tmp_path / "same.csv").symlink_to("names.csv")
    (tmp_path / "other.csv").write_text((tmp_path / "names.csv").read_text())
    own = DataConfig(source="folder", path=Path("photos"), size=8, labels=Path("names.csv"), held_out_classes=0.4)
    run = replace(simclr.preset("digits"), data=own)
    expected = open_set_images(own, run)
    for labels in (tmp_path / "names.csv", Path("photos/../names.csv"), Path("same.csv")):
        found = open_set_images(replace(own, labels=labels), run)
        assert (found.test.paths, found.test.classes) == (expected.test.paths, expected.test.classes)
    with pytest.raises(DataError, match="is not how the run divided its images"):
        open_set_images(replace(own, labels=Path("other.csv")), run)


def test_a_named_set_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    own = DataConfig(source="cifar10")
    encoder = encoder_of(own, tmp_path)
    assert ScoredRun(encoder).report_folder(replace(own, path=tmp_path / "elsewhere")) == encoder.parent
    assert ScoredRun(encoder).report_folder(DataConfig(source="cifar100")).name == "on-cifar100"


def test_a_loop_of_links_and_a_name_that_is_not_utf8_are_paths_like_others(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    own = DataConfig(source="folder", path=tmp_path / "photos")
    encoder = encoder_of(own, tmp_path)
    odd = [replace(own, path=path) for path in (tmp_path / "loop", tmp_path / os.fsdecode(b"caf\xe9"))]
    assert not any(same_images(data, own) for data in odd)
    assert len({ScoredRun(encoder).report_folder(data) for data in odd} - {encoder.parent}) == 2
