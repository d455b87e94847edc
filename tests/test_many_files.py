"""Very many files: lists of them as arrays, walked, written, mapped and labelled as they were one by one."""

import csv
import io
import os
import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from simclr.config import DataConfig, TrainConfig
from simclr.data import load_source
from simclr.data.file_index import INDEX
from simclr.data.file_list import FileList, backing, positions_of
from simclr.data.file_order import evenly_in_order, order_of
from simclr.data.images_table import escaped, read_table
from simclr.data.listing import list_images
from simclr.data.metadata import read_metadata
from simclr.data.opening import EXTENSIONS
from simclr.data.parts_list import ListedFile, PartsList, write_parts
from simclr.data.places import Chosen
from simclr.errors import CheckpointError, DataError
from simclr.run.division import open_images
from simclr.run.folder import claim
from tests.test_parts_list import paint

NAMES = [
    *(
        "b/2.png",
        "b/10.png",
        "a.png",
        "b.x/1.png",
        "b/c/1.png",
        "b/c.png",
        "ä/猫.png",
        "\udcff/\udc80.png",
        "z/a,b.png",
    ),
    *('z/"q".png', "z/new\nline.png", "z/back\\slash.png", "z/tab\t.png", "b/c/d/e.png", "c/1.png", "b- c/0.png"),
]


def listed(names: list[str], root: Path = Path("set")) -> FileList:
    return FileList.of([root / name for name in names], root)


def test_a_list_of_files_is_the_sequence_of_their_paths() -> None:
    paths = [Path("set") / name for name in NAMES]
    files = listed(NAMES)
    assert files == paths and list(files) == paths and files[-1] == paths[-1] and list(files[3:9:2]) == paths[3:9:2]
    assert list(pickle.loads(pickle.dumps(files))) == paths
    assert [files.find(name) for name in NAMES] == list(range(len(NAMES))) and files.find("b/3.png") == -1
    rows = torch.randperm(len(NAMES), generator=torch.Generator().manual_seed(0))[:11]
    part = Chosen(files, rows)
    assert [path for path in paths if str(path) in {str(paths[7]), str(paths[2])}] == [paths[2], paths[7]]
    wanted = {str(part[4]), str(part[9]), "elsewhere/1.png"}
    assert positions_of(wanted, part) == positions_of(wanted, tuple(part)) == [4, 9]
    shuffled = random.Random(0).sample(NAMES, 12)
    other = FileList.of([Path("copy") / name for name in [*shuffled, "c/3.png"]], Path("copy"))
    assert files.rows_of(other).tolist() == [*map(NAMES.index, shuffled), -1]
    assert files.rows_of(files.at(Path("copy"))).tolist() == list(range(len(NAMES)))
    assert backing(part, Path("set"))[1].tolist() == rows.tolist()


def test_files_stand_in_the_order_of_their_names_and_of_their_paths() -> None:
    names = [name for name in NAMES if "\udcff" not in name]  # whose bytes are in another order than Python's escapes
    for some in (names, [name for name in names if name.count("/") == 1 and not name.startswith("b.")]):
        files = listed(sorted(some))
        rows = np.arange(len(some))
        texts = sorted(str(path) for path in files)
        for ordered in (False, True):
            files.ordered = ordered
            assert [str(files[i]) for i in order_of(files, rows)] == texts
            assert [files[i] for i in order_of(files, rows, by_parts=True)] == sorted(files)
            again = np.concatenate([rows[::-1], rows])
            assert evenly_in_order(files, again, 100) == [Path(text) for text in texts]
        assert evenly_in_order(files, rows, 3) == [Path(texts[i]) for i in (0, round((len(texts) - 1) / 2), -1)]


