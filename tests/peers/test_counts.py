"""The page says how many values of each library hold ours: as many as there are here."""

import re
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"


def test_the_page_counts_the_cases_of_each_library(request: pytest.FixtureRequest) -> None:
    files = {path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name}
    found = Counter(item.path.name for item in request.session.items if item.path.parent == HERE)
    if request.config.getoption("keyword") or files - set(found):
        pytest.skip("not all of tests/peers is collected: some files were left out, or a library is not installed")
    told = dict(re.findall(r"^\|.*\| (\d+) \| `peers/(test_\w+\.py)`", PAGE.read_text(), re.MULTILINE))
    assert {name: int(number) for number, name in told.items()} == {name: found[name] for name in files}
