"""Names of classes, files and runs that look like markup, like a formula or like nothing: they are shown as they stand."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image
from rich.console import Console

import simclr
from augment import ViewGenerator
from linear_eval import EvalConfig, evaluate_run, open_set, plot_map, plot_pairs, plot_roc, print_report
from linear_eval.comparison.page import Section, as_markdown
from linear_eval.comparison.pictures import draw_runs, draw_scores
from linear_eval.comparison.runs import RunRecord, seed_groups
from linear_eval.comparison.scores import Score, ScoredSet
from linear_eval.features.extract import Features
from linear_eval.features.parquet import ParquetRows
from linear_eval.features.tables import write_embeddings, write_names
from linear_eval.page.document import page_of, rendered
from linear_eval.progress import name_files, print_line, showing_progress
from linear_eval.reports import embeddings as embedding_report
from linear_eval.reports import finetuned as finetuned_report
from linear_eval.reports.closed import write_report
from linear_eval.reports.finetuned import print_finetuned
from linear_eval.reports.open_set import print_open_set
from linear_eval.results import FinetunedClasses
from simclr import names
from simclr.config import TrainConfig
from simclr.data import load_source
from simclr.names import as_utf8, drawable, drawn, legible, numbered, printable
from simclr.run.log import RunLog
from simclr.run.pictures import write_contact_sheet

FORMULAS = ("$\\bad$", "US$ and CA$", "$x", "\\$5", "_other", os.fsdecode(b"caf\xe9"))
"""Of these matplotlib makes an error, a formula or nothing at all."""

MARKUP = "birds[/red] [bold]and[/bold] [old] :cat: \\[x]"
"""Of this rich makes an error, or what it says in other words."""


def image_of(text: str, **options: Any) -> np.ndarray:
    figure = Figure(figsize=(4, 1))
    canvas = FigureCanvasAgg(figure)
    figure.text(0.1, 0.4, text, **options)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def printed(show: Callable[[Console], object], terminal: bool = False) -> str:
    """What ``show`` prints on a wide screen, as one line."""
    console = Console(file=io.StringIO(), width=400, force_terminal=terminal, color_system=None)
    show(console)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize("name", ["$\\bad$", "US$ and CA$", "$x", "\\$5", "\\\\$x$", "plain", "a_b"])
def test_a_picture_shows_the_letters_of_a_name(name: str) -> None:
    assert np.array_equal(image_of(drawn(name)), image_of(name, parse_math=False))


def test_a_picture_shows_bytes_that_are_not_utf8_as_escapes() -> None:
    assert np.array_equal(image_of(drawn(os.fsdecode(b"caf\xe9"))), image_of("caf\\udce9"))


def score_of(classes: tuple[str, ...], name: str) -> dict[str, Any]:
    """A result of the closed protocol, three images a class, every one of them right."""
    count = len(classes)
    linear = {
        "accuracy": 1.0,
        "interval": [0.9, 1.0],
        "strength": 0.1,
        "strengths": [0.01, 0.1, 1.0],
        "converged": True,
        "unseen_classes": [],
        "classes": list(range(count)),
        "per_class": [1.0] * count,
        "confusion": (3 * np.eye(count, dtype=int)).tolist(),
    }
    row = {"linear": linear, "knn": {"accuracy": 1.0, "interval": [0.9, 1.0]}}
    part = {"name": name, "images": 3 * count, "without_label_left_out": 0}
    gain = {"linear": {"difference": 0.0, "interval": [-0.1, 0.1]}}
    return {
        "rows": {"encoder": row, "raw pixels": row},
        "comparison": {"encoder - raw pixels": gain},
        "config": {"knn_k": 20},
        "data": {"train": part, "test": part, "classes": list(classes)},
    }


def finetuned(classes: tuple[str, ...], name: str) -> FinetunedClasses:
    closed = score_of(classes, name)
    row = {
        **closed["rows"]["encoder"]["linear"],
        "balanced_accuracy": 1.0,
        "calibration_error": 0.0,
        "cross_entropy": 0.1,
    }
    content = {
        "kind": "classification",
        "rows": {"fine-tuned": row},
        "comparison": {},
        "data": {"name": name, "train": 9, "test": 9, "classes": list(classes)},
    }
    return FinetunedClasses.from_dict(content, "result.json")


def features(classes: int) -> Features:
    y = torch.arange(5 * classes) % classes
    x = torch.randn(len(y), 6, generator=torch.Generator().manual_seed(0)) + 3 * torch.nn.functional.one_hot(y, 6)
    return Features(x=x, y=y, index=torch.arange(len(y)))


@pytest.mark.parametrize("name", FORMULAS)
def test_every_picture_is_drawn_whatever_the_names(name: str, tmp_path: Path) -> None:
    classes = (name, f"{name}{name}", "b")
    assert len(write_report(score_of(classes, name), tmp_path)) == 3
    assert len(finetuned_report.write_finetuned(finetuned(classes, name), tmp_path)) == 3
    pairs = {name: open_set(features(3))["verification"]}
    for plot in (plot_roc, plot_pairs):
        plot(pairs, tmp_path / "pairs.png")
    plot_map(features(3), tmp_path / "map.png", class_names=classes)
    run = RunRecord(
        name=name,
        folder=tmp_path,
        config={},
        metrics=[{"kind": "epoch", "step": 3, "epoch": 1, "online_knn": 0.5}],
        results=[],
        open_sets=[],
        finished=True,
    )
    assert draw_runs(seed_groups([run])) is not None
    assert draw_scores(name, [(run, ScoredSet(name, {name: {name: Score(50.0)}}))])
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    generator = ViewGenerator(replace(simclr.preset("digits").augment, size=16))
    parameters = generator.sample(1, (16, 16), 0, "cpu")
    write_contact_sheet(
        tmp_path / "views.png", images, generator.apply(images, parameters), parameters, title=f"{name} {name}"
    )


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(embedding_report, "_write", lambda figure, path: figures.append(figure))
    plot_map(features(3), tmp_path / "map.png", class_names=("_a", "b", "_c"))
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_a", "b", "_c"]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_printed_holds_the_names_letter_by_letter(terminal: bool) -> None:
    y = torch.arange(6) % 2
    pairs = {
        "rows": {"encoder": open_set(Features(torch.eye(6), y, torch.arange(6)))},
        "data": {"name": MARKUP, "test": {"images": 6, "classes": ["a", "b"]}},
        "disjoint_from_training": MARKUP,
        "threshold_from": MARKUP,
    }
    for show, times in (
        (lambda console: print_report(score_of(("a", "b"), MARKUP), console), 1),
        (lambda console: print_finetuned(finetuned(("a", "b"), MARKUP), console), 1),
        (lambda console: print_open_set(pairs, console), 3),
        (lambda console: print_line(console, MARKUP), 1),
        (lambda console: name_files(console, [Path(MARKUP)]), 1),
    ):
        text = printed(show, terminal)
        # The name begins with markup that would close what is not open, and bold and emoji change the letters.
        assert text.count(MARKUP) == times, text


def test_intervals_stand_in_brackets_on_the_screen() -> None:
    text = printed(lambda console: print_report(score_of(("a", "b"), "birds"), console))
    assert "100.0 [90.0, 100.0]" in text and "[95 % bootstrap interval" in text and "95 % [-10.0, +10.0]" in text
    text = printed(lambda console: print_finetuned(finetuned(("a", "b"), "birds"), console))
    assert "100.0 [90.0, 100.0]" in text and "[95 % bootstrap interval" in text


def test_progress_on_a_terminal_takes_any_path() -> None:
    def show(console: Console) -> None:
        with showing_progress(console) as progress:
            progress(MARKUP)

    assert MARKUP in printed(show, terminal=True)


def test_the_log_of_a_run_prints_names_letter_by_letter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, Accelerator(cpu=True), total_steps=1, start_step=0) as log:
        log.say(MARKUP)
    assert MARKUP in capsys.readouterr().err


def test_a_folder_of_odd_names_is_scored_and_drawn(
    tiny_run: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "[old] photos"
    rng = np.random.default_rng(0)
    classes = ("$\\bad$", "a\nb\x1b[31m", os.fsdecode(b"caf\xe9"), "家猫")
    for number in range(96):
        folder = root / classes[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (root / classes[0] / "0[bold].png").write_text("no image")
    for number in range(20):  # in both parts
        loop = root / classes[0] / f"loop{number}.png"
        loop.symlink_to(loop.name)
    data = replace(tiny_run.data, source="folder", path=root, size=16, limit=None, broken="skip")
    train = replace(tiny_run.train, batch_size=16, epochs=1, knn_every=0)
    config = replace(tiny_run, data=data, train=train)
    assert len(load_source(data, "train")) + len(load_source(data, "test")) > 96
    assert simclr.pretrain(config).finished
    assert capsys.readouterr().err.count("0[bold].png") == 1
    result = evaluate_run(config.run_dir, config=EvalConfig(trials=0, resamples=20, strengths=(0.1,)))
    said = capsys.readouterr()
    assert (
        "they are named above" in said.err and "[old] photos" in said.err and "[old]photos" in "".join(said.out.split())
    )
    assert result["data"]["test"]["trained_on"] == 0
    assert json.loads((config.run_dir / "result.json").read_text())["data"]["classes"] == list(classes)
    assert "\x1b" not in said.err + said.out
    assert numbered(["家猫"]) is None or "class 3 is 家猫" in " ".join(said.out.split())
    assert {"confusion.png", "scores.png"} <= {path.name for path in config.run_dir.iterdir()}


SCRIPTS = {
    "Chinese": "家猫",
    "Japanese": "ねこ",
    "Korean": "고양이",
    "Thai": "แมว",
    "Devanagari": "बिल्ली",
    "Arabic": "قط",
    "Hebrew": "חתול",
    "Cyrillic": "кошка",
    "emoji": "👍🏽 🐱",
    "family": "👩\u200d👩\u200d👧",
    "line break": "a\nb\tc",
    "escape code": "\x1b[31mred\x07",
    "turned": "cat\u202egpj",
    "markup": "<b>&amp;</b> %s % [x](y) `z` 'q' \"d\" | *",
    "private": "\ue000 \U0010fffd \U0001fad9\U0003ffff",
    "long": "long" * 100,
    "very long, wide": "猫" * 80,
    "not UTF-8": os.fsdecode(b"\xff\xfe caf\xe9"),
    "formula": "$\\frac{a}$ _ % # & {",
}


@pytest.fixture
def one_more_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A font with the two letters of 家猫 and no other, installed beside matplotlib's."""
    pen = TTGlyphPen(None)
    for corner, draw in zip([(0, 0), (0, 700), (700, 700), (700, 0)], [pen.moveTo, *3 * [pen.lineTo]], strict=True):
        draw(corner)
    pen.closePath()
    box = pen.glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "house", "cat"])
    builder.setupCharacterMap({ord("家"): "house", ord("猫"): "cat"})
    builder.setupGlyf({".notdef": box, "house": box, "cat": box})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "house", "cat"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Two Letters", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "two.ttf")
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    fontManager.addfont(tmp_path / "two.ttf")
    _forget_fonts()
    yield
    _forget_fonts()