def one_by_one(root: Path) -> tuple[list[Path], Counter[str]]:
    """The images below ``root`` by the system's own walk, each folder once."""
    entered, paths, others = {root.stat().st_ino}, [], Counter[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            place = Path(folder, name)
            inside = place.resolve().is_relative_to(root) and "." not in str(place.resolve().relative_to(root))
            if name.startswith(".") or (place.is_symlink() and inside) or place.stat().st_ino in entered:
                continue
            entered.add(place.stat().st_ino)
            kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            ending = Path(name).suffix.lower()
            if ending in EXTENSIONS and not name.startswith("."):
                paths.append(Path(folder, name))
            elif ending == ".xyz":
                others[ending] += 1
    return paths, others


def test_a_walk_by_threads_finds_what_one_by_one_finds_in_that_order(tmp_path: Path) -> None:
    root, outside = (tmp_path / "set").resolve(), tmp_path / "outside"
    draw = random.Random(1)
    for top in (root, outside):
        for _ in range(120):
            inside = top.joinpath(*(draw.choice("abc.de") for _ in range(draw.randrange(4))))
            inside.mkdir(parents=True, exist_ok=True)
            inside.joinpath(f"{draw.randrange(40)}{draw.choice(['.png', '.JPG', '.xyz', '.txt', ''])}").touch()
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "other").symlink_to(outside)
    (root / "c" / "again").symlink_to(outside / "a")
    (root / "c" / "own").symlink_to(root / "a")
    (root / "broken.png").symlink_to(root / "nowhere")
    found = list_images(root)
    paths, others = one_by_one(root)
    assert list(found.paths) == paths and len(paths) > 50 and found.others == dict(others)
    assert found.paths.linked and found.paths.ordered


def test_the_table_is_what_csv_writes_and_comes_back(tmp_path: Path) -> None:
    words = ("train", "test")
    files = [
        ListedFile(part=words[i % 2], of=words[i % 2], name=name, bytes=i - 1, label=NAMES[-i] if i % 3 else "")
        for i, name in enumerate(NAMES)
    ]
    written = tmp_path / "images.csv"
    write_parts(written, PartsList(Path(), files, classes=tuple(NAMES), trained=3))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("part", "of", "name", "bytes", "label"))
    table.writerows((f.part, f.of, escaped(f.name), f.bytes, escaped(f.label)) for f in files)
    assert written.read_bytes().partition(b"\n")[2] == text.getvalue().encode()
    back, head = read_table(written)
    assert back == files and head == {"images": len(files), "classes": NAMES, "trained": 3}
    assert not (tmp_path / INDEX).exists()


