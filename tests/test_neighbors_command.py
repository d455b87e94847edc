"""``neighbors.py RUN``: what it prints and writes, of images that are alike, there twice, or in the wrong folder."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_kept import make_run

from linear_eval.scored_run import ScoredRun

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(script: Callable[[str], Command]) -> Command:
    return script("neighbors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 40 pictures, red and blue ones; one blue one is among the red, and one is there twice."""
    root = tmp_path_factory.mktemp("neighbors")
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = root / "pictures" / ("red", "blue")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 90, (12, 12, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 150
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    shutil.move(root / "pictures" / "blue" / "07.png", root / "pictures" / "red" / "07.png")
    shutil.copy(root / "pictures" / "blue" / "09.png", root / "pictures" / "blue" / "x.png")
    return make_run(root / "runs" / "one", root / "pictures")


def test_queries_print_the_nearest_and_draw_them(command: Command, run: Path, tmp_path: Path) -> None:
    pictures = run.parents[1] / "pictures"
    foreign = shutil.copy(pictures / "red" / "02.png", tmp_path / "foreign.png")
    code, said, err = command(run, "--query", pictures / "red" / "02.png", foreign, "--k", 3, "--out", tmp_path)
    assert (code, err) == (0, "") or "labels: " in err
    blocks = said.split("nearest to ")[1:]
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    encoder = ScoredRun.at(run).encoder()
    with torch.no_grad():
        x = torch.cat([encoder(encoder.read(pictures / path)) for path in paths]).double()
    x /= x.norm(dim=1, keepdim=True).clamp_min(1e-30)
    cosines = x @ x[paths.index("red/02.png")]
    for block, own in zip(blocks, (1, 0), strict=True):  # the set's own image is not found by itself
        lines = [line.split() for line in block.splitlines()[1:4]]
        wanted = cosines.sort(descending=True).values[own : own + 3]
        assert [float(line[0]) for line in lines] == pytest.approx(wanted.tolist(), abs=2e-4)
        assert [float(cosines[paths.index(line[1])]) for line in lines] == pytest.approx(wanted.tolist(), abs=2e-4)
    with Image.open(tmp_path / "query.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 600


def test_copies_and_surprising_labels_are_listed_whole(command: Command, run: Path) -> None:
    code, said, _ = command(run, "--copies", "--surprising")
    assert code == 0
    assert "1 groups of near-duplicates, 2 images" in said
    assert "blue/09.png = blue/x.png" in said and "  red -> blue" in said
    out = run / "neighbors"
    with (out / "copies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["blue/09.png", "blue/x.png"] and {row["group"] for row in rows} == {"0"}
    with (out / "surprising.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["path"], first["label"], first["said"]) == ("red/07.png", "red", "blue")
    assert {path.name for path in out.iterdir()} == {"copies.csv", "copies.png", "surprising.csv", "surprising.png"}


def test_without_a_question_a_sample_is_drawn(command: Command, run: Path, tmp_path: Path) -> None:
    code, said, _ = command(run, "--out", tmp_path / "new")
    assert code == 0 and "12 images, drawn evenly from the classes" in said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sample.png"]


def test_mistakes_are_one_line(command: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    code, said, err = command(run, "--query", tmp_path / "broken.jpg")
    assert code == 2 and said == "" and "broken.jpg: not an image that can be read" in err
    code, said, err = command(run, "--data.labels", "none", "--surprising", "--out", tmp_path / "none")
    assert code == 2 and "0 labelled images of 0 classes" in err and not (tmp_path / "none").exists()
