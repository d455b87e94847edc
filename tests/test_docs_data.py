"""docs/data.md row by row: what it says of each kind of folder, file and name is so."""

import io
import json
import os
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from augment import AugmentConfig
from linear_eval.reports.closed import write_report
from simclr.command_line import parse_command
from simclr.config import DataConfig
from simclr.config.yaml import config_fields
from simclr.data import Batches, EpochSampler, ImageSet, load_source, place
from simclr.data.check import check_folder
from simclr.data.cut import CropPlan, Cut
from simclr.errors import ConfigError, DataError
from simclr.names import drawable, printable

PAGE = Path(__file__).parent.parent / "docs" / "data.md"
ROWS = {
    cells[0]: cells[1:]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and (cells := [cell.strip() for cell in line.strip("|").split(" |")])[0] != "row"
}
"""Row -> what is there, what becomes of it, setting, refused."""

EXAMPLES: dict[str, Callable[[Path], object]] = {}
"""Row -> what makes the example in a folder and looks at it; it raises what is refused, at its end."""


def example(function: Callable[[Path], object]) -> Callable[[Path], object]:
    EXAMPLES[function.__name__.removeprefix("_").replace("_", "-")] = function
    return function


def test_every_row_has_an_example_and_every_example_a_row() -> None:
    assert list(EXAMPLES) == list(ROWS)
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == len(ROWS) + lines.count("| row | what is there | what becomes of it | setting | refused |")


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table_is_so(row: str, tmp_path: Path) -> None:
    _, _, settings, refused = ROWS[row]
    assert set(re.findall(r"`data\.(\w+)`", settings)) <= set(config_fields(DataConfig))
    if not refused:
        EXAMPLES[row](tmp_path)
        return
    with pytest.raises((ConfigError, DataError)) as error:
        EXAMPLES[row](tmp_path)
    (words,) = re.findall(r"`([^`]+)`", refused)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