def _forget_fonts() -> None:
    names._families.cache_clear()
    names._glyphs.cache_clear()
    names._family_with.cache_clear()


def test_letters_of_no_font_become_the_number_of_the_class() -> None:
    classes = ("кошка", "家猫", "cat", "バット", "a家")
    if any(numbered([name]) is None for name in classes[1::2]):
        pytest.skip("a font with these letters is installed")
    assert drawable(classes) == ["кошка", "class 1", "cat", "class 3", "class 4"]
    assert str(numbered(classes)).endswith("class 1 is 家猫, class 3 is バット, class 4 is a家")
    assert numbered(("кошка", "cat")) is None


def test_a_font_that_has_the_letters_is_found_and_used(one_more_font: None) -> None:
    assert drawable(["家猫", "家 cat", "犬"])[:2] == ["家猫", "家 cat"] and numbered(["家猫"]) is None
    figure = Figure(figsize=(4, 1))
    canvas = FigureCanvasAgg(figure)
    figure.text(0.1, 0.4, "家猫 Katze", weight="bold")  # a weight that the font lacks, and letters that it lacks
    legible(figure)
    canvas.draw()  # a glyph that is missing is a warning, which is an error in tests
    boxes = np.asarray(canvas.buffer_rgba())[:, 40:68, 0]  # black squares stand for both letters
    assert (boxes < 128).sum() > 150