@pytest.fixture
def many(tiny_run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run on 40 images, which are many to it; its folder was last changed a while ago."""
    for module in ("listing", "parts_list"):
        monkeypatch.setattr(f"simclr.data.{module}.LONG", 40)
    monkeypatch.setattr("simclr.data.listing._latest", [])
    root = tmp_path / "photos"
    paint(root, range(20))
    rest(root)
    return replace(tiny_run, data=DataConfig(source="folder", path=root, size=16, workers=0, validation=0.1))


def rest(root: Path) -> None:
    """Folders changed an hour ago."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, ns=(0, folder.stat().st_mtime_ns - 3600 * 10**9))


def test_the_second_start_maps_the_index_and_looks_into_no_folder(
    many: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_images(many)
    claim(many, first.listed)
    with monkeypatch.context() as patch:
        patch.setattr("simclr.data.listing.walk", None)
        patch.setattr("simclr.data.parts_list.read_table", None)
        again = open_images(many)
        tested = load_source(many.data, "test", again.kept)
    assert again.listed is None and again.images.paths == first.images.paths
    assert torch.equal(again.images.labels, first.images.labels) and again.images.classes == first.images.classes
    assert {*tested.paths} == {*load_source(many.data, "test").paths}
    files = again.images.paths.items
    assert len(pickle.dumps(files)) < len(pickle.dumps(listed([files.name(i) for i in range(40)])))
    assert pickle.loads(pickle.dumps(files)) == files
    assert again.kept.count_trained(again.images.paths, {many.data.path}) == len(again.images)
    assert again.kept.count_trained(tested.paths, {many.data.path}) == 0
    index = many.run_dir / INDEX
    index.write_bytes(index.read_bytes()[:-70])  # as if it were not there
    assert open_images(many).images.paths == first.images.paths
    many.run_dir.joinpath("images.csv").write_bytes(many.run_dir.joinpath("images.csv").read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        open_images(many)


def test_what_changed_in_the_folder_is_noticed_beside_an_index(many: TrainConfig) -> None:
    claim(many, open_images(many).listed)
    root, before = many.data.path, set(open_images(many).images.paths)
    paint(root, range(20, 21))
    rest(root)
    grown = open_images(many)
    assert {*grown.images.paths} == before and any("2 images were added" in note for note in grown.images.notes)
    (root / "cat" / "020.png").unlink()
    (root / "dog" / "020.png").unlink()
    kept = (root / "cat" / "003.png").read_bytes()
    (root / "cat" / "003.png").write_bytes(kept + b"more")  # which leaves the folder as it is
    with pytest.raises(DataError, match=r"1 of its 40 images have another size \(cat/003\.png\)"):
        open_images(many)
    (root / "cat" / "003.png").unlink()
    with pytest.raises(DataError, match=r"1 of its 40 images are not there any more \(cat/003\.png\)"):
        open_images(many)


def test_a_folder_with_pictures_beside_its_classes_goes_on_in_the_same_order(many: TrainConfig) -> None:
    for name in ("aa.png", "zz.png", "mm.png"):
        (many.data.path / name).write_bytes((many.data.path / "cat" / "001.png").read_bytes())
    first = open_images(many)
    claim(many, first.listed)
    assert list(open_images(many).images.paths) == list(first.images.paths)


def test_progress_is_said_after_two_seconds(many: TrainConfig, monkeypatch, capsys) -> None:
    list_images(many.data.path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("simclr.data.listing.time.perf_counter", iter(range(0, 1000, 3)).__next__)
    monkeypatch.setattr("simclr.data.listing._latest", [])
    list_images(many.data.path)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("photos: 0 files ...") and said[-1].endswith("photos: 40 files listed in 12 s")


def test_columns_of_many_images_say_what_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    names = [f"{folder}/{i}.png" for folder in "abc" for i in range(8)]
    for name in (*names, "elsewhere/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    files = FileList.of([root / name for name in names], root)
    plain, files.linked = tuple(files), False
    cells = {
        "label": ["cat", " dog ", "", "nan", "3", "1.0", "a,b", "['cat']", "None"],
        "value": ["1", " 2.5", "", "1e3", "nan", "7"],
        "quality": ["0", "0.5", "1"],
        "group": ["p", "q ", "", "r"],
        "split": ["train", "Test", "", "val", "unlabelled"],
        "other": ["x"],
    }
    monkeypatch.setattr("simclr.data.metadata_of_many.MANY", 0)
    draw, by_columns = random.Random(2), 0
    for turn in range(60):
        chosen = draw.sample(sorted(cells), draw.randrange(1, 5))
        images = draw.sample(names, draw.randrange(12, 24)) + ["elsewhere/x.png"] * draw.randrange(2)
        if turn % 8 == 7:
            images += [draw.choice(images), "a/0", "nowhere.png"][turn % 3 : turn % 3 + 1]
        images = [
            f"./{name}" if draw.random() < 0.1 else f" {name}" if draw.random() < 0.1 else name for name in images
        ]
        table = {"path": images} | {c: [draw.choice(cells[c]) for _ in images] for c in chosen}
        file = (tmp_path, root, root / "a")[
            turn % 3 if turn % 3 < 2 else 1
        ] / f"{turn}.{('csv', 'tsv', 'parquet')[turn % 4 % 3]}"
        if file.suffix == ".parquet":
            pq.write_table(pa.table({c: pa.array(column) for c, column in table.items()}), file)
        else:
            with file.open("w", newline="") as stream:
                writer = csv.writer(stream, delimiter="," if file.suffix == ".csv" else "\t")
                writer.writerows([tuple(table), *zip(*table.values(), strict=True)])
        found = bool(turn % 2)

        def read(paths, file=file, found=found):
            try:
                return read_metadata(file, root, paths, found=found)
            except DataError as error:
                return str(error)

        rows, columns = read(plain), read(files)
        if isinstance(rows, str):
            assert rows == columns
            continue
        by_columns += isinstance(columns.splits, Chosen) or columns.labels is not None or columns.values is not None
        for one, other in ((rows.labels, columns.labels), (rows.values, columns.values), (rows.groups, columns.groups)):
            assert (one is None) == (other is None)
            assert one is None or (one.dtype == other.dtype and torch.equal(one.nan_to_num(-9), other.nan_to_num(-9)))
        assert rows.splits is None or list(rows.splits) == list(columns.splits)
        assert (rows.classes, rows.notes, rows.columns) == (columns.classes, columns.notes, columns.columns)
    assert by_columns > 20