def noise(seed: int, height: int = 20, width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, count: int = 4, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        noise(i).save(folder / f"{i}.png")
    return folder


def settings(path: Path, **others: Any) -> DataConfig:
    return DataConfig(path=path, **{"source": "folder", "size": 16, **others})


def train(path: Path, **others: Any) -> ImageSet:
    return load_source(settings(path, **others), "train")


def test(path: Path, **others: Any) -> ImageSet:
    return load_source(settings(path, **others), "test")


test.__test__ = False  # type: ignore[attr-defined]


def decoded(path: Path, name: str, **others: Any) -> Tensor:
    """The image of the file ``name`` in a folder of at least two, uint8 (C, size, size)."""
    for part in (train(path, **others), test(path, **others)):
        for number, file in enumerate(part.paths or ()):
            if file.name == name:
                return part[number][0]
    raise AssertionError(f"{name} is in no part")


def names(images: ImageSet) -> set[str]:
    return {path.name for path in images.paths or ()}


@example
def _flat(folder: Path) -> None:
    images = train(fill(folder, 10))
    assert images.labels is None and len(images) == 8 and len(test(folder, test_fraction=0.5)) == 5
    for path in list(folder.iterdir())[1:]:
        path.unlink()
    train(folder)


@example
def _classes(folder: Path) -> None:
    fill(folder / "cat" / "deep" / "er", 5)
    fill(folder / "dog", 10, 5)
    images, held = train(folder), test(folder)
    assert images.classes == ("cat", "dog") and images.labels is not None and held.labels is not None
    assert images.labels.bincount().tolist() == [4, 8] and held.labels.bincount().tolist() == [1, 2]


@example
def _parts(folder: Path) -> None:
    fill(folder / "train" / "cat")
    fill(folder / "train" / "dog", 4, 4)
    fill(folder / "test" / "cat", 1, 8)
    fill(folder / "test" / "dog", 2, 9)
    held = test(folder)
    assert len(train(folder)) == 8 and held.labels is not None and held.labels.tolist() == [0, 1, 1]


@example
def _part_names(folder: Path) -> None:
    for number, form in enumerate(("{part}/{name}", "photos/{part}/{name}", "{name}/{part}")):
        root = folder / f"form{number}"
        for start, part in ((0, "Training_Set"), (20, "test-images")):
            for i, name in enumerate(("cat", "dog")):
                fill(root / form.format(part=part, name=name), 3, start + 3 * i)
        images, held = train(root), test(root)
        assert len(images) == len(held) == 6 and images.classes == ("cat", "dog")
        assert names(held) == {f"{i}.png" for i in range(20, 26)}


@example
def _own_validation(folder: Path) -> None:
    for start, part in ((0, "train"), (10, "val"), (20, "test")):
        for i, name in enumerate(("cat", "dog")):
            fill(folder / part / name, 3, start + 3 * i)
    assert len(train(folder)) == len(test(folder)) == 6
    assert names(load_source(settings(folder), "validation")) == {f"{i}.png" for i in range(10, 16)}
    assert any("gives way to the validation part" in note for note in train(folder, validation=0.1).notes)
    shutil.rmtree(folder / "test")
    assert names(test(folder)) == {f"{i}.png" for i in range(10, 16)}


@example
def _unlabeled(folder: Path) -> None:
    fill(folder / "train" / "cat")
    fill(folder / "train" / "dog", 4, 4)
    fill(folder / "unlabeled", 3, 20)
    images = train(folder)
    assert images.labels is not None and {"20.png", "21.png", "22.png"} <= names(images)
    assert int((images.labels < 0).sum()) == 3 and not names(test(folder)) & {"20.png", "21.png", "22.png"}
    (folder / "train" / "cat").rename(folder / "cat")
    (folder / "train" / "dog").rename(folder / "dog")
    (folder / "train").rmdir()
    images = train(folder)
    assert images.labels is not None and images.classes == ("cat", "dog") and int((images.labels < 0).sum()) == 3


@example
def _wrapper(folder: Path) -> None:
    fill(folder / "images" / "cat")
    fill(folder / "images" / "dog", 4, 4)
    images = train(folder)
    assert images.classes == ("cat", "dog") and any("one level down are 2 classes" in note for note in images.notes)


@example
def _stray(folder: Path) -> None:
    fill(folder / "cat", 6)
    fill(folder / "dog", 6, 6)
    noise(50).save(folder / "overview.png")
    images = train(folder)
    assert images.classes == ("cat", "dog") and any("overview.png" in note for note in images.notes)


def _alphabets(folder: Path) -> None:
    for number, where in enumerate(("greek/alpha", "greek/beta", "latin/a")):
        fill(folder / where, 4, 4 * number)


@example
def _last_folder(folder: Path) -> None:
    _alphabets(folder)
    assert train(folder, labels="last").classes == ("a", "alpha", "beta")
    assert train(folder).classes == ("greek", "latin")


@example
def _whole_path(folder: Path) -> None:
    _alphabets(folder)
    assert train(folder, labels="path").classes == ("greek/alpha", "greek/beta", "latin/a")


@example
def _endings(folder: Path) -> None:
    fill(folder)
    for name in ("a.dcm", "b.dcm", "film.mp4", "c.unheard-of", "notes.txt", "LICENSE"):
        (folder / name).write_bytes(b"x")
    shutil.copy(folder / "0.png", folder / "IMG_0001")
    said = "left out: 2 .dcm, 1 without an ending, 1 .unheard-of, 1 .mp4, which are not read"
    assert any(said in note for note in train(folder).notes)


@example
def _labels_off(folder: Path) -> None:
    fill(folder / "2024")
    fill(folder / "2025", 4, 4)
    assert train(folder).labels is not None and train(folder, labels="none").labels is None


@example
def _hidden(folder: Path) -> None:
    fill(folder / ".thumbs", 2, 10)
    fill(folder)
    noise(20).save(folder / "._x.png")
    assert names(train(folder)) | names(test(folder)) == {"0.png", "1.png", "2.png", "3.png"}


@example
def _circles(folder: Path) -> None:
    fill(folder / "a")
    (folder / "a" / "up").symlink_to(folder)
    assert len(train(folder)) + len(test(folder)) == 4


@example
def _few_images(folder: Path) -> None:
    fill(folder / "cat", 30)
    fill(folder / "dog", 6, 40)
    assert any(
        "few to tell what is learned of them: dog (6)" in line for line in check_folder(settings(folder)).lines()
    )


@example
def _nothing(folder: Path) -> None:
    (folder / "notes.txt").write_text("none")
    train(folder)


@example
def _label_column(folder: Path) -> None:
    fill(folder, 10)
    file = folder / "labels.csv"
    file.write_text("path,label\n" + "".join(f"{i}.png,{'odd' if i % 2 else 'even'}\n" for i in range(10)))
    images = train(folder, labels=file)
    assert images.labels is not None and images.paths is not None
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        assert images.classes[label] == ("odd" if int(path.stem) % 2 else "even")
    file.write_text(f"{file.read_text()}99.png,odd\n")
    train(folder, labels=file)


@example
def _value_column(folder: Path) -> None:
    fill(folder, 10)
    file = folder / "values.csv"
    file.write_text("path,value\n" + "".join(f"{i}.png,{i / 4}\n" for i in range(10)))
    images = train(folder, labels=file)
    assert images.values is not None and images.paths is not None
    assert images.values.tolist() == [int(path.stem) / 4 for path in images.paths]
    file.write_text("path,value\n0.png,red\n")
    train(folder, labels=file)


def _labels(folder: Path, file: Path) -> dict[str, str | None]:
    """Name of each image -> its class, as the file says."""
    parts = [part(folder, labels=file) for part in (train, test)]
    return {
        path.name: None if label < 0 else part.classes[label]
        for part in parts
        if part.labels is not None
        for path, label in zip(part.paths or (), part.labels.tolist(), strict=True)
    }


@example
def _any_table(folder: Path) -> None:
    fill(folder, 4)
    rows = [{"Width": 20, "category": "ab"[i % 2], "file_name": f"{i}.png"} for i in range(4)]
    (folder / "a.csv").write_text(
        "Width,category,file_name\n" + "".join(f"20,{'ab'[i % 2]},{i}.png\n" for i in range(4))
    )
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    for file in ("a.csv", "a.jsonl", "a.parquet"):
        assert _labels(folder, folder / file) == {f"{i}.png": "ab"[i % 2] for i in range(4)}
    (folder / "a.csv").write_text("width,height\n1,2\n")
    train(folder, labels=folder / "a.csv")


@example
def _brought_along(folder: Path) -> None:
    fill(folder, 4)
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{i}.png", "label": "ab"[i % 2]}) + "\n" for i in range(4))
    )
    images = train(folder)
    assert images.classes == ("a", "b") and any("metadata.jsonl" in note for note in images.notes)
    assert train(folder, labels="none").labels is None
    assert sum("metadata.jsonl" in line for line in check_folder(settings(folder)).lines()) == 1


