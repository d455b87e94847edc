"""The documentation tells the truth: its example objective runs, its links and pictures exist, its commands parse."""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simclr.command_line import parse_command, without_dry_run
from simclr.run.log import read_metrics

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_the_example_objective_runs() -> None:
    page = (ROOT / "docs" / "add_an_objective.md").read_text()
    code = re.search(r"```python\n(# simclr/losses/spread\.py.*?)```", page, re.DOTALL)[1]
    names: dict[str, object] = {"__name__": "spread"}
    exec(compile(code, "spread.py", "exec"), names)
    loss = names["SpreadConfig"](weight=0.3).build(num_classes=3, dim=4, num_samples=9)
    z = torch.randn(9, 4, requires_grad=True)
    labels = torch.arange(9) % 3
    value = loss(z, labels)
    value.backward()
    unit = torch.nn.functional.normalize(z.detach().double(), dim=1)
    means = [unit[labels == c].mean(0) for c in range(3)]
    tight = sum(float((unit[i] - means[labels[i]]).square().sum()) for i in range(9)) / 9
    apart = sum(float((means[a] - means[b]).norm()) for a, b in ((0, 1), (0, 2), (1, 2))) / 3
    assert value.item() == pytest.approx(tight - 0.3 * apart, rel=1e-5)
    assert z.grad.isfinite().all()
    assert set(loss.statistics) == {"tight", "apart"}


def test_the_example_on_views_runs() -> None:
    page = (ROOT / "docs" / "add_an_objective.md").read_text()
    code = re.search(r"```python\n(# simclr/losses/uniform\.py.*?)```", page, re.DOTALL)[1]
    names: dict[str, object] = {"__name__": "uniform"}
    exec(compile(code, "uniform.py", "exec"), names)
    loss = names["UniformConfig"](weight=0.3).build(num_classes=0, dim=4, num_samples=9)
    views = torch.randn(2, 5, 4, requires_grad=True)
    value = loss(views)
    value.backward()
    z = torch.nn.functional.normalize(views.detach().double(), dim=-1)
    align = sum(float((z[0, i] - z[1, i]).square().sum()) for i in range(5)) / 5
    rows = [*z[0], *z[1]]
    pairs = [math.exp(-2 * float((a - b).square().sum())) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    assert value.item() == pytest.approx(align + 0.3 * math.log(sum(pairs) / len(pairs)), rel=1e-5)
    assert views.grad.isfinite().all()


@pytest.mark.parametrize(
    "name, formula",
    [
        ("uniform", lambda line: line["align"] + 0.5 * line["spread"]),
        pytest.param("spread", lambda line: line["tight"] - 0.3 * line["apart"], marks=pytest.mark.long),
    ],
)
def test_the_steps_of_adding_an_objective_taken_literally_train_it(
    name: str, formula: Callable[[dict[str, float]], float], tmp_path: Path
) -> None:
    """On copies of the packages: the file as it stands on the page, both changes as they are shown, the page's command."""
    page = (ROOT / "docs" / "add_an_objective.md").read_text()
    for package in ("augment", "simclr", "linear_eval", "scripts"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc.*"))  # being written
    file, code = re.search(rf"```python\n# (simclr/losses/{name}\.py)\n(.*?)```", page, re.DOTALL).groups()
    (tmp_path / file).write_text(code)
    changed = tmp_path / re.search(r"In `(simclr/\S+\.py)`, the import", page)[1]
    changes = [change for change in re.findall(r"```diff\n(.*?)```", page, re.DOTALL) if name.capitalize() in change]
    assert len(changes) == 2  # one line, and its import
    for change in changes:
        lines = change.splitlines(keepends=True)
        assert sum(line[0] == "+" for line in lines) == 1
        before = "".join(line[1:] for line in lines if line[0] == " ")
        assert changed.read_text().count(before) == 1, f"{changed.name} has no such place, or several:\n{before}"
        changed.write_text(changed.read_text().replace(before, "".join(line[1:] for line in lines)))
    words = re.search(rf"accelerate launch (scripts/pretrain\.py .*objective:{name}.*)", page)[1].split()
    short = ["--data.limit", "64", "--train.batch-size", "32", "--train.epochs", "1", "--schedule.warmup-epochs", "0"]
    quiet = ["--train.log-every", "1", "--train.knn-every", "0", "--train.no-evaluate"]
    small = ["--encoder.channels", "4", "8", "8", "16"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, *words, *short, *quiet, *small]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = read_metrics(tmp_path / "runs" / name / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2
    for line in steps:  # the loss that was logged is the page's formula with the weight of the page's command
        assert line["loss"] == pytest.approx(formula(line), rel=1e-5)


@pytest.mark.slow
def test_simclr_on_one_page_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """The page's own text, for 4 epochs in place of 40: long enough to leave the untrained encoder far behind."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "minimal.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 60
    assert code.count("epochs, batch_size, temperature = 40, ") == 1
    with torch.random.fork_rng(devices=[]):
        exec(compile(code.replace("temperature = 40,", "temperature = 4,"), "minimal.md", "exec"), {})
    said = capsys.readouterr().out
    found = dict(re.findall(r"^(encoder|untrained|raw pixels) +linear ([\d.]+) \[", said, re.MULTILINE))
    assert set(found) == {"encoder", "untrained", "raw pixels"}
    assert float(found["encoder"]) > float(found["untrained"]) + 0.05


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()  # what commands start from
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "birds").symlink_to(pretrained)
    for line in re.findall(r"scripts/(?:pretrain|preview)\.py([^\n`#|]*)", page.read_text()):
        words = line.split()
        if not {"objective:spread", "objective:uniform", "--plugin"} & set(words) and not any(
            word.startswith(("[", "(")) for word in words
        ):
            parse_command(without_dry_run(words)[0], "pretrain.py", "")


def test_scripts_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"((?:scripts|benchmarks)/[\w/]+\.py)", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
