"""The shape of the house: imports run one way, no script or benchmark hides a package, public modules list their names."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("augment", "simclr", "linear_eval", "scripts")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(path) & set(LAYERS[layer + 1 :])


def test_no_script_hides_a_package() -> None:
    # What a script imports is looked for in its own folder first.
    scripts = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    packages = {*LAYERS, "tests", "benchmarks", *packages_distributions(), *sys.stdlib_module_names}
    assert not {path.stem for path in scripts} & packages


def test_every_package_is_installed() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in FILES if path.name == "__init__.py"}
    assert found == set(listed)