@example
def _part_column(folder: Path) -> None:
    fill(folder, 6)
    rows = "file_name,label,split\n" + "".join(
        f"{i}.png,{'ab'[i % 2]},{'test' if i > 3 else 'Train'}\n" for i in range(6)
    )
    (folder / "metadata.csv").write_text(rows)
    assert names(train(folder)) == {"0.png", "1.png", "2.png", "3.png"} and names(test(folder)) == {"4.png", "5.png"}
    (folder / "metadata.csv").write_text(rows.replace("Train", "Moon"))
    train(folder)


@example
def _no_label(folder: Path) -> None:
    fill(folder, 7)
    cells = ["cat", "", "nan", "None", "dog", "cat", "null"]
    (folder / "a.csv").write_text("path,label\n" + "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells)))
    said = _labels(folder, folder / "a.csv")
    assert [said[f"{i}.png"] for i in range(7)] == ["cat", None, None, None, "dog", "cat", None]


@example
def _one_hot(folder: Path) -> None:
    fill(folder, 4)
    bits = "".join(f"{i}.png,{int(i < 2)},{int(i >= 2)}\n" for i in range(4))
    (folder / "a.csv").write_text(f"image,cat,dog\n{bits}")
    assert _labels(folder, folder / "a.csv") == {"0.png": "cat", "1.png": "cat", "2.png": "dog", "3.png": "dog"}


@example
def _quality(folder: Path) -> None:
    fill(folder, 4)
    (folder / "a.csv").write_text("path,label,quality\n" + "".join(f"{i}.png,{i % 2},{i / 4}\n" for i in range(4)))
    images = train(folder, labels=folder / "a.csv")
    assert images.values is not None
    assert images.values.tolist() == [int(path.stem) / 4 for path in images.paths or ()]
    (folder / "a.csv").write_text("path,label,quality\n0.png,cat,80\n1.png,dog,90\n")
    train(folder, labels=folder / "a.csv")


@example
def _said_twice(folder: Path) -> None:
    fill(folder, 4)
    rows = "path,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in (0, 1, 2, 3, 0, 1))
    (folder / "a.csv").write_text(rows)
    assert _labels(folder, folder / "a.csv")["0.png"] == "a"
    (folder / "a.csv").write_text(f"{rows}0.png,b\n")
    train(folder, labels=folder / "a.csv")


@example
def _several_labels(folder: Path) -> None:
    fill(folder, 4)
    (folder / "a.csv").write_text("path,label\n0.png,cat|animal\n1.png,dog|animal\n2.png,cat\n3.png,dog\n")
    train(folder, labels=folder / "a.csv")


@example
def _upright(folder: Path) -> None:
    fill(folder)
    half = np.zeros((16, 16, 3), dtype=np.uint8)
    half[:, :8] = 255  # white on the left
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise: the left becomes the top
    Image.fromarray(half).save(folder / "turned.png", exif=exif)
    pixels = decoded(folder, "turned.png")
    assert bool((pixels[:, :8] == 255).all()) and bool((pixels[:, 8:] == 0).all())


@example
def _transparent(folder: Path) -> None:
    fill(folder)
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(folder / "rgba.png")
    Image.new("LA", (16, 16), (0, 0)).save(folder / "la.png")
    Image.new("P", (16, 16), 0).save(folder / "p.png", transparency=0)
    for name in ("rgba.png", "la.png", "p.png"):
        assert bool((decoded(folder, name) == 255).all())


@example
def _palette(folder: Path) -> None:
    fill(folder)
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    red.quantize(4).save(folder / "p.png")
    Image.new("1", (16, 16), 1).save(folder / "bit.png")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "cmyk.tif")
    for name in ("p.png", "cmyk.tif"):
        assert decoded(folder, name)[:, 0, 0].tolist() == [255, 0, 0]
    assert bool((decoded(folder, "bit.png") == 255).all())


