"""Metadata files as people have them: what each form says of the images, and what is refused."""

import json
import random

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from simclr.config import DataConfig
from simclr.data import load_source
from simclr.data.metadata import find_metadata, read_metadata
from simclr.errors import ConfigError, DataError

NAMES = ("a/0.png", "a/1.png", "b/2.png", "b/3.png")


@pytest.fixture
def root(tmp_path):
    """Four pictures in two folders."""
    return pictures(tmp_path / "set", NAMES)


def pictures(root, names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(root / name)
    return root


def read(root, file, content, names=NAMES, **options):
    """What a file of this content, beside the pictures, says of them."""
    content = content if isinstance(content, bytes) else content.encode()
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(content)
    return read_metadata(root / file, root, [root / name for name in names], **options)


def named(said):
    """The name of each image's class."""
    return [said.classes[label] if label >= 0 else None for label in said.labels.tolist()]


def loaded(root, **options):
    return load_source(DataConfig(source="folder", path=root, size=8, test_fraction=0.5, **options), "train")


ROWS = [("a/0.png", "cat"), ("a/1.png", "dog"), ("b/2.png", "cat"), ("b/3.png", None)]
CELLS = [(name, label or "") for name, label in ROWS]


def parquet(columns, path, metadata=None):
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)
    return path.read_bytes()


