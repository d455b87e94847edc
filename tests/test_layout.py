"""The shape of the house: imports run one way between packages and between their floors, and every name can be found."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("augment", "simclr", "linear_eval", "scripts")
FLOORS = {
    "augment": (
        ("lazy", "extra", "own", "parameters", "pixel_range", "marks"),
        ("evaluation", "mix"),
        ("config",),
        ("crops",),
        ("sampling", "reference"),
        ("fused",),
        ("views",),
    ),
    "simclr": (
        ("errors", "names", "stopping", "streams", "commands", "granted"),
        ("files", "distributed", "sharding", "numerics", "cores", "paths", "memory", "processes", "progress"),
        ("plugins",),
        ("distances", "neighbours"),
        ("mining",),
        ("losses",),
        ("objectives",),
        ("config",),
        ("data", "model", "optim", "flags", "announced"),
        ("exchange", "help", "completion"),
        ("run", "adapt"),
        ("command_line", "train"),
        ("finetune", "replay", "selftest", "dry_run"),
        ("__main__",),
    ),
    "linear_eval": (
        ("sharing",),
        ("metrics", "progress", "features", "written"),
        ("classify",),
        ("matching",),
        ("config", "beside"),
        ("results", "answers"),
        ("results_numbers", "results_one_shot"),
        ("verdict", "protocol_words", "finetuned_words", "protocol_row"),
        ("protocol", "protocol_numbers", "scored_run"),
        ("keeping",),
        ("look",),
        ("reports", "open_set_images", "embed", "asked"),
        ("scoring", "classifiers"),
        ("evaluate", "evaluate_open", "evaluate_few_shot", "finetuned", "comparison", "predict", "neighbors"),
        ("page",),
    ),
}
"""The rooms of each package from the ground up: a room imports only from the floors below its own."""

FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
PACKAGED = [path for path in FILES if path.relative_to(ROOT).parts[0] in FLOORS]
RUNNABLE = [
    *sorted((ROOT / "scripts").glob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import in a file, those inside functions and for the type checker alone included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from ((node.module or "", alias.name) for alias in node.names)


def room(module: str, member: str | None = None) -> tuple[str, str]:
    """(package, file or folder in it) that an import goes to; the room of a package's own face is ''.

    >>> room("simclr.losses.arcface", "ArcFaceLoss"), room("simclr", "losses"), room("simclr", "pretrain")
    (('simclr', 'losses'), ('simclr', 'losses'), ('simclr', ''))
    """
    package, *inner = module.split(".")
    if not inner and member in {place for floor in FLOORS.get(package, ()) for place in floor}:
        return package, member
    return package, inner[0] if inner else ""


def own_room(path: Path) -> tuple[str, str]:
    package, inner, *_ = path.relative_to(ROOT).with_suffix("").parts
    return package, "" if inner == "__init__" else inner


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not {module.split(".")[0] for module, _ in imports(path)} & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_a_floor(package: str) -> None:
    listed = [place for floor in FLOORS[package] for place in floor]
    assert len(listed) == len(set(listed))
    assert set(listed) == {own_room(path)[1] for path in PACKAGED if path.relative_to(ROOT).parts[0] == package} - {""}


@pytest.mark.parametrize("path", [path for path in PACKAGED if own_room(path)[1]], ids=name)
def test_a_room_imports_only_from_the_floors_below(path: Path) -> None:
    package, inside = own_room(path)
    level = {place: number for number, floor in enumerate(FLOORS[package]) for place in floor}
    for module, member in imports(path):
        other_package, other = room(module, member)
        if other_package != package or other == inside:
            continue
        assert other, f"{name(path)} imports {member} from the package's own face"
        assert level[other] < level[inside], f"{name(path)} imports {other}, which is not on a floor below {inside}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_above_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", PACKAGED, ids=name)
def test_no_private_name_leaves_its_wing(path: Path) -> None:
    ours = {(module, member) for module, member in imports(path) if module.split(".")[0] in FLOORS}
    private = {(m, n) for m, n in ours if any(part.startswith("_") for part in [*m.split("."), n or ""])}
    assert not {(m, n) for m, n in private if room(m, n) != own_room(path)}


@pytest.mark.parametrize("path", PACKAGED, ids=name)
def test_no_module_is_hidden_by_a_name_in_its_folders_face(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if "." in module:
        face, leaf = module.rsplit(".", 1)
        found = importlib.import_module(module)
        assert getattr(importlib.import_module(face), leaf) is found


LAZY = [path for path in PACKAGED if path.name == "__init__.py" and "lazy_face(" in path.read_text()]


@pytest.mark.parametrize("path", LAZY, ids=name)
def test_a_lazy_face_gives_what_it_tells_type_checkers(path: Path) -> None:
    face = importlib.import_module(".".join(path.relative_to(ROOT).parent.parts))
    # What a face does before anything is asked of it: see that it is not run as a program.
    own = ("typing", "augment.lazy", "sys", "warnings", "simclr.commands")
    told = {member: module for module, member in imports(path) if module not in own}
    assert set(told) == set(face.__all__) <= set(dir(face))
    for member, module in told.items():
        defined = f"{module}.{member}" if module == face.__name__ else module  # `from simclr import losses` is a module
        found = importlib.import_module(defined)
        assert getattr(face, member) is (found if module == face.__name__ else getattr(found, member))
    with pytest.raises(AttributeError, match="has no attribute 'pretrane'"):
        face.pretrane  # noqa: B018 (asking for it is what is tested)


def test_loading_an_encoder_brings_no_trainer() -> None:
    code = """if True:
        import sys
        import augment, linear_eval, simclr, simclr.config, simclr.data
        heavy = {"accelerate", "tyro", "matplotlib", "sklearn", "pyarrow", "rich"}
        assert not {"torch", "timm", *heavy} & set(sys.modules)
        import torch
        encoder = simclr.load_encoder("tests/written_before/classes")
        assert encoder(torch.zeros(2, 3, encoder.size, encoder.size, dtype=torch.uint8)).shape[0] == 2
        print(*sorted(heavy & set(sys.modules)), "loaded")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("loaded\n", 0), done.stderr


def test_help_and_mistakes_wait_for_no_trainer() -> None:
    code = """if True:
        import sys
        from importlib.util import module_from_spec, spec_from_file_location
        from pathlib import Path
        heavy = {"matplotlib", "pandas", "scipy.stats", "sklearn", "timm", "torchvision", "torch._dynamo"}
        for file in sorted(Path("scripts").glob("*.py")):
            for words in (["--help"], ["--bathc-size", "4"]):
                spec = spec_from_file_location(file.stem, file)
                script = module_from_spec(spec)
                spec.loader.exec_module(script)
                try:
                    sys.exit(script.main(words))
                except SystemExit as end:
                    assert end.code == 0 and words == ["--help"], (file, end.code)
                except script.run_command.__globals__["PipelineError"]:
                    assert words != ["--help"], file
                brought = heavy & set(sys.modules)
                assert not brought, f"{file} brings {brought}"
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_can_be_run_shadows_nothing_that_can_be_imported() -> None:
    # What a script or a notebook imports is looked for in its own folder first.
    known = {*LAYERS, "tests", "benchmarks", *packages_distributions(), *sys.stdlib_module_names}
    assert not {path.stem for path in RUNNABLE} & known
    assert len(RUNNABLE) > 20


def test_no_benchmark_patches_the_path() -> None:
    assert not [name(path) for path in RUNNABLE if "sys.path" in path.read_text()]


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in PACKAGED if path.name == "__init__.py"}
    assert found | {"simclr_commands"} == set(listed)  # as which scripts/ is installed