@example
def _ending(folder: Path) -> None:
    fill(folder)
    Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "png.jpg", format="PNG")
    Image.new("RGB", (16, 16), (128, 128, 128)).save(folder / "shout.JPEG")
    assert decoded(folder, "png.jpg")[:, 0, 0].tolist() == [1, 2, 3]
    assert decoded(folder, "shout.JPEG")[:, 0, 0].tolist() == [128, 128, 128]


def _with_a_broken_file(folder: Path) -> None:
    fill(folder, 5)
    whole = (folder / "0.png").read_bytes()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(whole[: len(whole) // 2] if number == 0 else whole)


@example
def _broken(folder: Path) -> None:
    _with_a_broken_file(folder)
    config = settings(folder)
    assert [path.name for path in check_folder(config).broken] == ["0.png"]
    everything = load_source(config, "train").joined(load_source(config, "test"))
    everything.subset(
        torch.tensor([i for i, path in enumerate(everything.paths or ()) if path.name != "1.png"])
    ).resident(torch.device("cpu"))


@example
def _broken_skip(folder: Path) -> None:
    _with_a_broken_file(folder)
    everything = train(folder, broken="skip").joined(test(folder, broken="skip"))
    assert names(everything.resident(torch.device("cpu"))) == {"1.png", "2.png", "3.png", "4.png"}


@example
def _check_sum(folder: Path) -> None:
    fill(folder)
    content = bytearray((folder / "1.png").read_bytes())
    content[content.index(b"IDAT") + 30] ^= 16
    (folder / "1.png").write_bytes(content)
    decoded(folder, "1.png")


@example
def _irregular(folder: Path) -> None:
    fill(folder)
    fill(folder / "album.jpg", 1, 10)
    assert "10.png" in names(train(folder)) | names(test(folder))
    os.mkfifo(folder / "pipe.jpg")
    decoded(folder, "pipe.jpg")


def _ramp(folder: Path, values: np.ndarray) -> None:
    """Three TIFFs of 16 x 16, each with all of the values in equal shares, the first value in the first rows."""
    folder.mkdir(exist_ok=True)
    rows = np.repeat(values, 256 // len(values)).reshape(16, 16)
    for number in range(3):
        Image.fromarray(rows).save(folder / f"{number}.tif")


@example
def _unit_floats(folder: Path) -> None:
    _ramp(folder, np.array([0, 0.2, 0.4, 1], dtype=np.float32))
    assert decoded(folder, "0.tif")[0, ::4, 0].tolist() == [0, 51, 102, 255]


@example
def _twelve_bits(folder: Path) -> None:
    _ramp(folder, np.array([0, 819, 1638, 4095], dtype=np.uint16))
    dim = np.full((16, 16), 819, dtype=np.uint16)
    Image.fromarray(dim).save(folder / "dim.tif")
    assert decoded(folder, "0.tif")[0, ::4, 0].tolist() == [0, 51, 102, 255]
    assert decoded(folder, "dim.tif").unique().tolist() == [51]


@example
def _deep(folder: Path) -> None:
    _ramp(folder, np.array([0, 13107, 26214, 65535], dtype=np.uint16))
    assert decoded(folder, "0.tif")[0, ::4, 0].tolist() == [0, 51, 102, 255]
    # A colour of 16 bits, which Pillow cannot write: PNG's own bytes, one row of two pixels, 16 rows.
    row = b"\0" + struct.pack(">6H", 65535, 257 * 7, 0, 0, 257 * 9, 65535) * 8
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * 16)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (folder / "colour.png").write_bytes(png)
    assert decoded(folder, "colour.png")[:, 0, :2].T.tolist() == [[255, 7, 0], [0, 9, 255]]


@example
def _not_finite(folder: Path) -> None:
    _ramp(folder, np.array([0.4, np.nan, np.inf, -np.inf], dtype=np.float32))
    Image.fromarray(np.ones((16, 16), dtype=np.float32)).save(folder / "white.tif")
    assert decoded(folder, "0.tif")[0, ::4, 0].tolist() == [102, 0, 255, 0]


@example
def _signed(folder: Path) -> None:
    _ramp(folder, np.array([-1000, -490, 20, 1550], dtype=np.int32))
    assert decoded(folder, "0.tif")[0, ::4, 0].tolist() == [0, 51, 102, 255]


@example
def _given_range(folder: Path) -> None:
    _ramp(folder, np.array([0, 100, 150, 1000], dtype=np.uint16))
    assert decoded(folder, "0.tif", value_range=(100.0, 200.0))[0, ::4, 0].tolist() == [0, 0, 128, 255]
    settings(folder, value_range=(200.0, 100.0))


@example
def _percentiles(folder: Path) -> None:
    rows = np.full((100, 100), 500, dtype=np.uint16)
    rows[:50] = 0
    rows[0, :3] = 65535
    for number in range(3):
        Image.fromarray(rows).save(folder / f"{number}.tif")
    assert decoded(folder, "0.tif", value_range="percentiles")[0, -1].unique().tolist() == [255]
    assert int(decoded(folder, "0.tif")[0, -1].max()) == 2  # of the range of all values


@example
def _white_is_zero(folder: Path) -> None:
    fill(folder)
    Image.new("L", (16, 16), 255).save(folder / "white.tif", tiffinfo={262: 0})
    data = (folder / "white.tif").read_bytes()
    with Image.open(folder / "white.tif") as image:
        turned_round = image.tag_v2[262] == 0  # type: ignore[attr-defined]
    expected = 0 if turned_round and b"\xff\xff" in data else 255
    assert decoded(folder, "white.tif").unique().tolist() in ([expected], [255 - expected]) and turned_round


@example
def _few_levels(folder: Path) -> None:
    fill(folder)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "flat.png")
    dark = np.random.default_rng(0).integers(0, 16, (20, 20), dtype=np.uint8)
    Image.fromarray(dark).save(folder / "dark.png")
    lines = check_folder(settings(folder)).lines()
    assert sum("flat.png: constant image" in line for line in lines) == 1
    assert sum("dark.png: few levels are used" in line for line in lines) == 1


@example
def _gray(folder: Path) -> None:
    fill(folder)
    Image.new("L", (16, 16), 77).save(folder / "gray.png")
    assert decoded(folder, "gray.png")[:, 0, 0].tolist() == [77, 77, 77]
    assert decoded(folder, "gray.png", channels=1)[:, 0, 0].tolist() == [77]


@example
def _bands(folder: Path) -> None:
    bands = np.tile(np.arange(5, dtype=np.uint8) * 50, (16, 16, 1))
    for number in range(3):
        np.save(folder / f"{number}.npy", bands[..., :4] if number == 0 else bands)
    assert decoded(folder, "1.npy", channels=5)[:, 3, 3].tolist() == [0, 50, 100, 150, 200]
    decoded(folder, "0.npy", channels=5)


def _stacks(folder: Path) -> None:
    fill(folder, 8)
    pages = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (10, 20, 30)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])


