"""``report.py RUN ...``: its figures are those of the runs' files, recomputed here; it writes nothing into the runs."""

import json
import os
import random
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import simclr
from linear_eval import EvalConfig, evaluate_run
from linear_eval.comparison.pictures import draw_runs
from linear_eval.comparison.runs import read_runs, seed_groups
from simclr.config import EncoderConfig, HeadConfig, LoopConfig, TrainConfig
from simclr.config.yaml import save_config
from simclr.names import numbered
from simclr.run.pictures import draw_curves

ROOT = Path(__file__).resolve().parents[1]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def whole(script: Callable[[str], Command]) -> Command:
    """``whole(*words)`` runs scripts/report.py; gives its exit code, its output and its errors."""
    return script("report")


@pytest.fixture
def command(whole: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same, but that the page is empty (tests/test_page.py has what is on it) and its name is no error."""
    monkeypatch.setattr("linear_eval.page.write.page_in_bytes", lambda *given: b"")

    def call(*words: object) -> tuple[int, str, str]:
        code, out, err = whole(*words)
        if code == 0 and "--out" not in words:
            *others, page = err.splitlines(keepends=True)
            assert page.endswith(("report.html\n", "comparison.html\n")) and Path(page.strip()).read_bytes() == b""
            err = "".join(others)
        return code, out, err

    return call


def table(text: str, heading: str) -> dict[tuple[str, ...], dict[str, str]]:
    """The Markdown table under ``## heading``: first cell (first two where they are run and row) -> column -> cell."""
    block = text.split(f"## {heading}\n\n")[1].split("\n\n")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
    keys = 2 if header[:2] == ["run", "row"] else 1
    return {tuple(row[:keys]): dict(zip(header[keys:], row[keys:], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the project leaves one: trained and scored, quickly."""
    config = simclr.preset("digits")
    config = replace(
        config,
        name="real",
        out=tmp_path_factory.mktemp("runs"),
        data=replace(config.data, limit=256),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=0),
        train=LoopConfig(epochs=2, batch_size=64, precision="fp32", log_every=2, knn_every=1),
    )
    simclr.pretrain(config)
    evaluate_run(
        config.run_dir, config=EvalConfig(strengths=(1e-3, 1e-2), resamples=100, trials=2, labels_per_class=(1,))
    )
    return config.run_dir


def made_up(folder: Path, config: TrainConfig, linear: float | None, kind: str = "closed", **figures: float) -> Path:
    """A run's folder with figures chosen here, in the form that the project writes."""
    folder.mkdir(parents=True)
    save_config(config, folder / "config.yaml")
    lines: list[dict[str, Any]] = [
        {"kind": "step", "step": 10, "epoch": 1, "loss": 5.0, "images_per_second": 100.0},
        {"kind": "epoch", "step": 12, "epoch": 1, "epoch_loss": 4.5, "online_knn": 0.25},
        {"kind": "step", "step": 24, "epoch": 2, "loss": 3.0, "images_per_second": 400.0},
        {"kind": "epoch", "step": 24, "epoch": 2, "epoch_loss": 3.25, "online_knn": 0.5},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if linear is None:
        return folder

    def row(accuracy: float) -> dict[str, Any]:
        one = {"accuracy": accuracy, "interval": [accuracy - 0.02, accuracy + 0.03]}
        return {"linear": one, "knn": one, "few_labels": {"1 a class": {"mean": accuracy / 2, "std": 0.01}}}

    if kind == "closed":
        result: dict[str, Any] = {
            "rows": {"encoder": row(linear), "untrained": row(0.3), "raw pixels": row(0.4)},
            "data": {"test": {"name": "birds", "images": 50}},
            "config": {"knn_k": 20},
            "encoder": {"parameters": 1234567},
            "hardware": {"device": "cpu", "threads": 2},
            "seconds": 12.4,
        }
    else:
        result = {
            "kind": "regression",
            "rows": {"fine-tuned": {"mean_absolute_error": linear, "interval": [linear - 0.1, linear + 0.1]}},
            "data": {"name": "ages", "train": 90, "test": 10},
            "hardware": {"device": "cpu", "threads": 2},
        }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds of one config, and a run of another learning rate that was not scored."""
    config = replace(simclr.preset("digits"), out=tmp_path)
    seeds = [
        made_up(tmp_path / f"birds-s{seed}", replace(config, name=f"birds-s{seed}", seed=seed), linear)
        for seed, linear in enumerate((0.8, 0.86, 0.851))
    ]
    other = replace(config, name="slow", optim=replace(config.optim, learning_rate=0.125))
    return [*seeds, made_up(tmp_path / "slow", other, None)]


def test_the_figures_of_a_real_run(command: Command, real: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in real.rglob("*")}
    code, out, err = command(real)
    assert (code, err) == (0, "")
    after = {path: path.stat().st_mtime_ns for path in real.rglob("*")}
    assert {path: after[path] for path in after if path != real} == {
        **{path: before[path] for path in before if path != real},
        real / "report.html": after[real / "report.html"],
    }
    result = json.loads((real / "result.json").read_text())
    found = table(out, "digits, 359 test images of 10 classes: accuracy in %")
    assert set(found) == {("real", row) for row in ("encoder", "untrained", "raw pixels", "always the commonest class")}
    commonest = found.pop(("real", "always the commonest class"))
    assert commonest["kNN (20)"] == commonest["1 a class"] == "-" and commonest["balanced"] == "10.0"
    for (_, row), cells in found.items():
        for column, key in (("linear", "linear"), ("kNN (20)", "knn")):
            score = result["rows"][row][key]
            low, high = (100 * end for end in score["interval"])
            assert cells[column] == f"{100 * score['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
        few = result["rows"][row]["few_labels"]["1 a class"]
        assert cells["1 a class"] == f"{100 * few['mean']:.1f} ± {100 * few['std']:.1f}"
    lines = [json.loads(line) for line in (real / "metrics.jsonl").read_text().splitlines()]
    training = table(out, "Training")[("real",)]
    assert (training["finished"], training["steps"], training["epochs"]) == ("yes", "8", "2")
    assert training["loss"] == f"{lines[-1]['epoch_loss']:.3f}"
    assert training["online kNN, %"] == f"{100 * lines[-1]['online_knn']:.1f}"
    speeds = [line["images_per_second"] for line in lines if line["kind"] == "step"]
    assert training["training, s"] == f"{sum(2 * 64 / speed for speed in speeds):.0f}"
    assert training["images/s"] == f"{statistics.harmonic_mean(speeds):.0f}"
    assert training["parameters"] == f"{result['encoder']['parameters']:,}"


def test_seeds_are_summarised_and_what_is_missing_is_said(command: Command, runs: list[Path]) -> None:
    code, out, err = command(*runs)
    assert (code, err) == (0, "")
    title = "birds, 50 test images: accuracy in %"
    assert table(out, title)[("birds-s1", "encoder")]["linear"] == "86.0 [84.0, 89.0]"
    assert "; not measured: slow" in out
    over = table(out, f"birds, over seeds: {title}")
    values = [80.0, 86.0, 85.1]
    mean = sum(values) / 3
    deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert over[("encoder",)]["linear"] == f"{mean:.1f} ± {deviation:.1f}"
    assert over[("encoder",)]["1 a class"] == f"{mean / 2:.1f} ± {deviation / 2:.1f}"
    assert over[("raw pixels",)]["kNN (20)"] == "40.0 ± 0.0"
    assert "over n = 3 runs, seeds 0, 1, 2" in out
    fields = table(out, "Config")
    assert set(fields) == {("seed",), ("optim.learning_rate",)}
    assert list(fields[("seed",)].values()) == ["0", "1", "2", "0"]
    assert list(fields[("optim.learning_rate",)].values()) == ["0.002", "0.002", "0.002", "0.125"]
    training = table(out, "Training")
    batch = simclr.preset("digits").train.batch_size
    assert training[("slow",)]["training, s"] == f"{10 * batch / 100 + 14 * batch / 400:.0f}"
    assert training[("slow",)]["images/s"] == f"{24 * batch / (10 * batch / 100 + 14 * batch / 400):.0f}"
    assert training[("slow",)]["parameters"] == training[("slow",)]["evaluation, s"] == "not measured"
    assert training[("birds-s0",)]["parameters"] == "1,234,567" and training[("birds-s0",)]["finished"] == "no"


def test_groups_hold_seeds_and_nothing_else(runs: list[Path], tmp_path: Path) -> None:
    config = replace(simclr.preset("digits"), out=tmp_path / "elsewhere", name="more", seed=7)
    config = replace(config, train=replace(config.train, log_every=3), data=replace(config.data, workers=5))
    more = made_up(tmp_path / "elsewhere" / "more", config, 0.9)  # differs in what no weight depends on
    again = made_up(tmp_path / "elsewhere" / "again", replace(config, name="again"), 0.9)  # its seed is there already
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.jsonl").write_text("")
    groups = [[run.name for run in group.runs] for group in seed_groups(read_runs([*runs, more, again, bare, more]))]
    assert groups == [["birds-s0", "birds-s1", "birds-s2", "more"], ["slow"], ["again"], ["bare"]]


def test_a_run_of_another_version_is_shown_as_it_stands(command: Command, runs: list[Path]) -> None:
    text = (runs[3] / "config.yaml").read_text()
    (runs[3] / "config.yaml").write_text(text.replace("batch_size:", "images_in_a_batch:"))
    code, out, _ = command(*runs)
    assert code == 0
    fields = table(out, "Config")
    assert list(fields[("train.images_in_a_batch",)].values())[:3] == ["-"] * 3
    assert table(out, "Training")[("slow",)]["training, s"] == "not measured"


def test_other_protocols_stand_apart(command: Command, runs: list[Path], tmp_path: Path) -> None:
    config = replace(simclr.preset("digits"), name="ages")
    ages = made_up(tmp_path / "ages", config, 4.25, kind="regression")
    (tmp_path / "open").mkdir()
    row = {
        "retrieval": {"recall_at_k": {"1": 0.9}, "map_at_r": 0.5},
        "verification": {"auc": 0.95, "eer": 0.1},
        "identification": {"rank_k": {"1": 0.7}, "interval": [0.6, 0.8]},
    }
    result = {"rows": {"encoder": row}, "data": {"name": "owls", "test": {"images": 9, "classes": ["a", "b"]}}}
    (runs[3] / "open-set.json").write_text(json.dumps(result))
    shots = {
        "given trials": {"accuracy": 0.925, "interval": [0.9, 0.95]},
        "20-way 5-shot": {"accuracy": None, "note": "few"},
    }
    given = {"name": "runs.zip", "trials": 400}
    (runs[3] / "one-shot.json").write_text(json.dumps({"rows": {"encoder": shots}, "data": None, "runs": given}))
    code, out, err = command(*runs, ages)
    assert (code, err) == (0, "")
    title = "ages, 90 labelled training images and 10 test images, fine-tuned"
    assert table(out, title)[("ages", "fine-tuned")] == {"mean absolute error": "4.250 [4.150, 4.350]"}
    found = table(out, "owls, 9 images of 2 classes, open set: in %")[("slow", "encoder")]
    assert found["Recall@1"] == "90.0" and found["rank-1 (1:N)"] == "70.0 [60.0, 80.0]"
    assert found["pairs: EER (lower is better)"] == "10.0"
    assert ("slow", "encoder") not in table(out, "birds, 50 test images: accuracy in %")
    found = table(out, "runs.zip, 400 given trials, one-shot: in %")[("slow", "encoder")]
    assert found == {"given trials": "92.5 [90.0, 95.0]"}


@pytest.mark.parametrize(
    ("figure", "values", "column", "shown"),
    [
        ("validation_accuracy", (0.5, 0.625), "validation accuracy, %", "62.5"),
        ("validation_error", (4.0, 3.25), "validation error", "3.250"),
        ("validation_knn", (0.25, 0.375), "validation kNN, %", "37.5"),
    ],
)
def test_what_validation_images_said_in_training_is_shown(
    figure: str,
    values: tuple[float, float],
    column: str,
    shown: str,
    command: Command,
    runs: list[Path],
    tmp_path: Path,
) -> None:
    headings = table(command(*runs)[1], "Training")[("slow",)]
    assert not any(heading.startswith("validation") for heading in headings)  # nobody fine-tuned
    log = [{"kind": "epoch", "step": 12 * n, "epoch": n, figure: value} for n, value in enumerate(values, start=1)]
    (runs[3] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    training = table(command(*runs)[1], "Training")
    assert training[("slow",)][column] == shown
    assert training[("birds-s0",)][column] == training[("slow",)]["online kNN, %"] == "not measured"
    assert draw_runs(seed_groups(read_runs([runs[3]])))  # this figure alone is logged: without its panel there is none
    draw_curves(runs[3] / "metrics.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        picture.load()


def test_damaged_logs_and_configs_are_one_line_or_left_out(command: Command, runs: list[Path], tmp_path: Path) -> None:
    log, config = runs[3] / "metrics.jsonl", runs[3] / "config.yaml"
    before = command(*runs)[1]
    log.write_bytes(b"\xff\x00\n" + log.read_bytes() + b"null\n{}\n")
    assert command(*runs)[1] == before
    rng = random.Random(0)
    for file in (log, config):
        whole = file.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(rng.choice((1, 3))):
                content[rng.randrange(len(content))] = rng.randrange(256)
            file.write_bytes(content)
            code, out, err = command(*runs)
            assert (code, err) == (0, "") or ((code, out) == (2, "") and err.count("\n") == 1 and str(file) in err)
        file.write_bytes(whole)
    for content in (b"name: \xff\n", b"a: 2026-99-99\n", b"[" * 3000):
        config.write_bytes(content)
        code, out, err = command(*runs)
        assert (code, out) == (2, "") and err.startswith(f"error: {config} cannot be read") and err.count("\n") == 1


@pytest.mark.pictures
def test_the_page_needs_nothing_beside_it_and_has_every_score(whole: Command, runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "pages" / "all.html"
    code, out, err = whole(*runs, "--out", page)
    assert (code, err) == (0, f"{page}\n")
    html = page.read_text()
    html = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    words = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    for cells in table(out, "birds, 50 test images: accuracy in %").values():
        assert all(cell in words for cell in cells.values())
    assert list(page.parent.iterdir()) == [page]


@pytest.mark.pictures
@pytest.mark.parametrize("page", ["page.html", "page.md"])
def test_a_run_whose_name_is_not_utf8_is_on_the_page(
    page: str, whole: Command, runs: list[Path], tmp_path: Path
) -> None:
    odd = runs[0].rename(tmp_path / os.fsdecode(b"caf\xe9"))
    code, out, err = whole(odd, runs[1], "--out", tmp_path / page)
    assert code == 0, err
    assert "caf\\udce9" in (tmp_path / page).read_text(encoding="utf-8") and "caf\\udce9" in out


def test_markdown_has_its_pictures_beside_it(command: Command, runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "pages" / "all.md"
    assert command(*runs, "--out", page)[0] == 0
    named = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page.read_text())
    assert {file.name for file in page.parent.iterdir()} == {"all.md", *named} and len(named) == 2
    for name in named:
        with Image.open(page.parent / name) as picture:
            picture.load()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["empty"], "empty holds no run"),
        (["slow", "--out", "page.pdf"], "expected a file that ends in .html or .md"),
        (["slow", "--ot", "page.md"], "did you mean --out?"),
        (["--out", "page.md"], "expected the runs to compare"),
        (["loop"], "loop is no folder"),
        (["cut"], "result.json is damaged"),
        (["half"], "is not as this version writes it"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    words: list[str], said: str, command: Command, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", None), ("cut", '{"rows": {'), ("half", '{"rows": {"encoder": {}}, "data": {}}')):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "result.json").write_text(content)
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert said in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.pictures
def test_runs_whose_letters_no_font_has_are_numbers_and_the_page_says_which(
    whole: Command, runs: list[Path], tmp_path: Path
) -> None:
    odd = runs[0].rename(tmp_path / "家猫")
    for page in ("page.html", "page.md"):
        assert whole(odd, runs[1], "--out", tmp_path / page)[0] == 0
        text = (tmp_path / page).read_text(encoding="utf-8")
        drawn = page == "page.md" and numbered(["家猫"], "run") is not None  # a browser has letters of its own
        assert text.count("run 0 is 家猫") == (2 if drawn else 0) and "家猫" in text  # under the scores and the curves
