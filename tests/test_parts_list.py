"""The division of a run is kept: folders that grow, shrink and move between a run's beginning, its end, and its score."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simclr
from linear_eval.config import EvalConfig
from linear_eval.embed import EmbedOptions, embed_run
from linear_eval.evaluate import evaluate_run
from linear_eval.open_set_images import open_set_images
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig, HeadConfig, TrainConfig
from simclr.data import load_source
from simclr.data.parts_list import ListedFile, PartsList, escaped, read_parts, unescaped, write_parts
from simclr.errors import CheckpointError, ConfigError, DataError
from simclr.losses import CrossEntropyConfig
from simclr.run.division import open_images

QUICK = EvalConfig(trials=0, resamples=20)


def paint(root: Path, numbers: range, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for number in numbers:
        for name in classes:
            file = root / name / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([number, len(name)])
            Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(file)


def names(paths, root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in paths or ()}


def trained_and_tested(config: TrainConfig) -> tuple[set[str], set[str]]:
    """What a run of ``config`` trains on, and what its score is taken on."""
    root = config.data.path
    run = ScoredRun.at(config.run_dir)
    tested = load_source(config.data, "test", run.kept(config.data))
    return names(open_images(config).images.paths, root), names(tested.paths, root)


@pytest.fixture
def run(tiny_run: TrainConfig, tmp_path: Path) -> TrainConfig:
    root = tmp_path / "photos"
    paint(root, range(20))
    return replace(
        tiny_run,
        data=DataConfig(source="folder", path=root, size=16, workers=0),
        train=replace(tiny_run.train, epochs=2, batch_size=8, knn_every=1, evaluate=False, checkpoint_every=2),
    )


def test_no_test_image_was_trained_on_after_a_run_was_stopped_and_its_folder_grew(run, stop_after, capsys) -> None:
    first = names(load_source(run.data, "train").paths, run.data.path)
    with stop_after(3):
        assert not simclr.pretrain(run).finished
    paint(run.data.path, range(100, 130))
    paint(run.data.path, range(3), ("aardvark",))  # a class that comes before all others
    capsys.readouterr()
    assert simclr.pretrain(run).finished
    said = " ".join(capsys.readouterr().err.split())
    assert "63 images were added" in said and "goes on with its first 40 (a new --name takes them)" in said
    trained, tested = trained_and_tested(run)
    assert trained == first and len(tested) == 8 and not trained & tested
    result = evaluate_run(run.run_dir, config=QUICK)
    assert result["data"]["test"] | {"name": "", "near_copies": 0} == {
        "name": "",
        "near_copies": 0,
        "images": 8,
        "without_label_left_out": 0,
        "trained_on": 0,
    }
    assert result["data"]["classes"] == ["cat", "dog"]
    said = " ".join(capsys.readouterr().err.split())
    assert "63 images were added" in said and "first 40 alone" in said


def test_the_weights_are_those_of_a_run_whose_folder_did_not_grow(run, stop_after, tmp_path) -> None:
    other = replace(run, out=tmp_path / "undisturbed")
    simclr.pretrain(other)
    with stop_after(3):
        simclr.pretrain(run)
    paint(run.data.path, range(100, 130))
    simclr.pretrain(run)
    encoders = [(one.run_dir / "encoder" / "encoder.safetensors").read_bytes() for one in (run, other)]
    assert encoders[0] == encoders[1]


def test_files_that_are_gone_or_changed_are_refused_with_the_difference(run, stop_after) -> None:
    with stop_after(1):
        simclr.pretrain(run)
    lost = run.data.path / "cat" / "003.png"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match=r"1 of its 40 images are not there any more \(cat/003\.png\).*--name"):
        simclr.pretrain(run)
    lost.with_name("moved.png").write_bytes(content)
    with pytest.raises(DataError, match=r"not there any more.*1 others are new \(cat/moved\.png\)"):
        simclr.pretrain(run)
    lost.with_name("moved.png").unlink()
    lost.write_bytes(content + b"more")
    with pytest.raises(DataError, match=r"1 of its 40 images have another size \(cat/003\.png\)"):
        simclr.pretrain(run)
    lost.write_bytes(content)
    assert simclr.pretrain(run).finished


def test_with_skip_a_file_that_is_gone_is_left_out_and_said(run, stop_after, capsys) -> None:
    run = replace(run, data=replace(run.data, broken="skip"))
    with stop_after(1):
        simclr.pretrain(run)
    gone = next(iter(load_source(run.data, "train").paths))
    gone.unlink()
    assert simclr.pretrain(run).finished
    assert gone.name in capsys.readouterr().err
    assert evaluate_run(run.run_dir, config=QUICK)["data"]["test"]["images"] == 8
    left = load_source(run.data, "train", ScoredRun.at(run.run_dir).kept(run.data))
    assert ScoredRun.at(run.run_dir).count_trained_on(left) == len(left) == 31


def test_labels_that_change_in_the_midst_of_a_run_are_refused(run, stop_after, tmp_path) -> None:
    files = sorted(run.data.path.rglob("*.png"))
    labels = tmp_path / "labels.csv"
    rows = [f"{file.relative_to(run.data.path)},{file.parent.name}\n" for file in files]
    labels.write_text("path,label\n" + "".join(rows))
    run = replace(run, data=replace(run.data, labels=labels))
    with stop_after(1):
        simclr.pretrain(run)
    copy = tmp_path / "copy.csv"
    shutil.copy(labels, copy)
    labels.write_text(
        "path,label\n" + "".join(row.replace(",cat", ",dog", 1) if i < 15 else row for i, row in enumerate(rows))
    )
    with pytest.raises(DataError, match=r"another label than when this run began \(cat/0\d\d\.png: cat -> dog"):
        simclr.pretrain(run)
    labels.unlink()
    assert simclr.pretrain(replace(run, data=replace(run.data, labels=copy))).finished


def test_the_same_folder_by_another_path_is_the_same_set(run, stop_after, tmp_path, monkeypatch) -> None:
    with stop_after(2):
        simclr.pretrain(run)
    link = tmp_path / "link"
    link.symlink_to(run.data.path)
    with stop_after(1):
        simclr.pretrain(replace(run, data=replace(run.data, path=link)))
    link.unlink()
    moved = run.data.path.rename(tmp_path / "moved")
    config = replace(run, data=replace(run.data, path=moved))
    assert simclr.pretrain(config).finished
    assert (
        simclr.config.yaml.load_config(run.run_dir / "config.yaml").data.path == moved
    )  # where its score looks from now on
    monkeypatch.chdir(tmp_path)
    relative = replace(config.data, path=Path("moved"))
    assert not ScoredRun.at(run.run_dir).has_other_images_than(relative)
    copied = Path(shutil.copytree(moved, tmp_path / "copied"))
    found = ScoredRun.at(run.run_dir)
    assert not found.has_other_images_than(replace(config.data, path=copied))
    assert evaluate_run(run.run_dir, replace(config.data, path=copied), QUICK)["data"]["test"]["trained_on"] == 0
    train = load_source(replace(config.data, path=copied), "train", found.kept(replace(config.data, path=copied)))
    assert found.count_trained_on(train) == len(train)


def test_another_folder_is_another_set(run, stop_after, tmp_path) -> None:
    with stop_after(1):
        simclr.pretrain(run)
    paint(tmp_path / "others", range(50, 70))
    with pytest.raises((ConfigError, DataError), match=r"--name"):
        simclr.pretrain(replace(run, data=replace(run.data, path=tmp_path / "others")))


def test_every_later_command_goes_by_the_list(run, capsys) -> None:
    simclr.pretrain(run)
    trained, tested = trained_and_tested(run)
    paint(run.data.path, range(100, 160))
    found = ScoredRun.at(run.run_dir)
    for part, expected in (("train", trained), ("test", tested)):
        embedded = embed_run(run.run_dir, EmbedOptions(part=part, data=run.data, out=run.run_dir / f"{part}.npz"))
        assert set(embedded.names) == expected
    everything = embed_run(run.run_dir, EmbedOptions(data=run.data, out=run.run_dir / "all.npz"))
    assert len(everything.names) == 160
    images = open_set_images(run.data, found.config, kept=found.kept(run.data))
    assert names(images.test.paths, run.data.path) <= tested
    # Fine-tuning takes the new images for training, and none of those that were kept for the test.
    tuned = replace(
        run,
        name="tuned",
        data=replace(run.data, validation=0.1),
        encoder=replace(run.encoder, init=str(run.run_dir)),
        head=HeadConfig(layers=0),
        objective=CrossEntropyConfig(),
        augment=replace(run.augment, views=1),
        train=replace(run.train, scratch=False),
    )
    simclr.pretrain(tuned)
    learned, scored = trained_and_tested(tuned)
    assert scored == tested and not learned & tested and len(learned) == 137
    assert (
        ScoredRun.at(run.run_dir).count_trained_on(
            load_source(tuned.data, "test", ScoredRun.at(tuned.run_dir).kept(tuned.data))
        )
        == 0
    )


def test_a_run_of_an_earlier_version_gets_its_list_when_it_goes_on(run, stop_after) -> None:
    with stop_after(1):
        simclr.pretrain(run)
    (run.run_dir / "images.csv").unlink()
    assert simclr.pretrain(run).finished
    assert len(read_parts(run.run_dir / "images.csv").files) == 40


def test_the_list_is_a_table_with_a_digest(run, stop_after, tmp_path) -> None:
    with stop_after(1):
        simclr.pretrain(replace(run, data=replace(run.data, limit=16, validation=0.25)))
    file = run.run_dir / "images.csv"
    with file.open(newline="") as stream:
        assert next(stream).startswith("# {")
        rows = list(csv.DictReader(stream))
    parts = [row["part"] for row in rows]
    assert {part: parts.count(part) for part in parts} == {"train": 12, "validation": 4, "unused": 16, "test": 8}
    assert all(int(row["bytes"]) == (run.data.path / row["name"]).stat().st_size for row in rows)
    assert all(row["label"] == row["name"].split("/")[0] for row in rows)
    file.write_bytes(file.read_bytes().replace(b"train", b"test", 1))
    with pytest.raises(CheckpointError, match=r"images\.csv is damaged"):
        read_parts(file)


@pytest.mark.parametrize(
    "name", ["a.png", "ä 猫.png", 'a\nb,"c".png', "back\\slash\\x0a.png", "\udcff\udc80.png", "\t\x7f"]
)
def test_any_name_comes_back_from_the_list(name: str, tmp_path: Path) -> None:
    assert unescaped(escaped(name)) == name and "\n" not in escaped(name)
    listed = ListedFile(part="train", of="train", name=name, bytes=3, label=name)
    write_parts(tmp_path / "images.csv", PartsList(Path(), (listed,), classes=(name,), trained=1))
    assert read_parts(tmp_path / "images.csv").files == (listed,)


def test_rows_of_new_images_in_a_file_of_labels_do_not_end_a_run(run, stop_after, tmp_path) -> None:
    def write(labels: Path) -> None:
        files = sorted(run.data.path.rglob("*.png"))
        labels.write_text("path,label\n" + "".join(f"{f.relative_to(run.data.path)},{f.parent.name}\n" for f in files))

    for labels in (tmp_path / "labels.csv", run.data.path / "metadata.csv"):
        config = replace(run, name=labels.stem, data=replace(run.data, labels=labels))
        if labels.stem == "metadata":
            config = replace(config, data=replace(run.data, labels="auto"))
        write(labels)
        with stop_after(1):
            simclr.pretrain(config)
        count = len(open_images(config).kept.files)
        classes = open_images(config).images.classes
        paint(run.data.path, range(count + 100, count + 110), ("aardvark", "cat"))
        write(labels)
        assert simclr.pretrain(config).finished
        trained, tested = trained_and_tested(config)
        assert len(trained) + len(tested) == count and not trained & tested
        assert open_images(config).images.classes == classes
        assert evaluate_run(config.run_dir, config=QUICK)["data"]["test"]["trained_on"] == 0