@example
def _first_page(folder: Path) -> None:
    _stacks(folder)
    assert decoded(folder, "stack.tif")[0].unique().tolist() == [10]
    assert any("several pages" in note for note in train(folder).notes + test(folder).notes)


@example
def _every_page(folder: Path) -> None:
    _stacks(folder)
    parts = [part(folder, pages="all") for part in (train, test)]
    assert sum(map(len, parts)) == 11
    rows = "".join(f"{i}.png,{i % 3}\n" for i in range(8))  # a group for all images but the stack
    (folder / "metadata.csv").write_text(f"file_name,person\n{rows}")
    assert sum("stack.tif" in names(part(folder, pages="all", group="person")) for part in (train, test)) == 1
    (whole,) = [part for part in parts if "stack.tif" in names(part)]
    shades = [int(whole[i][0][0, 0, 0]) for i, path in enumerate(whole.paths or ()) if path.name == "stack.tif"]
    assert sorted(shades) == [10, 20, 30]


@example
def _groups(folder: Path) -> None:
    for patient in range(8):
        fill(folder / "ab"[patient % 2] / f"patient{patient}", 3, 3 * patient)
    everything = [part(folder, group=r"patient\d+") for part in (train, test)]
    sides = [{path.parent.name for path in part.paths or ()} for part in everything]
    assert len(sides[1]) >= 2 and not sides[0] & sides[1]
    rows = "".join(f"{'ab'[p % 2]}/patient{p}/{3 * p + i}.png,{'ab'[p % 2]},{p}\n" for p in range(8) for i in range(3))
    (folder / "metadata.csv").write_text(f"file_name,label,person\n{rows}")
    sides = [{path.parent.name for path in part(folder, group="person").paths or ()} for part in (train, test)]
    assert len(sides[1]) >= 2 and not sides[0] & sides[1]
    fill(folder / "own" / "train" / "a", 6)
    fill(folder / "own" / "train" / "b", 6, 6)
    fill(folder / "own" / "test" / "a", 3, 4)
    fill(folder / "own" / "test" / "b", 3, 10)
    own = train(folder / "own", group=r"\d+\.png")
    assert any("5 groups are in training and in the test part, with 5 test images" in note for note in own.notes)
    train(folder, group="nobody")