FORMS = {
    "commas": ("m.csv", "file_name,label\n" + "".join(f"{a},{b}\n" for a, b in CELLS)),
    "semicolons": ("m.csv", "file_name;label\n" + "".join(f"{a};{b}\n" for a, b in CELLS)),
    "semicolons announced": ("m.csv", "sep=;\r\nfile_name;label\r\n" + "".join(f"{a};{b}\r\n" for a, b in CELLS)),
    "tabs": ("m.tsv", "file_name\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in CELLS)),
    "tabs in a csv": ("m.csv", "file_name\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in CELLS)),
    "a mark of UTF-8": (
        "m.csv",
        b"\xef\xbb\xbffile_name,label\r\n" + "".join(f"{a},{b}\r\n" for a, b in CELLS).encode(),
    ),
    "an index of pandas": ("m.csv", ",file_name,label\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(CELLS))),
    "other names": ("m.csv", "Class Name,FilePath\n" + "".join(f"{b},{a}\n" for a, b in CELLS)),
    "backslashes": ("m.csv", "path,label\n" + "".join(f"{a},{b}\n" for a, b in CELLS).replace("/", "\\")),
    "dots": ("m.csv", "path,label\n" + "".join(f"./{a},{b}\n" for a, b in CELLS)),
    "no endings": ("m.csv", "id,label\n" + "".join(f"{a[2]},{b}\n" for a, b in CELLS)),
    "no folders": ("m.csv", "image,label\n" + "".join(f"{a[2:]},{b}\n" for a, b in CELLS)),
    "JSON Lines": ("m.jsonl", "".join(json.dumps({"file_name": a, "label": b}) + "\n" for a, b in ROWS)),
    "a JSON list": ("m.json", json.dumps([{"file_name": a, "label": b} for a, b in ROWS], indent=1)),
    "missing keys": (
        "m.jsonl",
        "".join(json.dumps({"file_name": a} | ({"label": b} if b else {})) + "\n\n" for a, b in ROWS),
    ),
    "one column a class": (
        "m.csv",
        "image,cat,dog\n0,1.0,0.0\n1,0.0,1.0\n2,1.0,0.0\n",
    ),
    "two rows alike": ("m.csv", "path,label\n" + "".join(f"{a},{b}\n" * 2 for a, b in CELLS)),
    "lists of one": (
        "m.jsonl",
        "".join(json.dumps({"file_name": a, "label": [b] if b else []}) + "\n" for a, b in ROWS),
    ),
    "lists in text": ("m.csv", 'path,label\na/0.png,[\'cat\']\na/1.png,"[""dog""]"\nb/2.png,[\'cat\']\nb/3.png,[]\n'),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_says_the_same(root, form):
    said = read(root, *FORMS[form])
    assert named(said) == ["cat", "dog", "cat", None] and said.classes == ("cat", "dog")
    assert said.labels.dtype == torch.int64 and said.values is None and said.groups is None and said.splits is None


def test_parquet_with_plain_categorical_list_and_numbered_labels(root, tmp_path):
    paths, labels = [name for name, _ in ROWS], [label for _, label in ROWS]
    columns = {
        "plain": pyarrow.array(labels),
        "categorical": pyarrow.array(labels).dictionary_encode(),
        "list": pyarrow.array([[label] if label else None for label in labels]),
    }
    for column in columns.values():
        content = parquet({"label": column, "image": paths}, tmp_path / "t.parquet")
        assert named(read(root, "m.parquet", content)) == labels
    features = {"info": {"features": {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}}}
    content = parquet(
        {"file_name": paths, "label": [1, 0, 1, -1]}, tmp_path / "t.parquet", {"huggingface": json.dumps(features)}
    )
    assert named(read(root, "m.parquet", content)) == labels
    with pytest.raises(DataError, match=r"m\.parquet cannot be read as parquet"):
        read(root, "m.parquet", content[:-20])


def test_rows_and_columns_in_any_order_say_the_same(root):
    columns = ("file_name", "label", "group", "split", "quality", "width")
    table = [
        ("a/0.png", "10", "p", "train", "0.5", "8"),
        ("a/1.png", "9", "p", "train", "1", "8"),
        ("b/2.png", "10", "q", "Test", "0.25", "8"),
        ("b/3.png", "", "", "validation", "", "8"),
    ]
    for seed in range(20):
        draw = random.Random(seed)
        order, rows = draw.sample(range(len(columns)), len(columns)), draw.sample(table, len(table))
        text = "\n".join(",".join(row[i] for i in order) for row in [columns, *rows]) + "\n"
        said = read(root, "m.csv", text)
        assert said.classes == ("9", "10") and said.labels.tolist() == [1, 0, 1, -1]
        assert said.values.nan_to_num(nan=-1).tolist() == [0.5, 1, 0.25, -1]
        assert said.splits == ("train", "train", "test", "validation")
        first, second, third, fourth = said.groups.tolist()
        assert first == second != third and {first, third} == {0, 1} and fourth == -1
        assert said.notes[0].endswith("; columns not used: width")


def test_groups_are_numbered_by_first_appearance_in_the_file(root):
    text = "group,path,label\nz,b/3.png,x\na,b/2.png,x\nz,a/1.png,x\nnan,a/0.png,x\n"
    assert read(root, "m.csv", text).groups.tolist() == [-1, 0, 1, 0]
    text = text.replace("group,", "Patient ID,")
    assert read(root, "m.csv", text).groups is None
    assert read(root, "m.csv", text, group="patient_id").groups.tolist() == [-1, 0, 1, 0]


@pytest.mark.parametrize("empty", ["", " ", "nan", "NaN", "null", "None", "NA", "N/A", "<NA>"])
def test_spellings_of_nothing_are_no_label_and_are_counted(root, empty):
    said = read(root, "m.csv", f"path,label\na/0.png,x\na/1.png,{empty}\nb/2.png,y\nb/3.png,{empty}\n")
    assert named(said) == ["x", None, "y", None] and said.classes == ("x", "y")
    counted = f"cells of column label taken for no label: {empty} (2); if that is a class, give it another name"
    assert said.notes[1:] == ((counted,) if empty.strip() else ())
    said = read(root, "m.csv", f"path,value\na/0.png,1\na/1.png,{empty}\nb/2.png,-2.5\nb/3.png,{empty}\n")
    assert said.labels is None and said.values.isnan().tolist() == [False, True, False, True]
    assert said.values[[0, 2]].tolist() == [1, -2.5]


def test_nothing_in_json_and_a_bare_nan(root):
    text = '{"file_name": "a/0.png", "label": NaN}\n{"file_name": "a/1.png", "label": null}\n'
    said = read(
        root, "m.jsonl", text + '{"file_name": "b/2.png", "label": 3.0}\n{"file_name": "b/3.png", "label": 3}\n'
    )
    assert named(said) == [None, None, "3", "3"]


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (("10", "9", "1", "10"), ("1", "9", "10")),
        (("3.0", "3", "nan", "12.0"), ("3", "12")),
        (("-1.0", "+1", "1.", "0"), ("-1", "0", "1")),
        (("0.5", "0.25", "10.0", "2"), ("0.25", "0.5", "2", "10.0")),
        (("01", "02", "10", "01"), ("01", "02", "10")),
        (("True", "false", "TRUE", "False"), ("false", "true")),
        (("true", "maybe", "True", "x"), ("True", "maybe", "true", "x")),
        (("Ärger", "猫", "$x$", "[b]"), ("$x$", "[b]", "Ärger", "猫")),
        (("10 cm", "9 cm", "x", "y"), ("10 cm", "9 cm", "x", "y")),
    ],
)
def test_numbers_are_classes_in_the_order_of_numbers_and_one_number_is_one_class(root, cells, classes):
    said = read(root, "m.csv", "path,label\n" + "".join(f"{a},{b}\n" for a, b in zip(NAMES, cells)))
    assert said.classes == classes


def test_fractions_as_classes_are_noted(root):
    said = read(root, "m.csv", "path,target\na/0.png,0.5\na/1.png,0.75\nb/2.png,1.25\nb/3.png,9\n")
    assert "numbers to predict go into a column value" in said.notes[1]


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (("cat|animal", "dog|animal", "cat", "tree"), "cat and animal"),
        (("cat;animal", "animal", "cat", "tree"), "cat and animal"),
        (('"cat, animal"', '"dog, animal"', "tree", "tree"), "cat and animal"),
        (("\"['cat', 'animal']\"", "x", "x", "x"), "cat and animal"),
        (('"[""cat"", ""animal""]"', "x", "x", "x"), "cat and animal"),
        (("[1 0]", "x", "x", "x"), "1 and 0"),
        (("a|b|c|d|e", "a", "x", "x"), "a, b, c and 2 more"),
    ],
)
def test_several_labels_of_an_image_are_refused_with_the_line_and_what_to_do(root, cells, labels):
    text = "path,label\n" + "".join(f"{a},{b}\n" for a, b in zip(NAMES, cells))
    with pytest.raises(
        DataError, match=rf"m\.csv, line 2: a/0\.png has the labels {labels}; several labels an image are"
    ) as e:
        read(root, "m.csv", text)
    assert "keep one in each row" in str(e.value) and "--data.labels none" in str(e.value)


