"""The documentation tells the truth: its example objective runs, its links and pictures exist, its commands parse."""

import re
from pathlib import Path

import pytest
import torch

from simclr.config_io import parse_command

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for line in re.findall(r"scripts/(?:pretrain|preview)\.py([^\n`#|]*)", page.read_text()):
        words = line.split()
        if "objective:spread" not in words and not any(word.startswith(("[", "(")) for word in words):
            parse_command(words, "pretrain.py", "")


def test_scripts_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"((?:scripts|benchmarks)/\w+\.py)", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