@example
def _any_size(folder: Path) -> None:
    fill(folder)
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[:, :16], wide[:, 16:48], wide[:, 48:] = 50, 100, 150
    Image.fromarray(wide).save(folder / "wide.png")
    assert decoded(folder, "wide.png")[0, 8, [2, 8, -3]].tolist() == [100, 100, 100]
    padded = decoded(folder, "wide.png", fit="pad")
    assert padded[0, 0].unique().tolist() == [0] and padded[0, 8, [2, 8, -3]].tolist() == [50, 100, 150]
    assert decoded(folder, "wide.png", fit="stretch")[0, 0, [1, 8, -2]].tolist() == [50, 100, 150]


@example
def _crops(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[:, :14, 0] = 255  # red, where the middle square does not reach
    for number in range(10):
        Image.fromarray(wide).save(folder / f"{number}.png")
    images = train(folder)
    assert not images.resident(torch.device("cpu")).pixels[:, 0].any()  # type: ignore[index]
    plan = CropPlan(configs=(AugmentConfig(size=16),), ends=(), batch=8, seed=0)
    for where in ("yes", "no"):
        placed = place(images, torch.device("cpu"), where, shapes=True)  # type: ignore[arg-type]
        sampler = EpochSampler(images=len(placed), batch_size=8, seed=0)
        (batch,) = Batches(placed, sampler, torch.device("cpu"), start=0, stop=1, workers=0, plan=plan)
        assert isinstance(batch.images, Cut)
        assert float(batch.images.views[:, :, 0].float().max()) == (
            1 if batch.images.views.is_floating_point() else 255
        )


@example
def _small(folder: Path) -> None:
    fill(folder)
    Image.new("RGB", (5, 7), (1, 2, 3)).save(folder / "small.png")
    assert decoded(folder, "small.png").shape == (3, 16, 16)
    assert any("to be enlarged: 1 of 5 images" in line for line in check_folder(settings(folder)).lines())


@example
def _cut_badly(folder: Path) -> None:
    fill(folder)
    noise(9, 20, 50).save(folder / "long.png")
    assert any("shows less than half of 1 of 5 images" in line for line in check_folder(settings(folder)).lines())
    assert not check_folder(settings(folder, fit="pad")).cropped


@example
def _strip(folder: Path) -> None:
    fill(folder)
    strip = Image.new("RGB", (65_000, 1), (9, 9, 9))
    strip.paste((200, 0, 0), (32_000, 0, 33_000, 1))
    strip.save(folder / "strip.png")
    assert decoded(folder, "strip.png")[:, 8, 8].tolist() == [200, 0, 0]
    assert any("strip.png: 65000 x 1 px" in line for line in check_folder(settings(folder)).lines())


@example
def _large(folder: Path) -> None:
    fill(folder)
    noise(9, 40, 50).save(folder / "large.png")
    assert decoded(folder, "large.png", max_pixels=2_000).shape == (3, 16, 16)
    decoded(folder, "large.png", max_pixels=1_999)


@example
def _copies(folder: Path) -> None:
    fill(folder / "train" / "cat")
    fill(folder / "train" / "dog", 4, 4)
    fill(folder / "test" / "cat", 1, 8)
    fill(folder / "test" / "dog", 2, 9)
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "test" / "dog" / "leak.png")
    (group,) = check_folder(settings(folder)).duplicates
    lines = check_folder(settings(folder)).lines()
    assert {path.name for path in group} == {"0.png", "leak.png"}
    assert any("(several classes, training and test)" in line and "leak.png" in line for line in lines)


