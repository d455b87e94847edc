"""``embed.py RUN``: every file's features by brute force, in every format; dirty folders, neighbours, and mistakes."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import simclr
from augment import AugmentConfig
from linear_eval import Features
from linear_eval.matching.search import nearest
from simclr.config import EncoderConfig
from simclr.data.decode import decode
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)

NOTES = ("labels: ", "no labels: ", "parts: ", "no test part: ", "classes that ", "the validation part ")
"""What the lines on a folder begin with; errors stand alone."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(script: Callable[[str], Command]) -> Command:
    """``command(*words)`` runs scripts/embed.py; gives its exit code, its output and its errors; with ``notes`` all lines."""
    embed = script("embed")

    def call(*words: object, notes: bool = False) -> tuple[int, str, str]:
        code, out, err = embed(*words)
        lines = err.splitlines(keepends=True)
        return code, out, "".join(line for line in lines if notes or not line.startswith(NOTES))

    return call


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder folder of its own: a narrow ResNet of random weights for images of 24 px."""
    config = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
    augment = AugmentConfig(size=24, mean=MEAN, std=STD)
    backbone = build_backbone(config, 24, seed=3)
    return export_encoder(backbone, tmp_path / "encoder", config=config, augment=augment, seed=3, training={})


def brute_force(encoder: Path, images: torch.Tensor) -> np.ndarray:
    """Features (N, F) float64 of uint8 images of 24 px, one image at a time."""
    backbone = simclr.load_encoder(encoder).backbone.double()
    mean, std = torch.tensor(MEAN).double().view(3, 1, 1), torch.tensor(STD).double().view(3, 1, 1)
    with torch.no_grad():
        return torch.cat([backbone(((image.double() / 255 - mean) / std)[None]) for image in images]).numpy()


def expected(encoder: Path, folder: Path, keep: Callable[[Path], bool] = lambda path: True) -> dict[str, np.ndarray]:
    """Path below ``folder`` -> features, of every file, in the order of the paths."""
    paths = sorted(path for path in folder.rglob("*.png") if keep(path))
    found = brute_force(encoder, torch.stack([decode(path, 24) for path in paths]))
    return {str(path.relative_to(folder)): row for path, row in zip(paths, found, strict=True)}


def source(folder: Path) -> list[object]:
    return ["--data.source", "folder", "--data.path", folder]


def test_npz_holds_every_image_with_its_path_and_label(command: Command, encoder: Path, image_folder: Path) -> None:
    out = encoder.parent / "new" / "features.npz"
    code, said, err = command(encoder, *source(image_folder), "--out", out, "--batch-size", 7)
    assert (code, err) == (0, "")
    assert said == f"24 images, 8 features, 24 labels\nwrote {out}\n"
    wanted = expected(encoder, image_folder)
    with np.load(out, allow_pickle=False) as found:
        assert set(found) == {"features", "index", "labels", "classes", "paths"}
        assert found["paths"].tolist() == list(wanted)
        assert found["features"].dtype == np.float32
        np.testing.assert_allclose(found["features"], list(wanted.values()), rtol=1e-4, atol=1e-5)
        assert [found["classes"][y] for y in found["labels"]] == [path.split("/")[0] for path in wanted]
        assert found["labels"].dtype == np.int64 and found["index"].tolist() == list(range(24))


def test_parquet_has_a_row_an_image(command: Command, encoder: Path, image_folder: Path) -> None:
    out = encoder.parent / "features.parquet"
    assert command(encoder, *source(image_folder), "--out", out, "--normalise")[0] == 0
    wanted = expected(encoder, image_folder)
    unit = np.array([row / np.linalg.norm(row) for row in wanted.values()])
    table = pq.read_table(out)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[8]"
    assert table["path"].to_pylist() == list(wanted)
    assert table["label"].to_pylist() == [path.split("/")[0] for path in wanted]
    np.testing.assert_allclose(table["embedding"].to_pylist(), unit, rtol=1e-4, atol=1e-5)
    assert command(encoder, *source(image_folder), "--data.labels", "none", "--out", out)[0] == 0
    assert pq.read_table(out)["label"].to_pylist() == [None] * 24


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_parquet_has_thumbnails_as_datasets_has_them(
    resident: str, command: Command, encoder: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linear_eval.features.parquet.ROW_GROUP", 10)
    out = encoder.parent / "features.parquet"
    words = ["--thumbnails", 16, "--data.device-resident", resident, "--data.workers", 0]
    assert command(encoder, *source(image_folder), "--out", out, *words)[0] == 0
    wanted = expected(encoder, image_folder)
    file = pq.ParquetFile(out)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 4]
    table = file.read()
    assert table["path"].to_pylist() == list(wanted)
    np.testing.assert_allclose(table["embedding"].to_pylist(), list(wanted.values()), rtol=1e-4, atol=1e-5)
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    described = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(described) == table.column_names and described["image"] == {"_type": "Image"}
    for path, image in zip(wanted, table["image"].to_pylist(), strict=True):
        assert image["path"] == path
        shown = Image.open(io.BytesIO(image["bytes"]))
        whole = decode(image_folder / path, 24).permute(1, 2, 0).numpy()
        smaller = np.asarray(Image.fromarray(whole).resize((16, 16), Image.Resampling.BILINEAR)).astype(float)
        assert (shown.format, shown.size, shown.mode) == ("JPEG", (16, 16), "RGB")
        assert np.abs(np.asarray(shown).astype(float).mean((0, 1)) - smaller.mean((0, 1))).max() < 4
    assert command(encoder, *source(image_folder), "--out", out, "--thumbnails", 100)[0] == 0
    first = pq.read_table(out)["image"][0].as_py()
    assert Image.open(io.BytesIO(first["bytes"])).size == (24, 24)  # not made larger than it was embedded
    assert pq.ParquetFile(out).metadata.num_row_groups == 3


def test_a_disk_that_has_no_room_for_thumbnails_is_one_line(
    command: Command, encoder: Path, image_folder: Path, small_disk: Any
) -> None:
    out = encoder.parent / "new" / "features.parquet"
    before = sorted(encoder.parent.rglob("*"))
    with small_disk(1000):
        code, said, err = command(encoder, *source(image_folder), "--out", out, "--thumbnails", 16)
    assert (code, said) == (2, "")
    assert err.startswith(f"error: {out} could not be written (File too large)") and err.count("\n") == 1
    assert sorted(encoder.parent.rglob("*")) == before


def test_a_folder_is_what_linear_eval_reads(command: Command, encoder: Path, image_folder: Path) -> None:
    out = encoder.parent / "features"
    for resident in ("yes", "no"):  # the second writes over the first
        code, said, _ = command(
            encoder, *source(image_folder), "--out", out, "--data.device-resident", resident, "--data.workers", 0
        )
        assert code == 0 and f"wrote {out}\nwrote {out}.csv\n" in said
        wanted = expected(encoder, image_folder)
        features = Features.load(out)
        np.testing.assert_allclose(features.x.numpy(), list(wanted.values()), rtol=1e-4, atol=1e-5)
        with out.with_suffix(".csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == list(wanted)
        assert [row["label"] for row in rows] == [path.split("/")[0] for path in wanted]
        assert {row["label"]: int(y) for row, y in zip(rows, features.y, strict=True)} == {"cats": 0, "dogs": 1}


def test_parts_of_a_set_without_files(command: Command, encoder: Path) -> None:
    out = encoder.parent / "digits.npz"
    digits = load_digits()
    count = {}
    for part in ("train", "test", "all"):
        code, _, err = command(encoder, "--data.source", "digits", "--data.size", 24, "--part", part, "--out", out)
        assert code == 0, err
        with np.load(out) as found:
            count[part] = len(found["features"])
            names, labels = found["paths"].tolist(), found["labels"]
        assert len(set(names)) == count[part]
    assert count["all"] == len(digits.target) == count["train"] + count["test"]
    assert np.bincount(labels).tolist() == np.bincount(digits.target).tolist()
    assert (names[0], names[count["train"] - 1], names[count["train"]]) == (
        "train/0",
        f"train/{count['train'] - 1}",
        "test/0",
    )


def test_own_parts_are_joined_in_the_order_of_paths(command: Command, encoder: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for number, place in enumerate(["train/b", "train/c", "train/b", "val/c", "val/a", "val/b"]):
        (root / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (40 * number, 9, 200)).save(root / place / f"{number}.png")
    assert command(encoder, *source(root), "--out", tmp_path / "f.npz")[0] == 0
    wanted = expected(encoder, root)
    with np.load(tmp_path / "f.npz") as found:
        assert found["paths"].tolist() == list(wanted)
        np.testing.assert_allclose(found["features"], list(wanted.values()), rtol=1e-4, atol=1e-5)
        # "a" is not a class of training: its number comes after theirs.
        assert found["classes"].tolist() == ["b", "c", "a"]
        assert [found["classes"][y] for y in found["labels"]] == [path.split("/")[1] for path in wanted]


def test_the_first_lines_say_what_the_folder_is_taken_for(command: Command, encoder: Path, image_folder: Path) -> None:
    code, _, err = command(encoder, *source(image_folder), "--out", image_folder.parent / "z.npz", notes=True)
    assert code == 0, err
    assert err.startswith("labels: 2 classes, the first sub-folders; below them are 1 folder more"), err


def test_images_of_a_third_part_are_said(command: Command, encoder: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for place in ("train/b/1", "train/c/2", "test/b/3", "val/b/4", "val/c/5", "masks/6", ".thumbnails/7"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24)).save((root / place).with_suffix(".png"))
    said = command(encoder, *source(root), "--out", tmp_path / "f.npz")[1]
    # A part of its own is embedded too; classes are numbered as in training, in whichever part an image is.
    assert said.startswith("5 images, 8 features, 5 labels\nin neither part and not embedded: 1 images;")
    with np.load(tmp_path / "f.npz") as found:
        assert found["labels"].tolist() == [0, 0, 1, 0, 1] and found["paths"][0] == "test/b/3.png"
    assert "neither" not in command(encoder, *source(root), "--part", "test", "--out", tmp_path / "f.npz")[1]
    assert "neither" not in command(encoder, *source(root / "val"), "--out", tmp_path / "f.npz")[1]


@pytest.mark.parametrize("out", ["f.npz", "f.parquet", "folder"])
@pytest.mark.parametrize("resident", ["yes", "no"])
def test_broken_files_end_it_with_nothing_written_or_are_left_out(
    out: str, resident: str, command: Command, encoder: Path, image_folder: Path
) -> None:
    (image_folder / "cats" / "broken.png").write_text("no image")
    before = sorted(encoder.parent.rglob("*"))
    words = [encoder, *source(image_folder), "--out", encoder.parent / out, "--data.device-resident", resident]
    words += ["--data.workers", 0, "--batch-size", 5]
    code, said, err = command(*words)
    assert (code, said) == (2, "")
    assert "broken.png" in err and err.count("\n") == 1
    assert sorted(encoder.parent.rglob("*")) == before
    code, said, err = command(*words, "--data.broken", "skip")
    assert (code, err) == (0, "")
    lines = said.splitlines()[:3]
    assert lines[0] == "24 images, 8 features, 24 labels"
    assert lines[1:] == ["left out, since they do not decode: 1", f"  {image_folder}/cats/broken.png"]
    if out == "f.npz":
        wanted = expected(encoder, image_folder, lambda path: path.name != "broken.png")
        with np.load(encoder.parent / out) as found:
            assert found["paths"].tolist() == list(wanted)
            np.testing.assert_allclose(found["features"], list(wanted.values()), rtol=1e-4, atol=1e-5)


def test_a_file_that_a_worker_cannot_read_is_one_line(command: Command, encoder: Path, image_folder: Path) -> None:
    (image_folder / "cats" / "broken.png").write_text("no image")
    words = ["--data.device-resident", "no", "--data.workers", 2, "--batch-size", 5]
    code, said, err = command(encoder, *source(image_folder), "--out", encoder.parent / "folder", *words)
    assert (code, said) == (2, "")
    assert err == f"error: {image_folder}/cats/broken.png: not an image that can be read\n"
    assert not (encoder.parent / "folder").exists()


def test_queries_print_their_nearest_images(command: Command, encoder: Path, image_folder: Path) -> None:
    queries = [image_folder / "cats" / "01.png", image_folder / "dogs" / "deep" / "er" / "04.png"]
    code, said, err = command(encoder, *source(image_folder), "--query", *queries, "--k", 3)
    assert (code, err) == (0, "")
    wanted = expected(encoder, image_folder)
    x = np.array([row / np.linalg.norm(row) for row in wanted.values()])
    lines = said.splitlines()[1:]
    for query in queries:
        assert lines.pop(0) == f"nearest to {query}, cosine and image:"
        cosines = x @ x[list(wanted).index(str(query.relative_to(image_folder)))]
        printed = [lines.pop(0).split(maxsplit=1) for _ in range(3)]
        shown = np.array([float(cosine) for cosine, _ in printed])
        # Cosines that agree in every printed digit may stand in either order.
        np.testing.assert_allclose(shown, np.sort(cosines)[::-1][:3], atol=1e-4)
        np.testing.assert_allclose(shown, [cosines[list(wanted).index(name)] for _, name in printed], atol=1e-4)
        assert len({name for _, name in printed}) == 3
    assert lines == []


@pytest.mark.parametrize("values", [7, 100, 1 << 22])
def test_nearest_is_scikit_learns(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linear_eval.features.rows.PART_VALUES", values)
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.randn(57, 6, generator=generator), torch.randn(4, 6, generator=generator)
    cosines, rows = nearest(queries, x, k=9)
    distances, wanted = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(x).kneighbors(queries)
    assert rows.tolist() == wanted.tolist()
    np.testing.assert_allclose(cosines.numpy(), 1 - distances, atol=1e-6)
    # Equals in the order of their rows, and no more than there are.
    assert nearest(queries[:1], queries[:1].repeat(5, 1), k=9)[1].tolist() == [[0, 1, 2, 3, 4]]


def test_features_that_are_not_finite_are_refused(command: Command, encoder: Path, image_folder: Path) -> None:
    tensors = load_file(encoder / "encoder.safetensors")
    save_file(tensors | {"bn1.bias": torch.full_like(tensors["bn1.bias"], 3e38)}, encoder / "encoder.safetensors")
    described = json.loads((encoder / "encoder.json").read_text())
    del described["sha256"]
    (encoder / "encoder.json").write_text(json.dumps(described))
    before = sorted(encoder.parent.rglob("*"))
    code, said, err = command(encoder, *source(image_folder), "--out", encoder.parent / "folder")
    assert (code, said) == (2, "")
    assert "the features of cats/01.png are NaN or infinite" in err and err.count("\n") == 1
    assert sorted(encoder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--out", "f.npz"], "the run is 'nowhere': there is no such file or folder"),
        (["--out", "f.npz"], "expected the run to embed with"),
        (["RUN", *source(Path("PICTURES"))], "name a file with --out, or images with --query"),
        (["RUN", "--out", "f.csv"], "expected a file .npz or .parquet"),
        (["RUN", "--out", "f.npz", "--thumbnails", "64"], "thumbnails go into a .parquet, and out is f.npz"),
        (["RUN", "--out", "f.parquet", "--thumbnails", "4"], "thumbnails is 4; it must be from 8 to 1024 pixels"),
        (["RUN", "--out", "f.npz", "--kk", "3"], "unknown flag --kk"),
        (["RUN", "--out", "f.npz", "--k", "0"], "at least 1"),
        (["RUN", "--out", "f.npz", "--data.source", "folder"], "data.path is not set"),
        (["RUN", *source(Path("nowhere")), "--out", "f.npz"], "the folder nowhere does not exist"),
        (["RUN", *source(Path("PICTURES")), "--query", "nothing.png"], "nothing.png"),
        (["RUN", *source(Path("PICTURES")), "--out", "PICTURES"], "holds files that are no features"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    words: list[object],
    said: str,
    command: Command,
    encoder: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(encoder.parent)
    before = sorted(encoder.parent.rglob("*"))
    places = {"RUN": encoder, "PICTURES": image_folder}
    code, out, err = command(*(places.get(str(word), word) for word in words))
    assert (code, out) == (2, "")
    assert said in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(encoder.parent.rglob("*")) == before