def test_several_labels_in_lists_and_in_several_rows_are_refused(root, tmp_path):
    record = '{"file_name": "a/0.png", "label": ["cat", "animal"]}\n'
    with pytest.raises(DataError, match=r"line 1: a/0.png has the labels cat and animal"):
        read(root, "m.jsonl", record)
    with pytest.raises(DataError, match=r"row 2: a/1.png has the labels x and y"):
        read(root, "m.parquet", parquet({"path": ["a/0.png", "a/1.png"], "label": [["x"], ["x", "y"]]}, tmp_path / "t"))
    with pytest.raises(DataError, match=r"line 4: ./a/0.png is there twice, with the labels cat and dog"):
        read(root, "m.csv", "path,label\na/0.png,cat\na/1.png,cat\n./a/0.png,dog\n")
    with pytest.raises(DataError, match=r"line 2: a/0.png has the labels haze and primary"):
        read(root, "m.csv", "path,tags\na/0.png,haze primary\na/1.png,clear primary\n")


def test_a_name_whose_pieces_occur_nowhere_else_is_one_class(root):
    said = read(root, "m.csv", 'path,label\na/0.png,Yes|No\na/1.png,"tench, Tinca"\nb/2.png,Yes|No\nb/3.png,x\n')
    assert named(said) == ["Yes|No", "tench, Tinca", "Yes|No", "x"]
    assert said.notes[1] == "labels with | or ; in them, taken for one class each: 1 (Yes|No)"