@example
def _near_copies(folder: Path) -> None:
    for part, seeds in (("train", range(8)), ("test", range(7, 10))):
        (folder / part / "a").mkdir(parents=True)
        for seed in seeds:
            shot = noise(seed, 20, 20).resize((64, 64), Image.Resampling.BICUBIC)
            if part == "test":
                shot = shot.resize((48, 48)).point(lambda value: int(0.9 * value))
            shot.save(folder / part / "a" / f"{part}{seed}.jpg")
    report = check_folder(settings(folder, size=32))
    assert [(test.name, train.name) for test, train in report.near] == [("test7.jpg", "train7.jpg")]


@example
def _scripts(folder: Path) -> None:
    shown = drawable(["кошка", "家猫", "cat"])
    assert shown in (["кошка", "class 1", "cat"], ["кошка", "家猫", "cat"])
    for name in ("кошка", "家猫", "قطة", "🐱"):
        fill(folder / name)
    images = train(folder)
    assert set(images.classes) == {"кошка", "家猫", "قطة", "🐱"}
    assert all(name in " ".join(check_folder(settings(folder)).lines()) for name in images.classes)


@example
def _codes(folder: Path) -> None:
    odd = ("a\nb", "\x1b[31m", "$\\x$", "[bold]", os.fsdecode(b"\xff"))
    assert [printable(name) for name in odd] == ["a\\nb", "\\x1b[31m", "$\\x$", "[bold]", "\\udcff"]
    for number, name in enumerate(odd):
        fill(folder / "pictures" / name, 4, 4 * number)
    assert all(line.isprintable() for line in check_folder(settings(folder / "pictures")).lines())
    count = len(odd)
    row = {"accuracy": 1.0, "interval": [0.9, 1.0], "classes": [*range(count)], "confusion": np.eye(count).tolist()}
    result = {
        "rows": {"encoder": {"linear": row, "knn": row}},
        "config": {"knn_k": 20},
        "data": {"test": {"name": odd[0], "images": count}, "classes": [*odd]},
    }
    assert all(file.exists() for file in write_report(result, folder / "report"))


@example
def _variables(folder: Path) -> None:
    (folder / "$odd").mkdir()
    previous = dict(os.environ)
    os.environ |= {"HOME": str(folder), "PICTURES": str(folder / "pictures")}
    try:
        for typed, meant in (
            ("~/a", "a"),
            ("$PICTURES/a", "pictures/a"),
            ("${PICTURES}", "pictures"),
            (f"{folder}/$odd", "$odd"),
        ):
            assert parse_command(["folder", "--data.path", typed], "a.py", "").data.path == folder / meant
            (folder / "a.yaml").write_text(f"preset: folder\ndata: {{path: '{typed}'}}\n")
            assert parse_command([str(folder / "a.yaml")], "a.py", "").data.path == folder / meant
            assert replace(settings(folder), path=Path(typed)).path == folder / meant
        parse_command(["folder", "--data.path", "$NO_SUCH_VARIABLE/a"], "a.py", "")
    finally:
        os.environ.clear()
        os.environ |= previous


