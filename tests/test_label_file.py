"""Labels from a CSV file."""

import pytest
import torch
from PIL import Image

from simclr.config import DataConfig
from simclr.data import load_source
from simclr.errors import ConfigError, DataError


@pytest.fixture
def photos(tmp_path):
    """20 images in two folders that say nothing about their labels."""
    for number in range(20):
        folder = tmp_path / "photos" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (number * 10, 0, 0)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def write(folder, text):
    file = folder.parent / "labels.csv"
    file.write_text(text)
    return DataConfig(source="folder", path=folder, size=8, labels=file, test_fraction=0.25)


def number_of(images, i):
    return int(images.paths[i].stem)


def test_classes_by_name_whatever_the_folder(photos):
    rows = "".join(f"{'a' if n % 2 else 'b'}/{n}.png,{'small' if n < 10 else 'large'}\n" for n in range(20))
    config = write(photos, "path,label\n" + rows)
    for split, size in (("train", 15), ("test", 5)):
        images = load_source(config, split)
        assert len(images) == size and images.classes == ("large", "small") and images.values is None
        for i, label in enumerate(images.labels.tolist()):
            assert images.classes[label] == ("small" if number_of(images, i) < 10 else "large")


def test_values_and_qualities(photos):
    rows = "".join(f"{'a' if n % 2 else 'b'}/{n}.png,{n / 4}\n" for n in range(20))
    images = load_source(write(photos, "Path,Value\n" + rows), "train")
    assert images.labels is None and images.values.dtype == torch.float32
    assert images.values.tolist() == [number_of(images, i) / 4 for i in range(15)]
    rows = "".join(f"{'a' if n % 2 else 'b'}/{n}.png,{n % 3},{n / 20}\n" for n in range(20))
    images = load_source(write(photos, "path,label,quality\n" + rows), "train")
    for i, (label, quality) in enumerate(zip(images.labels.tolist(), images.values.tolist())):
        assert label == number_of(images, i) % 3
        assert quality == pytest.approx(number_of(images, i) / 20)


def test_images_without_a_row_have_no_label(photos):
    config = write(photos, "path,label\na/1.png,x\na/3.png,y\nb/0.png,x\nb/2.png,y\nb/4.png,x\n")
    images = load_source(config, "train").joined(load_source(config, "test"))
    assert int((images.labels >= 0).sum()) == 5 and len(images) == 20
    assert sorted(number_of(images.labelled(), i) for i in range(5)) == [0, 1, 2, 3, 4]


def test_an_empty_cell_is_no_label(photos):
    config = write(photos, "path,label,quality\na/1.png,x,1\na/3.png,,\nb/0.png,y,0.5\nb/2.png, ,0.5\n")
    images = load_source(config, "train").joined(load_source(config, "test"))
    assert images.classes == ("x", "y") and int((images.labels >= 0).sum()) == 2
    values = write(photos, "path,value\na/1.png,2\na/3.png,\n")
    images = load_source(values, "train").joined(load_source(values, "test"))
    assert int(images.values.isfinite().sum()) == 1
    with pytest.raises(DataError, match="says nothing of the 20 images"):
        load_source(write(photos, "path,label\na/1.png,\n"), "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("size,class\n12,x\n", "expected the columns path,label"),
        ("", "expected the columns path,label"),
        ("path,label\na/1.png\n", "line 2: 1 values, expected 2"),
        ("path,label\na/1.png,x\na/1.png,y\n", "line 3: a/1.png is there twice"),
        ("path,value\na/1.png,tall\n", "line 2: value is 'tall', expected a number"),
        ("path,value\na/1.png,inf\n", "line 2: value is inf, expected a finite number"),
        ("path,label,quality\na/1.png,x,1.5\n", r"line 2: quality is 1.5, expected a number in \[0, 1\]"),
        ("path,label\nc/1.png,x\n", "1 of its images do not exist"),
        ("path,label\n", "says nothing of the 20 images"),
    ],
)
def test_mistakes_are_named_with_their_line(photos, text, said):
    with pytest.raises(DataError, match=said):
        load_source(write(photos, text), "train")


def test_a_file_that_is_not_there(photos):
    with pytest.raises(DataError, match="cannot be read as CSV"):
        load_source(DataConfig(source="folder", path=photos, labels=photos / "none.csv"), "train")
    with pytest.raises(ConfigError, match=r"data\.source=digits does not read"):
        DataConfig(labels=photos / "none.csv")


def test_a_loop_of_links_among_the_images_is_an_image_without_a_row(photos):
    (photos / "a" / "loop.png").symlink_to("loop.png")
    config = write(photos, "path,label\n" + "".join(f"{'ba'[n % 2]}/{n}.png,{n % 3}\n" for n in range(20)))
    images = load_source(config, "train").joined(load_source(config, "test"))
    label = {path.name: int(number) for path, number in zip(images.paths, images.labels, strict=True)}
    assert label.pop("loop.png", -1) == -1
    assert label == {f"{n}.png": n % 3 for n in range(20)}


def test_a_row_for_a_loop_of_links_names_no_image(photos):
    (photos / "loop").symlink_to("loop")
    config = write(photos, "path,label\na/1.png,0\nloop,1\n")
    with pytest.raises(DataError, match="1 of its images do not exist"):
        load_source(config, "train")
