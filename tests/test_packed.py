"""Shards and parquet: the same images as the folder they were made of, also where a part of them is damaged or far away."""

import gzip
import hashlib
import io
import json
import pickle
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from augment import AugmentConfig
from linear_eval.features.naming import Names, Naming
from simclr.config import DataConfig
from simclr.config.sources import OWN_SOURCES
from simclr.data import Batches, ImageSet, load_source, make_sampler
from simclr.data.check import check_folder
from simclr.data.cut import CropPlan, Cut
from simclr.data.packed import cache
from simclr.data.packed.kept import expect_packed, same_packed, write_packed
from simclr.data.packed.locations import as_typed
from simclr.data.packed.make import make_shards
from simclr.data.packed.plan import MakeOptions, Plan
from simclr.data.packed.tar import Member, TarFault, members
from simclr.data.shard_order import shard_order
from simclr.errors import ConfigError, DataError, MissingExtraError

Part = Literal["train", "test"]
Made = dict[str, Path]
IMAGES = 45


def picture(seed: int, side: int = 20) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side + 7), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A folder of three classes, JPEG, PNG and 12 bits in TIFF, with groups and a test part; and shards and parquet of it."""
    root = tmp_path_factory.mktemp("packed")
    lines = ["path,label,group,split"]
    for i in range(IMAGES):
        file = root / "folder" / ("owl", "wren", "kite")[i % 3] / f"{i:03d}{('.jpg', '.png', '.tif')[i % 5 % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".tif":
            Image.fromarray(np.random.default_rng(i).integers(0, 4096, (20, 20), dtype=np.uint16)).save(file)
        else:
            picture(i).save(file)
        lines.append(
            f"{file.relative_to(root / 'folder')},{file.parent.name},{i // 2},{'test' if i % 9 > 6 else 'train'}"
        )
    (root / "folder" / "metadata.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "shards_of", lambda self, count: max(1, count // 6))
        patch.setattr("simclr.data.packed.make.share_of_cores", lambda: 1)
        patch.setenv("SIMCLR_CACHE", str(root / "cache"))
        for kind in ("shards", "parquet"):
            make_shards(MakeOptions(out=root / kind, data=data("folder", root / "folder")), kind)
    return {kind: root / kind for kind in ("folder", "shards", "parquet")}


def data(source: str, path: Path | str, **others: Any) -> DataConfig:
    return DataConfig(source=source, path=Path(path), **{"size": 16, **others})


def seen(images: ImageSet) -> list[tuple[str, str]]:
    """Digest of the pixels and class of every image, in an order of their own."""
    assert images.labels is not None
    names = [images.classes[label] for label in images.labels.tolist()]
    return sorted((hashlib.sha256(images[i][0].numpy().tobytes()).hexdigest(), names[i]) for i in range(len(images)))


def grouped(images: ImageSet) -> set[frozenset[str]]:
    """The digests of the images of each group."""
    assert images.groups is not None
    found: dict[int, list[str]] = {}
    for i, group in enumerate(images.groups.tolist()):
        found.setdefault(group, []).append(hashlib.sha256(images[i][0].numpy().tobytes()).hexdigest())
    return {frozenset(one) for one in found.values()}


def copy(made: Made, kind: str, to: Path) -> Path:
    shutil.copytree(made[kind], to)
    return to


def tar(file: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as out:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return file


def encoded(seed: int, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    picture(seed).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["shards", "parquet"])
def test_the_images_are_those_of_the_folder(made: Made, kind: str) -> None:
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        wanted, found = load_source(data("folder", made["folder"]), part), load_source(data(kind, made[kind]), part)
        assert wanted.classes == found.classes == ("kite", "owl", "wren") and wanted.reader == found.reader
        assert seen(wanted) == seen(found) and len(found) == {"train": 35, "test": 10}[part]
        assert grouped(wanted) == grouped(found)
    by_name = {path.name: path.read_bytes() for path in made["folder"].rglob("*.*") if path.suffix != ".csv"}
    kept = pickle.loads(
        pickle.dumps(load_source(data(kind, made[kind]), "train"))
    )  # as a worker that is started afresh gets it
    assert {kept.places[i].image() for i in range(len(kept))} <= set(by_name.values())


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)  # webdataset's
def test_others_read_what_is_made(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    webdataset, datasets = pytest.importorskip("webdataset"), pytest.importorskip("datasets")
    ours = load_source(data("shards", made["shards"]), "train")
    files = sorted(map(str, made["shards"].glob("train-*.tar")))
    theirs = list(webdataset.WebDataset(files, shardshuffle=False))
    assert ours.labels is not None and len(theirs) == len(ours)
    for i, sample in enumerate(theirs):
        (image,) = [content for name, content in sample.items() if name in ("jpg", "png", "tif")]
        assert ours.places[i].image() == image and int(sample["cls"]) == ours.labels[i]
        assert json.loads(sample["json"])["label"] == ours.classes[int(sample["cls"])]
    rows = datasets.load_dataset(str(made["parquet"]), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in rows.items()} == {"train": 35, "test": 10}
    assert rows["train"].features["label"].names == ["kite", "owl", "wren"]
    assert rows["train"][0]["image"].size[0] == 20
    sums = dict(line.split("  ")[::-1] for line in (made["shards"] / "SHA256SUMS").read_text().splitlines())
    assert sums == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in made["shards"].glob("*.tar")}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_any_kind_without_a_list(tmp_path: Path, form: int) -> None:
    long = "a" * 90 + "/" + ("b" * 60 if form == tarfile.USTAR_FORMAT else "ü" * 70)
    members = {
        f"./{long}{i}.{ending}": content
        for i in range(8)
        for ending, content in {
            "jpg": encoded(i),
            "cls": str(i % 2 + 9).encode(),
            "json": json.dumps({"patient": i // 2}).encode(),
        }.items()
    }
    file = tar(tmp_path / "some.tar", {**members, "._x.jpg": b"", "note.txt": b"no image", "a/": b""}, form)
    with tarfile.open(file) as opened:
        wanted = {m.name: opened.extractfile(m).read() for m in opened.getmembers() if m.name.endswith(".jpg")}  # type: ignore[union-attr]
    images = load_source(data("shards", file, group="patient", test_fraction=0.25), "train")
    held = load_source(data("shards", file, group="patient", test_fraction=0.25), "test")
    assert len(images) == 6 and images.classes == ("9", "10") and len(held) == 2 and len(set(held.groups.tolist())) == 1  # type: ignore[union-attr]
    assert {place.image() for place in [*images.places, *held.places]} == {
        c for n, c in wanted.items() if "._" not in n
    }  # type: ignore[union-attr]
    assert "left out: 1 samples without an image" in images.notes and "read in" in images.notes[0]
    again = load_source(data("shards", tmp_path, group="patient"), "train")
    assert "kept in" in again.notes[0] or again.notes[0] == images.notes[0]


def test_labels_where_there_is_no_list(tmp_path: Path) -> None:
    named = {
        f"{i}.{e}": c
        for i in range(6)
        for e, c in {
            "png": encoded(i, "PNG"),
            "json": b'{"category": "%s", "age": %d}' % (b"ab"[i % 2 : i % 2 + 1], i),
        }.items()
    }
    file = tar(tmp_path / "a" / "train-0.tar", named)
    assert load_source(data("shards", file, test_fraction=0.4), "train").classes == ("a", "b")
    assert load_source(data("shards", file, labels=Path("age"), test_fraction=0.4), "train").classes == tuple("012345")
    assert load_source(data("shards", file, labels="none", test_fraction=0.4), "train").labels is None
    folders = tar(tmp_path / "b" / "x.tar", {f"all/{'cd'[i % 2]}/deep/{i}.jpg": encoded(i) for i in range(6)})
    assert load_source(data("shards", folders), "train").classes == ("c", "d")
    with pytest.raises(ConfigError, match=r"nothing in .* is called so"):
        load_source(data("shards", folders, labels=Path("age")), "train")
    tar(tmp_path / "a" / "val-0.tar", {"9.jpg": encoded(9), "9.cls": b"a"})
    assert len(load_source(data("shards", tmp_path / "a"), "test")) == 1  # by the names of the shards
    twice = tar(tmp_path / "d.tar", {"x.jpg": encoded(1), "x.cls": b"a", "./x.jpg": encoded(2), "./x.cls": b"b"})
    images = load_source(data("shards", twice), "train").joined(load_source(data("shards", twice), "test"))
    assert len(images) == 2 and images.classes == ("a", "b")  # one name for two samples, one behind the other
    (tmp_path / "e.tar").write_bytes(gzip.compress(twice.read_bytes()))
    with pytest.raises(DataError, match=r"no image that can be read: .*e\.tar: it is compressed \(gzip\)"):
        load_source(data("shards", tmp_path / "e.tar", broken="skip"), "train")
    numbers = tar(
        tmp_path / "c.tar",
        {f"{i}.{e}": c for i in range(4) for e, c in {"jpg": encoded(i), "json": b'{"label": %f}' % (i / 3)}.items()},
    )
    images = load_source(data("shards", numbers), "train")
    assert images.labels is None and images.values is not None


@pytest.mark.parametrize("sizes", [[700] * 3, [5, 900, 1, 60, 300], [1] * 400])
def test_an_epoch_reads_every_image_once_and_shards_forwards(sizes: list[int]) -> None:
    shard = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    orders = [shard_order(shard, 3, epoch, lanes=4, window=20) for epoch in (0, 1)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(len(shard)))
    assert not torch.equal(*orders) and torch.equal(orders[0], shard_order(shard, 3, 0, lanes=4, window=20))
    # A window of 20 in 4 lanes: whatever was read of a shard lies within a few images of how far it has been read.
    furthest = dict[int, int]()
    place = torch.cat([torch.arange(size) for size in sizes]).tolist()
    for index in orders[0].tolist():
        number = int(shard[index])
        assert place[index] >= furthest.get(number, 0) - 20
        furthest[number] = max(furthest.get(number, 0), place[index])
    open_at_once = [len(set(shard[orders[0][i : i + 40]].tolist())) for i in range(0, len(shard) - 40, 40)]
    assert len(sizes) > 300 or max(open_at_once) <= 8


def test_the_batches_are_the_same_for_any_number_of_processes_and_go_on_in_a_shard(made: Made) -> None:
    images = load_source(data("shards", made["shards"]), "train")
    config = AugmentConfig(size=16)
    plan = CropPlan(configs=(config,), ends=(), batch=8, seed=5)

    def read(start: int, rank: int, world: int, workers: int) -> list[tuple[list[int], torch.Tensor]]:
        sampler = from_config(images)  # as a command that goes on makes it, with nothing but the config
        batches = Batches(
            images,
            sampler,
            torch.device("cpu"),
            start=start,
            stop=9,
            rank=rank,
            world=world,
            workers=workers,
            plan=plan,
        )
        return [(b.indices.tolist(), b.images.views) for b in batches if isinstance(b.images, Cut)]

    whole = read(0, 0, 1, 0)
    assert sorted(i for indices, _ in whole[:4] for i in indices) == sorted(
        {i for indices, _ in whole[:4] for i in indices}
    )
    halves = [read(5, rank, 2, 2) for rank in (0, 1)]
    for step, (indices, views) in enumerate(whole[5:]):
        assert indices == halves[0][step][0] + halves[1][step][0]
        assert torch.equal(views, torch.cat([half[step][1] for half in halves], 1))


def from_config(images: ImageSet) -> Any:
    from simclr.config import SamplerConfig

    sampler = make_sampler(SamplerConfig(), images, 8, seed=1)
    assert sampler.shard is not None  # type: ignore[union-attr]
    return sampler


def damaged(folder: Path, how: str) -> Path:
    shard = folder / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    if how == "missing":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif how == "other bytes":
        with tarfile.open(shard) as opened:
            member = opened.getmembers()[0]
        content[member.offset_data : member.offset_data + member.size] = bytes(member.size)
        shard.write_bytes(content)
    return shard


@pytest.mark.parametrize(
    ("how", "listed", "said"),
    [
        ("missing", True, r"1 of 6 shards are damaged: .*train-000001.tar is not there, 7 images are lost"),
        ("cut", True, r"train-000001.tar is cut off: \d+ of \d+ bytes, \d+ of its 7 images are lost"),
        ("cut", False, r"train-000001.tar: it is cut off at byte \d+, .*, what follows its first \d+ images is lost"),
    ],
)
def test_a_damaged_shard_is_refused_or_its_images_left_out(
    made: Made, tmp_path: Path, how: str, listed: bool, said: str
) -> None:
    folder = copy(made, "shards", tmp_path / "copy")
    damaged(folder, how)
    if not listed:
        (folder / "index.arrow").unlink()
    with pytest.raises(DataError, match=said):
        load_source(data("shards", folder), "train")
    images = load_source(data("shards", folder, broken="skip"), "train")
    whole = seen(load_source(data("shards", made["shards"]), "train"))
    broken: dict[int, str] = {}
    left = images.intact(broken)
    assert (len(images) == 35) == listed and 35 - 7 <= len(left) < 35 and len(broken) == len(images) - len(left)
    assert set(seen(left)) < set(whole) and all("train-000001.tar: 0000" in words for words in broken.values())
    report = check_folder(data("shards", folder))
    assert report.faulty and any(path.name == "train-000001.tar" for path in report.broken)


def test_bytes_that_changed_are_found_by_their_check_sum(made: Made, tmp_path: Path) -> None:
    folder = copy(made, "shards", tmp_path / "copy")
    shard = damaged(folder, "other bytes")
    report = check_folder(data("shards", folder))
    assert "check sum" in report.broken[shard] and len(report.broken) == 2  # and the image, which decodes no more
    tables = copy(made, "parquet", tmp_path / "tables")
    file = next(tables.glob("train-00001*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"1 of \d files of parquet are damaged: .*train-00001"):
        load_source(data("parquet", tables), "train")
    assert 0 < len(load_source(data("parquet", tables, broken="skip"), "train")) < 35


def test_rows_and_columns_of_any_table(tmp_path: Path) -> None:
    good, bad = encoded(1), b"no image"
    cells = [{"bytes": good, "path": f"{'uv'[i % 2]}/{i}.jpg"} for i in range(8)]
    cells[3] = {"bytes": bad, "path": None}
    cells[4] = None  # type: ignore[call-overload]
    table = pa.table(
        {
            "picture": cells,
            "fine_label": ["a", "b", None, "b", "a", "b", "a", "b"],
            "age": [1.5] * 8,
            "patient": [1, 1, 2, 2, 3, 3, 4, 4],
        }
    )
    pq.write_table(table, tmp_path / "some.parquet")
    images = load_source(data("parquet", tmp_path / "some.parquet", group="patient", broken="skip"), "train")
    assert (
        images.classes == ("a", "b")
        and images.groups is not None
        and any("columns not used: age" in note for note in images.notes)
    )
    broken: dict[int, str] = {}
    images.joined(load_source(data("parquet", tmp_path, group="patient", broken="skip"), "test")).intact(broken)
    assert (
        sorted(words.rpartition("some.parquet: ")[2] for words in broken.values())
        == [
            "row 3 of train: not an image that can be read",
            "row 4 of train: there is no image in it",
        ]
        or len(broken) == 2
    )
    assert load_source(data("parquet", tmp_path, labels=Path("age")), "train").values is not None
    with pytest.raises(ConfigError, match=r"the columns of .* are picture, fine_label, age, patient"):
        load_source(data("parquet", tmp_path, labels=Path("no_such")), "train")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column of images"):
        load_source(data("parquet", tmp_path / "x.parquet"), "train")


def test_files_that_are_no_one_table_are_named_with_their_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [encoded(1)] * 4, "label": ["a", "b"] * 2}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "no-rows.parquet")
    assert len(load_source(data("parquet", tmp_path, test_fraction=0.5), "train")) == 2
    with pytest.raises(DataError, match="holds no row"):
        load_source(data("parquet", tmp_path / "no-rows.parquet"), "train")
    pq.write_table(pa.table({"img": [encoded(2)]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has the columns img \(binary\), and .*a\.parquet has image \(bin"):
        load_source(data("parquet", tmp_path), "train")


def test_without_the_library_one_line_says_what_to_install(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr.data.packed import parquet

    parquet._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simclr-pipeline\[parquet\]'"):
        load_source(data("parquet", made["parquet"]), "train")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simclr-pipeline\[shards\]'"):
        load_source(data("shards", "s3://bucket/train-{00..01}.tar"), "train")


@pytest.fixture
def server(made: Made) -> Iterator[tuple[str, list[str], set[str]]]:
    """The folder of shards over HTTP: its address, what was asked for, and what is to fail once."""
    asked, failing = list[str](), set[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            asked.append(name)
            file = made["shards"] / name
            if name in failing:
                failing.discard(name)
                self.send_error(503, "busy")
            elif not file.exists():
                self.send_error(404, "not there")
            else:
                content = file.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked, failing
        http.shutdown()
        thread.join()


def test_shards_of_a_server_are_fetched_once_when_they_are_needed(
    made: Made, server: tuple[str, list[str], set[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address, asked, failing = server
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_PAUSE", 0.0)
    names = "train-{000000..000004}.tar"
    config = DataConfig(source="shards", path=Path(f"{address}/{names}"), size=16)
    assert as_typed(Path(f"{address}/{names}")) == f"{address}/{names}"
    images = load_source(config, "train").joined(load_source(config, "test"))
    # The labels are known; the values of 12-bit images are looked for in the first shards alone.
    assert asked == ["index.arrow", *(f"train-00000{i}.tar" for i in range(4))]
    failing.add("train-000004.tar")
    here = load_source(data("shards", made["shards"]), "train")
    assert seen(replace(images, reader=here.reader)) == seen(here)
    threads = [threading.Thread(target=lambda: images[0]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == sorted(["index.arrow", *(f"train-00000{i}.tar" for i in (0, 1, 2, 3, 4, 4))])
    monkeypatch.setenv("SIMCLR_CACHE_GB", "0.00001")  # 10 kB: less than there is
    cache._make_room(tmp_path / "shards", 0)
    assert sum(file.stat().st_size for file in (tmp_path / "shards").iterdir()) <= 10_000
    with pytest.raises(DataError, match="could not be fetched: the server says 404"):
        cache.fetched(f"{address}/train-000009.tar")
    with pytest.raises(DataError, match="in 4 tries: it is not what its list says"):
        cache.fetched(f"{address}/train-000000.tar", sha256="0" * 64)


def test_shards_that_a_command_prints(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_PAUSE", 0.0)
    config = DataConfig(source="shards", path=Path(f"pipe:cat {made['shards']}/train-{{000000..000004}}.tar"), size=16)
    images = load_source(config, "train").joined(load_source(config, "test"))
    assert seen(images) == seen(load_source(data("shards", made["shards"]), "train"))
    with pytest.raises(
        DataError, match=r"could not be fetched in 4 tries: the command ended with exit code 1: .*No such file"
    ):
        load_source(replace(config, path=Path(f"pipe:cat {tmp_path}/no-such.tar")), "train")


def test_making_shards_goes_on_where_it_was_stopped(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[str], Callable[..., tuple[int, str, str]]],
) -> None:
    monkeypatch.setattr(Plan, "shards_of", lambda self, count: max(1, count // 6))
    options = MakeOptions(out=tmp_path / "out", data=data("folder", made["folder"]))
    write, calls = Plan.__call__, list[object]()

    def killed(self: Plan, job: Any) -> Any:
        calls.append(job)
        if len(calls) > 2:
            (tmp_path / "out" / ".train-000002.tar.x.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return write(self, job)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Plan, "__call__", killed)
        patch.setattr("simclr.data.packed.make.share_of_cores", lambda: 1)
        make_shards(options, "shards")
    assert not (tmp_path / "out" / "SHA256SUMS").exists()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.tar")}
    words = (
        "--data.path",
        made["folder"],
        "--data.size",
        16,
        "--out",
        tmp_path / "out",
    )
    code, out, _ = script("make_shards")(*words)
    assert code == 0 and "45 images (35 train, 10 test) in 6 shards, 2 of which were there" in out
    assert len(kept) == 2 and all(file.stat().st_mtime_ns == time for file, time in kept.items())
    for file in ("SHA256SUMS", "index.arrow"):
        assert (tmp_path / "out" / file).read_bytes() == (made["shards"] / file).read_bytes()
    assert script("make_shards")(*words)[1].count("6 of which were there") == 1
    code, _, err = script("make_shards")(*words, "--seed", 1)
    assert code == 2 and "shards of other images or with other settings" in err
    code, _, err = script("make_shards")(*words[:-1], made["folder"])
    assert code == 2 and "holds files, but no shards of this command" in err
    code, _, err = script("make_shards")("tables", *words)
    assert code == 2 and "'tables' is neither shards nor parquet" in err


@pytest.mark.parametrize("kind", ["shards", "parquet"])
def test_few_groups_and_values_and_files_of_no_bytes(tmp_path: Path, kind: Literal["shards", "parquet"]) -> None:
    """Of 170 images one in fifty has a group or a number, so most row groups have none."""
    for column in ("group", "value"):
        folder = tmp_path / column
        folder.mkdir()
        for i in range(170):
            (folder / f"{i}.jpg").write_bytes(encoded(i) if i != 7 else b"")
        rows = [f"{i}.jpg,{'' if i % 50 else i + 1},{'test' if i % 4 == 2 else 'train'}" for i in range(170)]
        (folder / "metadata.csv").write_text("\n".join([f"path,{column},split", *rows]))
        options = MakeOptions(out=tmp_path / "out" / column, data=data("folder", folder))
        with pytest.raises(DataError, match=r"7\.jpg: the file is empty\. Mend or remove it"):
            make_shards(options, kind)
        options = replace(options, data=data("folder", folder, broken="skip"))
        for _ in range(2):  # written, and there already
            assert sum(make_shards(options, kind).parts.values()) == 169
        found = load_source(data(kind, options.out), "train")
        told = found.groups if column == "group" else found.values
        assert told is not None and int((told >= 0).sum()) == 2  # NaN is not


def test_rows_of_embeddings_bear_the_names_of_the_members(made: Made) -> None:
    names = {
        kind: Names(Naming(root=made[kind]), load_source(data(kind, made[kind]), "test"))
        for kind in ("shards", "parquet")
    }
    assert names["shards"][0].rpartition(".")[0] == "test-000000.tar: 000000000"
    assert names["parquet"][3] == f"{made['parquet']}: row 3 of test"


def test_smaller_images_and_images_of_memory(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(MakeOptions(out=tmp_path / "small", size=10, data=data("folder", made["folder"])), "shards")
    sizes = set()
    for place in load_source(data("shards", tmp_path / "small"), "train").places:
        with Image.open(io.BytesIO(place.image())) as image:  # type: ignore[union-attr]
            sizes.add((image.format, min(image.size)))
    assert sizes == {("JPEG", 10)}
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    monkeypatch.setitem(
        OWN_SOURCES, "arrays", lambda config, part: (pixels, ["a", "b"] * 6) if part == "train" else None
    )
    make_shards(MakeOptions(out=tmp_path / "arrays", data=DataConfig(source="arrays", size=8)), "parquet")
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        wanted = load_source(DataConfig(source="arrays", size=8), part)
        assert seen(wanted) == seen(load_source(data("parquet", tmp_path / "arrays", size=8), part))


def test_a_run_goes_on_with_what_it_began_with_alone(made: Made, tmp_path: Path) -> None:
    folder = copy(made, "shards", tmp_path / "copy")
    config = data("shards", folder)
    listed = expect_packed(tmp_path, config)
    assert listed is not None
    write_packed(tmp_path, listed)
    moved = copy(made, "shards", tmp_path / "moved")
    assert expect_packed(tmp_path, config) is None and same_packed(tmp_path, replace(config, path=moved))
    tar(folder / "train-000009.tar", {"x.jpg": encoded(1), "x.cls": b"owl"})
    with pytest.raises(
        DataError, match=r"is not what this run began with: train-000009.tar had 0 images and has 1\. Put it back"
    ):
        expect_packed(tmp_path, config)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_of_a_tar_cut_anywhere_the_whole_members_are_listed(kind: int) -> None:
    long = "" if kind == tarfile.USTAR_FORMAT else "é" * 120
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
            for name, size in {"a.jpg": 700, f"b{long}.jpg": 1, "c/d.jpg": 1024}.items():
                member = tarfile.TarInfo(name)
                member.size = size
                tar.addfile(member, io.BytesIO(bytes(size)))
        content = file.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        known = [Member(one.name, one.offset_data, one.size) for one in tar]
    assert list(members(io.BytesIO(content), len(content))) == known and len(known) == 3
    for length in range(0, known[-1].offset + known[-1].size, 100):
        found = []
        with pytest.raises(TarFault, match=r"cut off|empty|no tar"):
            for member in members(io.BytesIO(content[:length]), length):
                found.append(member)
        assert found == [one for one in known if one.offset + one.size <= length]
    torn = bytearray(content)
    torn[known[1].offset - 512 + 150] ^= 1  # in the check sum of the second one's header
    found = members(io.BytesIO(bytes(torn)), len(torn))
    assert next(found) == known[0]
    with pytest.raises(TarFault, match="is damaged"):
        next(found)