def shard(file: Path, start: int = 0, count: int = 5, **beside: Callable[[int], str]) -> Path:
    """A tar of pictures with members of these endings beside each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for i in range(start, start + count):
            picture = io.BytesIO()
            noise(i).save(picture, "PNG")
            contents = {"png": picture.getvalue(), **{ending: say(i).encode() for ending, say in beside.items()}}
            for ending, content in contents.items():
                member = tarfile.TarInfo(f"{'owl' if i % 2 else 'wren'}/{i:03d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def packed(path: Path, **others: Any) -> ImageSet:
    return load_source(settings(path, **{"source": "shards", **others}), "train")


@example
def _shards(folder: Path) -> None:
    shard(folder / "some.tar", 0, 5, cls=lambda i: str(i % 2))
    shard(
        folder / "others.tar", 5, 5, json=lambda i: json.dumps({"category": i % 2, "group": i // 2, "split": "train"})
    )
    images = packed(folder)
    assert images.classes == ("0", "1") and len(images) == 8 and images.groups is not None
    packed(fill(folder / "no"))


@example
def _shard_names(folder: Path) -> None:
    for number in range(3):
        shard(folder / "a" / f"some-{number}.tar", 5 * number)
    for path, count in (("a", 12), ("a/some-1.tar", 4), ("a/some-[12].tar", 8), ("a/some-{0..1}.tar", 8)):
        assert len(packed(folder / path)) == count
    os.environ["SIMCLR_CACHE"] = str(folder / "cache")
    assert len(packed(Path(f"pipe:cat {folder}/a/some-{{0..1}}.tar"))) == 8
    packed(folder / "a" / "some-{0..9}.tar")


@example
def _shard_labels(folder: Path) -> None:
    file = shard(folder / "a.tar", json=lambda i: json.dumps({"age": i}))
    assert packed(file).classes == ("owl", "wren") and packed(file, labels="none").labels is None
    assert packed(file, labels=Path("age")).classes == ("0", "1", "2", "3", "4")
    packed(file, labels=Path("size"))


@example
def _shard_parts(folder: Path) -> None:
    shard(folder / "train-0.tar")
    shard(folder / "val-0.tar", 5, 3)
    assert len(packed(folder)) == 5 and len(test(folder, source="shards")) == 3


@example
def _shard_damaged(folder: Path) -> None:
    shard(folder / "a.tar")
    file = shard(folder / "b.tar", 5)
    file.write_bytes(file.read_bytes()[:5000])
    images = packed(folder, broken="skip", labels="none")
    assert len(images) == 5 and any("what follows its first 1 images is lost" in note for note in images.notes)
    packed(folder)


@example
def _tables(folder: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"bytes": path.read_bytes(), "path": None} for path in sorted(fill(folder / "files", 5).iterdir())]
    features = {"image": {"_type": "Image"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}
    said = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": rows, "label": [0, 1, 0, 1, 0]}).replace_schema_metadata(said)
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(table, folder / "test.parquet")
    images = packed(folder, source="parquet")
    assert len(images) == 5 and images.classes == ("b", "a") and images[0][0].shape == (3, 16, 16)
    (folder / "other").mkdir()
    pq.write_table(pa.table({"label": [1]}), folder / "other" / "some.parquet")
    packed(folder / "other", source="parquet")


@example
def _row_damaged(folder: Path) -> None:
    pytest.importorskip("datasets")
    contents: list[bytes | None] = [path.read_bytes() for path in sorted(fill(folder / "files", 5).iterdir())]
    pq.write_table(pa.table({"picture": [*contents, b"none", None]}), folder / "some.parquet")
    every = {"source": "parquet", "test_fraction": 0.2, "split_seed": 0}
    skipped = packed(folder / "some.parquet", broken="skip", **every)
    assert len(skipped.joined(test(folder / "some.parquet", **every)).intact()) == 5
    packed(folder / "some.parquet", **every).joined(test(folder / "some.parquet", **every)).resident(
        torch.device("cpu")
    )