def test_a_quoted_cell_may_hold_line_breaks_and_later_lines_keep_their_number(root):
    text = 'path,label,comment\na/0.png,"one\nclass","so\nand so"\na/1.png,y,\n'
    assert named(read(root, "m.csv", text)) == ["one\nclass", "y", None, None]
    with pytest.raises(DataError, match=r"line 5: 2 values, expected 3"):
        read(root, "m.csv", text.replace("y,\n", "y\n"))


def test_a_decimal_comma_where_semicolons_divide(root):
    assert read(root, "m.csv", "path;value\na/0.png;0,5\na/1.png;1,25\n").values[:2].tolist() == [0.5, 1.25]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("m.csv", "a/0.png,cat\na/1.png,dog\n", "first line of .* is 'a/0.png,cat'; expected the columns path,label"),
        (
            "m.csv",
            "path,width\na/0.png,8\n",
            "is 'path,width'; .*names known for path: file_name .*for label: label labels",
        ),
        ("m.jsonl", "", "expected the columns path,label"),
        ("m.csv", "path,label,label\na/0.png,x,y\n", "m.csv has two columns label"),
        ("m.csv", "path,label\na/0.png,x,y\n", "line 2: 3 values, expected 2"),
        ("m.csv", 'path,label,group\n"a\n\u202e.png",x,\n', r"1 of its images do not exist below .*: a\\n\\u202e.png"),
        ("m.csv", "path,label\n,x\n", "line 2: .* is no path of an image"),
        ("m.csv", "path,label\na/0.png,x\na\0/1.png,x\n", "line 3: .*is no path of an image"),
        ("m.csv", f"path,label\n{'a' * 5000}.png,x\n", r"line 2: 'a+...' \(5004 letters\) is no path of an image"),
        ("m.jsonl", '{"path": "a/\\ud800.png", "label": 1}\n', r"line 1: 'a/\\\\ud800.png' .* is no path of an image"),
        ("m.csv", f"path,label\n{'a' * 300}.png,x\n", "1 of its images do not exist"),
        ("m.csv", "path,label\na/9.png,x\nb/3.png,y\n", "1 of its images do not exist below .*: a/9.png"),
        ("m.csv", "path,label\n" + "x" * 200_000 + ",x\n", "cannot be read as CSV: field larger"),
        ("m.csv", "path,label\na/0.png,x\n".encode("utf-16"), "is UTF-16, expected UTF-8; save it again"),
        ("m.csv", "path,label\na/0.png,x\n".encode("utf-16-le"), "is UTF-16, expected UTF-8; save it again"),
        ("m.csv", "path,label\na/0.png,x\na/1.png,Ä\n".encode("cp1252"), "line 3: the byte 0xc4 is not UTF-8"),
        ("m.csv", "path,value\na/0.png,1\na/1.png,tall\n", "line 3: value is 'tall', expected a number"),
        ("m.csv", "path,value\na/0.png,-inf\n", "line 2: value is -inf, expected a finite number"),
        ("m.csv", "quality,path,label\n-0.1,a/0.png,x\n", r"line 2: quality is -0.1, expected a number in \[0, 1\]"),
        ("m.csv", "quality,path,label\n,a/0.png,x\n", "line 2: quality is '', expected a number"),
        ("m.csv", "path,value\na/0.png,1\na/0.png,2\n", "line 3: a/0.png is there twice, with value 1.0 and 2.0"),
        (
            "m.csv",
            "path,label,split\na/0.png,x,test\na/1.png,x,trian\n",
            "line 3: the part is 'trian', expected one of train, test",
        ),
        ("m.jsonl", '{"path": "a/0.png", "label": 1}\n{"path": \n', "line 2 is not JSON"),
        ("m.jsonl", "[1, 2]", "record 1: '1', expected a record such as"),
        ("m.jsonl", '"x"\n', "line 1: 'x', expected a record"),
        ("m.json", "[" * 100_000, "cannot be read as JSON"),
        ("m.jsonl", '{"path": "a/0.png", "label": {"x": 1}}\n', "line 1: column label is a record"),
        ("m.csv", "path,label\na/0.png,nan\n", "says nothing of the 4 images below"),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(root, file, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read(root, file, content)
    assert "\n" not in str(caught.value)


def test_a_name_that_several_images_bear_is_refused(tmp_path):
    names = ("a/0.png", "b/0.png", "a/1.png", "a/1.jpg")
    root = pictures(tmp_path / "set", names)
    for text, count in (("0.png", 2), ("0", 2), ("a/1", 2)):
        with pytest.raises(DataError, match=f"line 2: {text} may be any of {count} images"):
            read(root, "m.csv", f"id,label\n{text},x\n", names)
    assert named(read(root, "m.csv", "id,label\nb/0,x\n1.JPG,y\n", names)) == [None, "x", None, "y"]


def test_a_name_that_several_images_bear_is_left_out_and_said_where_the_file_was_found(tmp_path):
    names = ("train/0.png", "test/0.png", "train/1.png")
    root = pictures(tmp_path / "set", names)
    said = read(root, "labels.csv", "id,label\n0,x\n1,y\n", names, found=True)
    assert named(said) == [None, None, "y"]
    assert said.notes[1].startswith(
        f"rows of {root}/labels.csv left out: 1, the first: {root}/labels.csv, line 2: 0 may be any of 2"
    )


def test_letters_composed_in_another_way_name_the_same_file(tmp_path):
    root = pictures(tmp_path / "set", ("e\u0301.png", "b.png"))
    assert named(read(root, "m.csv", "path,label\n\u00e9.png,x\nb.png,y\n", ("e\u0301.png", "b.png"))) == ["x", "y"]


def test_paths_from_the_files_own_folder_and_absolute(root, tmp_path):
    (tmp_path / "m.csv").write_text(f"path,label\nset/a/0.png,x\n{root}/a/1.png,y\nb/2.png,x\n")
    said = read_metadata(tmp_path / "m.csv", root, [root / name for name in NAMES])
    assert named(said) == ["x", "y", "x", None]


def test_a_column_of_folds_is_no_division_and_is_said(root):
    said = read(root, "m.csv", "path,label,fold\na/0.png,x,0\na/1.png,y,1\n")
    assert said.splits is None and any(note.startswith("no parts from column fold") for note in said.notes)


def test_of_several_columns_of_labels_the_nearest_name_is_taken_and_the_other_said(root):
    said = read(root, "m.csv", "id,category,label,file_name\n7,x,lynx,a/0.png\n8,x,fox,a/1.png\n")
    assert named(said) == ["lynx", "fox", None, None]
    assert said.notes == (f"labels from column label, of {root}/m.csv; columns not used: id, category",)


def test_a_folder_brings_its_metadata_along(root):
    (root / "metadata.csv").write_text(
        "species,file_name,width\nlynx,a/0.png,8\nfox,a/1.png,8\nlynx,b/2.png,8\nfox,b/3.png,8\n"
    )
    images = loaded(root)
    assert images.classes == ("fox", "lynx")
    assert all(
        images.classes[y] == ("lynx", "fox")[int(p.stem) % 2] for p, y in zip(images.paths, images.labels.tolist())
    )
    assert images.notes[0] == f"labels from column species, of {root}/metadata.csv; columns not used: width"
    assert loaded(root, labels="none").labels is None


def test_metadata_in_each_part_as_imagefolder_writes_it(tmp_path):
    root = pictures(tmp_path, ("train/0.png", "train/1.png", "test/0.png", "test/1.png"))
    for part, labels in (("train", "ab"), ("test", "bc")):
        rows = [json.dumps({"file_name": f"{i}.png", "label": label}) for i, label in enumerate(labels)]
        (root / part / "metadata.jsonl").write_text("\n".join(rows))
    (root / "notes").mkdir()
    (root / "notes" / "labels.csv").write_text("width,height\n8,8\n")
    config = DataConfig(source="folder", path=root, size=8)
    assert len(find_metadata(root)) == 3
    train, test = load_source(config, "train"), load_source(config, "test")
    assert train.classes == test.classes == ("a", "b", "c")
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [1, 2]
    assert [note for note in train.notes if f"{root}/notes/labels.csv not used" in note]


def test_a_column_of_parts_divides_the_set(root):
    text = "file_name,label,split\na/0.png,x,train\na/1.png,y,TEST\nb/2.png,y,unlabeled\nb/3.png,x,Testing\n"
    (root / "metadata.csv").write_text(text)
    config = DataConfig(source="folder", path=root, size=8)
    assert sorted(p.stem for p in load_source(config, "train").paths) == ["0", "2"]
    assert sorted(p.stem for p in load_source(config, "test").paths) == ["1", "3"]


def test_metadata_below_one_folder_around_everything(tmp_path):
    root = pictures(tmp_path / "set" / "archive" / "data", ("0.png", "1.png", "2.png", "3.png"))
    (root / "metadata.csv").write_text("file_name,label\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(4)))
    assert find_metadata(tmp_path / "set") == (root / "metadata.csv",)
    assert loaded(tmp_path / "set").classes == ("x", "y")


def test_images_in_the_part_unlabeled_have_no_label(root):
    text = "path,label,part\na/0.png,x,training_set\na/1.png,y,Unlabelled\nb/2.png,,unsup\nb/3.png,x,val2017\n"
    said = read(root, "m.csv", text)
    assert said.splits == ("train", "unlabeled", "unlabeled", "validation") and named(said) == ["x", None, None, "x"]
    assert said.notes[1] == "labels of images in the part unlabeled, left out: 1"


def test_metadata_without_labels_leaves_them_to_the_folders(root):
    (root / "metadata.csv").write_text(
        "file_name,group\n" + "".join(f"{name},g{i % 2}\n" for i, name in enumerate(NAMES))
    )
    images = loaded(root)
    assert images.classes == ("a", "b") and len(set(images.groups.tolist())) == 1


def test_metadata_that_is_none_is_left_out_and_said(root):
    for text, reason in (
        ("width,height\n8,8\n", "no paths with labels, parts or groups"),
        ("file_name,label\nz/0.png,x\n", "no row names an image"),
    ):
        (root / "labels.csv").write_text(text)
        images = loaded(root)
        assert images.classes == ("a", "b") and "labels.csv not used" in images.notes[0] and reason in images.notes[0]
    (root / "labels.csv").write_text("file_name,label\nz/0.png,x\n" + "".join(f"{name},x\n" for name in NAMES))
    images = loaded(root)
    assert images.classes == ("x",) and images.notes[1].endswith(f"name no image below {root}: 1 (z/0.png)")
    (root / "labels.csv").write_text("file_name,label\na/0.png,x|y\na/1.png,x\n")
    with pytest.raises(DataError, match=r"line 2: a/0.png has the labels x and y"):
        loaded(root)


def test_groups_by_a_column_or_a_pattern_and_neither_is_refused(root):
    (root / "metadata.csv").write_text(
        "file_name,label,patient\n" + "".join(f"{n},x{i % 2},{i // 2}\n" for i, n in enumerate(NAMES))
    )

    def groups(**options):
        config = DataConfig(source="folder", path=root, size=8, test_fraction=0.5, **options)
        both = load_source(config, "train").joined(load_source(config, "test"))
        of = {path.stem: group for path, group in zip(both.paths, both.groups.tolist())}
        return [of[name[2]] for name in NAMES]

    assert groups(group="Patient") == [0, 0, 1, 1]
    assert groups(group="patient", labels="none") == [0, 0, 1, 1]
    assert groups(group="^(a)/") == [0, 0, -1, -1]
    assert groups(group=r"\d") == [0, 1, 2, 3]
    text = (root / "metadata.csv").read_text()
    (root / "metadata.csv").write_text(text.replace("x1", "x1|x0"))
    assert groups(group="patient", labels="none") == [0, 0, 1, 1]  # as the refusal of several labels advises
    (root / "metadata.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"data.group is 'video', .*metadata.csv are file_name, label, patient"):
        groups(group="video")
    with pytest.raises(ConfigError, match="no regular expression"):
        groups(group="(")