def test_names_that_look_alike_when_shortened_are_told_apart() -> None:
    alike = ["a" * 50 + letter + "b" * 50 for letter in "xyz"]
    assert len(set(drawable(alike))) == 3
    assert all(len(text) < 40 for text in drawable(alike))
    assert drawable(["same", "same"]) == ["same", "same"]


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "x\u2028y", "tab\t", "\x00", "\u202eabc", "bell\x07", "\x9b31m"])
def test_a_printed_name_is_one_line_that_a_terminal_does_not_obey(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) == 1 and not any(unicodedata.category(c) in ("Cc", "Zl", "Cs") for c in shown)
    assert "\u202e" not in shown
    assert printable(printable(text)) == shown


@pytest.mark.parametrize("name", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_names_in_every_script_are_drawn_printed_and_written(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test_every_picture_is_drawn_whatever_the_names(name, tmp_path)
    assert not caplog.records  # matplotlib says of fonts what it says to a log
    written = features(3)
    files = [f"{name}/{i}.png" for i in range(15)]
    write_embeddings(tmp_path / "out.npz", written, files, (name, "b", "c"))
    rows = ParquetRows(tmp_path / "out.parquet", (name, "b", "c"))
    rows.append(files, written.x, written.y)
    rows.close()
    write_names(tmp_path / "out.csv", written.y, files, (name, "b", "c"))
    readable = name.encode(errors="backslashreplace").decode()
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["path"][3] == f"{readable}/3.png" and table["label"][0] == readable
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1] == ["0", f"{readable}/0.png", readable]
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["paths"][3] == f"{name}/3.png" and arrays["classes"][0] == name
    for show in (
        lambda console: print_report(score_of((name, "b"), name), console),
        lambda console: print_finetuned(finetuned((name, "b"), name), console),
        lambda console: name_files(console, [Path(name)]),
    ):
        console = Console(file=io.StringIO(), width=1000, force_terminal=True, color_system=None)
        show(console)
        # A title is as wide as its table, and wrapped where it is longer.
        assert "".join(printable(name).split()) in "".join(console.file.getvalue().split())
    section = Section(name, ("run", name), [(name, "1")], name)
    run = RunRecord(
        name=name, folder=tmp_path, config={name: name}, metrics=[], results=[], open_sets=[], finished=False
    )
    cells = _Texts(rendered(page_of([run], state=name)).decode())
    assert cells.texts.count(readable_on_a_page(name)) == 5  # title, heading, state, and the config's field and value
    assert cells.tags == _Texts(rendered(page_of([replace(run, name="n", config={"n": "n"})])).decode()).tags
    rows_of = [line for line in as_markdown(name, [section]).splitlines() if line.startswith("|")]
    assert len(rows_of) == 3


def readable_on_a_page(name: str) -> str:
    return as_utf8(printable(name))


class _Texts(HTMLParser):
    """Every text and every tag of a page, as a browser reads it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
