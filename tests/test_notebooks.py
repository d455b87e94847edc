"""The notebooks run from their first cell to their last, on small settings, and are shown with what they printed."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMALL: dict[str, dict[str, Any]] = {
    "start_to_score": {"EPOCHS": 2, "IMAGES": 300},
    "own_folder_to_map": {"EPOCHS": 2, "STRIDE": 48},
    "adapt_and_compare": {"START_EPOCHS": 2, "EPOCHS": 2, "IMAGES": 300},
}
"""Of each notebook the names in its cell of settings that make it short."""


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert SMALL[path.stem].keys() <= names.keys()
            names |= SMALL[path.stem]
    assert list((tmp_path / "runs").glob("*/encoder/encoder.safetensors"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_shown_with_its_outputs(path: Path) -> None:
    cells = code_cells(path)
    assert sum(bool(cell["outputs"]) for cell in cells) > len(cells) // 2
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))  # in order, from a fresh start
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert str(Path.home()) not in path.read_text() and path.stat().st_size < 600_000
