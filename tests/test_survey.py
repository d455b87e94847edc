"""What a set's values are taken for: one range for all its images, found before the first, and what is said about it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from simclr.config import DataConfig
from simclr.data import survey as module
from simclr.data.decode import Reader, page_count
from simclr.data.sources import load_source
from simclr.data.survey import expand_pages, pixel_faults, reader_for, survey
from simclr.errors import DataError

AUTO = DataConfig(source="folder", path=Path("unused"), size=16)


def written(folder: Path, images: list[np.ndarray], ending: str = "tif") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.{ending}" for number in range(len(images))]
    for path, image in zip(paths, images):
        if ending == "npy":
            np.save(path, image)
        elif ending == "png":
            Image.fromarray(image).save(path)
        else:
            tifffile.imwrite(path, image, photometric="minisblack")
    return paths


def spread(low: float, high: float, dtype: str, count: int = 3) -> list[np.ndarray]:
    """Images that together reach from ``low`` to ``high``, each a part of it."""
    edges = np.linspace(low, high, count + 1)
    return [np.linspace(a, b, 400).reshape(20, 20).astype(dtype) for a, b in pairwise(edges)]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 1, "float32", (0, 1)),
        (0.1, 0.6, "float32", (0, 1)),
        (0, 0.3, "float64", (0, 0.3)),
        (0, 255, "float32", (0, 255)),
        (0, 200, "int32", (0, 255)),
        (100, 4000, "uint16", (0, 4095)),
        (0, 1023, "uint16", (0, 1023)),
        (0, 16_000, "uint16", (0, 16_383)),
        (0, 60_000, "uint16", (0, 65_535)),
        (0, 1_500, "uint16", (0, 1_500)),
        (0, 1_000_000, "uint32", (0, 1_000_000)),
        (-1, 1, "float32", (-1, 1)),
        (-0.9, 0.8, "float32", (-1, 1)),
        (-0.25, 0.75, "float32", (-0.25, 0.75)),
        (-1024, 3071, "int16", (-1024, 3071)),
        (-5, -1, "int8", (-5, -1)),
    ],
)
@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_one_range_is_found_for_the_whole_set(
    low: float, high: float, dtype: str, expected: tuple[float, float], ending: str, tmp_path: Path
) -> None:
    paths = written(tmp_path, spread(low, high, dtype), ending)
    reader, notes = reader_for(paths, AUTO)
    assert reader.value_range == pytest.approx(expected, rel=1e-7)
    assert len(notes) == 1 and "--data.value-range" in notes[0] and dtype in notes[0]
    # Each image is read by it, the darkest and the brightest alike.
    for path, image in zip(paths, spread(low, high, dtype)):
        share = (image.astype(np.float64) - reader.value_range[0]) / (reader.value_range[1] - reader.value_range[0])
        assert np.array_equal(reader.read(path)[0][0].numpy(), np.rint(share * 255).astype(np.uint8))


def test_12_bits_in_a_png_of_16_have_all_the_gray_levels(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    reader, notes = reader_for(written(tmp_path, [values], "png"), AUTO)
    assert len(reader.read(tmp_path / "000.png")[0].unique()) == 256
    assert "values: 0 to 4095 of the set's uint16 images become black and white" in notes[0]


def test_pictures_of_8_bits_stay_as_they_are_and_none_of_them_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, [np.full((20, 20), value, dtype=np.uint8) for value in (3, 9)], "png")
    Image.new("RGB", (20, 20)).save(tmp_path / "x.jpg")
    decoded = []
    load = module._values
    monkeypatch.setattr(module, "_values", lambda *given: decoded.append(given) or load(*given))
    reader, notes = reader_for([*paths, tmp_path / "x.jpg"], AUTO)
    assert (reader.value_range, notes, decoded) == (None, [], [])
    # Among deep ones, too.
    deep = written(tmp_path / "deep", spread(0, 4000, "uint16"))
    reader, _ = reader_for([*paths, *deep], AUTO)
    assert reader.value_range == (0, 4095)
    assert reader.read(paths[1])[0].unique().tolist() == [9]


def test_percentiles_are_those_of_all_images_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.normal(1000 * n, 50, (30, 30)).astype(np.float32) for n in (1, 2, 3)]
    reader, notes = reader_for(written(tmp_path, images), replace(AUTO, value_range="percentiles"))
    assert reader.value_range == pytest.approx(np.percentile(np.stack(images), (0.1, 99.9)))
    assert "0.1 and 99.9 percentile of 3 files" in notes[0]
    eight = [random.integers(90, 110, (30, 30), dtype=np.uint8) for _ in range(3)]
    paths = written(tmp_path / "eight", eight, "png")
    reader, _ = reader_for(paths, replace(AUTO, value_range="percentiles"))
    assert reader.value_range == pytest.approx((90, 109))
    assert reader.read(paths[0])[0].min() == 0 and reader.read(paths[0])[0].max() == 255


def test_a_range_that_is_given_is_taken_for_every_image(tmp_path: Path) -> None:
    paths = written(tmp_path, [np.array([[0, 50, 100, 150]], dtype=np.uint8)], "png")
    reader, notes = reader_for(paths, replace(AUTO, value_range=(50.0, 100.0)))
    assert reader.read(paths[0])[0][0].tolist() == [[0, 0, 255, 255]]
    assert notes == ["values: 50 to 100 become black and white in every image (--data.value-range)"]


def test_what_is_not_finite_or_does_not_decode_or_is_opacity_has_no_say(tmp_path: Path) -> None:
    odd = np.array([[np.nan, np.inf, -np.inf, 0.7]], dtype=np.float32)
    paths = written(tmp_path, [odd, np.full((4, 4), np.nan, dtype=np.float32)])
    (tmp_path / "bad.tif").write_bytes(paths[0].read_bytes()[:200])
    gray = np.linspace(0, 0.2, 200, dtype=np.float32).reshape(10, 20)
    clear = np.stack([gray] * 3 + [np.ones_like(gray)], -1)
    tifffile.imwrite(tmp_path / "clear.tif", clear, photometric="rgb", extrasamples=["unassalpha"])
    assert survey([*paths, tmp_path / "bad.tif"], AUTO).value_range == (0, 1)
    assert survey([tmp_path / "clear.tif"], AUTO).value_range == pytest.approx((0, 0.2))
    assert survey([tmp_path / "clear.tif"], replace(AUTO, channels=4)).value_range == (0, 1)


def test_images_of_one_value_keep_their_own_range(tmp_path: Path) -> None:
    found = survey(written(tmp_path, [np.zeros((9, 9), dtype=np.uint16)]), AUTO)
    assert found.value_range is None and "are 0 throughout" in found.notes[0]


def test_both_parts_of_a_set_are_read_by_the_range_of_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, top in (("train", 4000), ("test", 900)):
        for name in "ab":
            written(tmp_path / part / name, [random.integers(0, top, (20, 20), dtype=np.uint16) for _ in range(4)])
    config = replace(AUTO, path=tmp_path)
    train, test = load_source(config, "train"), load_source(config, "test")
    assert train.reader == test.reader and train.reader.value_range == (0, 4095)
    assert any("0 to 4095" in note for note in train.notes)
    # And of a folder that is divided by us.
    config = replace(AUTO, path=tmp_path / "train")
    assert load_source(config, "train").reader == load_source(config, "test").reader


def test_a_set_is_surveyed_once_and_again_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = written(tmp_path, spread(0, 4000, "uint16"))
    decoded = []
    load = module._values
    monkeypatch.setattr(module, "_values", lambda *given: decoded.append(given) or load(*given))
    for _ in range(3):
        assert survey(paths, AUTO).value_range == (0, 4095)
    assert len(decoded) == 3
    written(tmp_path, spread(0, 60_000, "uint32"))
    assert survey(paths, AUTO).value_range == (0, 65_535)


def test_a_thousand_files_of_a_larger_set_are_looked_at_from_the_first_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_FILES", 5)
    images = [np.full((4, 4), 10 * value, dtype=np.uint16) for value in range(41)]
    looked = []
    load = module._values
    monkeypatch.setattr(module, "_values", lambda image, config: looked.append(image[0].stem) or load(image, config))
    found = survey(written(tmp_path, images), AUTO)
    assert sorted(looked) == ["000", "010", "020", "030", "040"]
    assert found.value_range == (0, 400)
    monkeypatch.setattr(module, "_MOST_PIXELS", 16 * 2)
    looked.clear()
    survey(written(tmp_path / "again", images), AUTO)
    assert sorted(looked) == ["000", "040"]


def test_files_of_several_pages_are_counted_or_become_images_that_stay_together(tmp_path: Path) -> None:
    stack = np.stack([np.full((20, 20), value, dtype=np.uint8) for value in (1, 2, 3)])
    for name in "ab":
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / name / f"{number}.tif", stack if number else stack[0], photometric="minisblack")
    config = replace(AUTO, path=tmp_path)
    first = load_source(config, "train")
    assert (
        "pages: 6 of 8 files hold several pages or frames, up to 3; the first is taken (--data.pages all takes each)"
        in first.notes
    )
    paths = sorted(tmp_path.rglob("*.tif"))
    assert len(first) + len(load_source(config, "test")) == 8
    expanded, pages = expand_pages(paths)
    assert len(expanded) == 20 and pages[:7] == [0, 0, 1, 2, 0, 1, 2]
    every = replace(config, pages="all")
    train = load_source(every, "train")
    assert train.groups is not None and train.pages is not None
    assert len(train) + len(load_source(every, "test")) == 20
    for index in range(len(train)):
        assert train[index][0].unique().tolist() == [train.pages[index] + 1]
    assert any("each is an image" in note for note in train.notes)


def test_pages_that_are_images_have_a_say_in_the_range(tmp_path: Path) -> None:
    stack = np.stack([np.full((20, 20), value, dtype=np.uint16) for value in (10, 4000)])
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack")
    assert survey([tmp_path / "x.tif"], AUTO).value_range == (0, 10)
    assert survey([tmp_path / "x.tif"] * 2, replace(AUTO, pages="all")).value_range == (0, 4095)


def test_a_set_of_many_bands_is_read_from_the_folder_to_the_square(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            bands = random.integers(0, 10_000, (20, 30, 4), dtype=np.uint16)
            tifffile.imwrite(tmp_path / name / f"{number}.tif", bands, photometric="minisblack", planarconfig="contig")
    config = replace(AUTO, path=tmp_path, channels=4)
    images = load_source(config, "train")
    assert images.reader.value_range == (0, 16_383)
    assert images.resident(torch.device("cpu")).pixels.shape == (len(images), 4, 16, 16)
    with pytest.raises(
        DataError, match=r"4 bands, expected 3 \(data\.channels\); --data\.channels 4 takes all of them"
    ):
        load_source(replace(config, channels=3), "train").resident(torch.device("cpu"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_bands_that_lie_on_pages_are_one_image_where_so_many_are_asked_for(dtype: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    bands = random.uniform(0, 1 if dtype == "float32" else np.iinfo(dtype).max, (5, 20, 30)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", bands, photometric="minisblack")
    assert page_count(tmp_path / "x.tif") == 5
    reader, notes = reader_for([tmp_path / "x.tif"], replace(AUTO, channels=5))
    full = {"uint8": 255, "uint16": 65_535, "float32": 1}[dtype]
    expected = np.rint(bands / np.float64(full) * 255).astype(np.uint8)
    assert np.array_equal(reader.read(tmp_path / "x.tif")[0].numpy(), expected)
    assert notes[0] == "bands: 1 of 1 files hold their 5 bands as pages"
    with pytest.raises(DataError, match="1 band, expected 4"):
        Reader(size=16, channels=4).read(tmp_path / "x.tif")
    # In colours the pages are what they are everywhere else.
    reader, notes = reader_for([tmp_path / "x.tif"], AUTO)
    assert np.array_equal(reader.read(tmp_path / "x.tif", 2)[0][0].numpy(), expected[2])
    assert notes[0].startswith("pages: 1 of 1 files hold several pages")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((3, 20, 20), 7), ["constant image (every value is 7)"]),
        (np.arange(400).reshape(1, 20, 20) % 17, ["few levels are used (17 of 256, from 0 to 16)"]),
        (np.arange(400).reshape(1, 20, 20) % 2, ["few levels are used (2 of 256, from 0 to 1)"]),
        (np.arange(400).reshape(1, 20, 20) % 2 * 255, []),
        (np.arange(400).reshape(1, 20, 20) % 200, []),
        (np.arange(64).reshape(1, 8, 8) % 17, []),
        (
            np.stack([np.arange(400).reshape(20, 20) % 200, *np.full((3, 20, 20), 5)]),
            ["constant band 1, 2, 3, counted from 0"],
        ),
    ],
)
def test_odd_pixels_are_put_into_words(pixels: np.ndarray, expected: list[str]) -> None:
    assert pixel_faults(torch.from_numpy(pixels.astype(np.uint8))) == expected


def test_the_faults_of_a_wrong_range_are_seen(tmp_path: Path) -> None:
    paths = written(tmp_path, [np.arange(4096, dtype=np.uint16).reshape(64, 64)], "png")
    assert pixel_faults(Reader(size=64).square(paths[0])) == ["few levels are used (17 of 256, from 0 to 16)"]
    assert pixel_faults(reader_for(paths, AUTO)[0].square(paths[0])) == []
