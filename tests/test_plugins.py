"""Parts of the user's own: registered by a module that a command imports, on the user's word and nobody else's."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import timm.models._registry as timm_registry
import torch
import yaml

import simclr
from simclr import plugins
from simclr.command_line import parse_command, run_command
from simclr.config import DataConfig, TrainConfig, sources
from simclr.config.presets import PRESETS
from simclr.config.yaml import load_config
from simclr.data import load_source
from simclr.errors import CheckpointError, ConfigError, DataError
from simclr.losses import LossConfig, NTXentConfig, NTXentLoss
from simclr.objectives import OBJECTIVES
from simclr.run.log import read_metrics

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text()
RINGS = re.search(r"```python\n# rings\.py\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home of the test's own, and every list as it was."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_loaded", {})
    modules, objectives = set(sys.modules), [*OBJECTIVES]
    models = dict(timm_registry._model_entrypoints)
    own, presets = dict(sources.OWN_SOURCES), dict(PRESETS)
    yield
    OBJECTIVES[:] = objectives
    for table, before in ((PRESETS, presets), (sources.OWN_SOURCES, own), (timm_registry._model_entrypoints, models)):
        table.clear()
        table.update(before)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``command(main, *words)``: its exit code and what it said to stderr, in this process."""

    def run(main: Callable[[list[str]], int], *words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["command", *words])
        return run_command(main, keep_memory=False), capsys.readouterr().err

    return run


def test_what_a_plugin_registers_is_on_the_command_line_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "rings.py").write_text(
        f"{RINGS}\n@simclr.register_preset\ndef small_rings():\n    from simclr.config import DataConfig, TrainConfig\n"
        "    return TrainConfig(name='rings', data=DataConfig(source='rings'))\n"
    )
    left = plugins.take_plugins(["small-rings", "--plugin", str(tmp_path / "rings.py"), "objective:pull"])
    assert left == ["small-rings", "objective:pull"]
    config = parse_command([*left, "--objective.apart", "0.7"], "pretrain.py", "")
    assert config.plugin == (str(tmp_path / "rings.py"),)
    assert (config.data.source, type(config.objective).__name__, config.objective.apart) == ("rings", "PullConfig", 0.7)
    from simclr.config.yaml import save_config

    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    train, test = (load_source(DataConfig(source="rings", size=16), part) for part in ("train", "test"))
    assert (len(train), len(test), train.classes) == (400, 400, ("0", "1"))
    assert not torch.equal(train[0][0], test[0][0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.py", None, "there is no file .*gone.py for --plugin"),
        (
            "broken.py",
            "import math\n\nmath.nothing\n",
            "broken.py cannot be imported, line 3: AttributeError: module 'math'",
        ),
        ("unread.py", "x = 1\ndef f(:\n", "unread.py cannot be imported, line 2: SyntaxError: invalid syntax"),
        ("leaves.py", "raise SystemExit(3)\n", "leaves.py cannot be imported, line 1: SystemExit: 3"),
        ("random.py", "", "random.py needs another file name: random is the name of another module"),
        ("my-birds.py", "", "my-birds.py needs another file name: my-birds is no name of a module"),
        ("no.such.module", None, "the plugin no.such.module cannot be imported: ModuleNotFoundError"),
        ("nosuchmodule", None, "there is no module 'nosuchmodule' for --plugin"),
        ("", None, "--plugin needs the name of a module or a file"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_line(
    name: str, content: str | None, said: str, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    word = str(tmp_path / name) if name.endswith(".py") else name
    code, error = command(lambda words: 0, "--plugin", word)
    assert code == 2 and error.count("\n") == 1 and re.search(said, error), error
    assert Path(name).stem == "random" or Path(name).stem not in sys.modules


def test_a_plugin_that_breaks_in_the_midst_of_a_command_is_a_line_with_its_line(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    (tmp_path / "breaks.py").write_text("import torch\n\ndef of(z):\n    return torch.zeros(2) @ torch.zeros(3)\n")

    def main(words: list[str]) -> int:
        return sys.modules["breaks"].of(3)

    code, error = command(main, "--plugin", str(tmp_path / "breaks.py"))
    assert code == 2 and f"error: the plugin {tmp_path / 'breaks.py'}, line 4, in of: RuntimeError: " in error
    with pytest.raises(ZeroDivisionError):  # a defect of ours keeps its traceback
        command(lambda words: 1 // 0)


def test_code_that_a_folder_names_runs_on_the_users_word_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, file = tmp_path / "ran", tmp_path / "evil.py"
    file.write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    config = tmp_path / "config.yaml"
    for word in (str(file), "evil.py", "evil", "../evil.py", f"x\n{file}"):
        config.write_text(yaml.safe_dump({"plugin": [word]}))
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"add --plugin [^ ]* once|add --plugin x|which is not there"):
            load_config(config)
        assert not ran.exists()
    config.write_text(yaml.safe_dump({"plugin": [str(file)]}))
    plugins.load_plugin(str(file))
    assert ran.exists()
    load_config(config)  # in this process
    plugins._loaded.clear()
    del sys.modules["evil"]
    ran.unlink()
    load_config(config)  # as in a later command of the same user
    assert ran.exists()
    moved = tmp_path / "elsewhere" / "evil.py"
    moved.parent.mkdir()
    file.rename(moved)
    plugins._loaded.clear()
    del sys.modules["evil"]
    with pytest.raises(ConfigError, match=r"which is not there; give its place: --plugin evil\.py"):
        load_config(config)
    plugins.load_plugin(str(moved))
    load_config(config)


def test_a_home_that_cannot_be_written_to_costs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    (tmp_path / "fine.py").write_text("x = 1\n")
    assert plugins.load_plugin(str(tmp_path / "fine.py")).x == 1


def test_an_encoder_brings_its_plugin(tiny_run: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "rings.py").write_text(RINGS)
    plugins.load_plugin(str(tmp_path / "rings.py"))
    encoder = replace(tiny_run.encoder, name="tiny_net", layers=None, channels=None)
    config = replace(tiny_run, encoder=encoder, plugin=plugins.loaded_plugins())
    config = replace(
        config, train=replace(config.train, epochs=1, knn_every=0), data=replace(config.data, source="rings")
    )
    done = simclr.pretrain(config)
    images = torch.rand(2, 3, 16, 16)
    want = simclr.load_encoder(done.run_dir)(images)

    def forget() -> None:
        plugins._loaded.clear()
        del sys.modules["rings"], timm_registry._model_entrypoints["tiny_net"]

    forget()
    assert torch.equal(simclr.load_encoder(done.run_dir)(images), want)
    forget()
    (tmp_path / "home" / "simclr-pipeline" / "plugins").unlink()
    with pytest.raises(CheckpointError, match="is code that you have not run here yet"):
        simclr.load_encoder(done.run_dir)


def test_a_module_that_python_imported_is_noted_as_if_it_were_given(
    tiny_run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rings.py").write_text(RINGS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("rings")
    data = replace(tiny_run.data, source="rings")
    done = simclr.pretrain(replace(tiny_run, data=data, train=replace(tiny_run.train, epochs=1, knn_every=0)))
    plugins._loaded.clear()
    del sys.modules["rings"], sources.OWN_SOURCES["rings"], timm_registry._model_entrypoints["tiny_net"]
    assert load_config(done.run_dir / "config.yaml").plugin == (str(tmp_path / "rings.py"),)
    assert "rings" in sources.OWN_SOURCES


def test_names_that_are_taken_are_refused_and_a_cell_run_again_is_not() -> None:
    def registered(name: str) -> type[LossConfig]:
        @simclr.register_objective
        @dataclass(frozen=True, kw_only=True)
        class Own(LossConfig):
            def build(self, num_classes: int, dim: int, num_samples: int) -> NTXentLoss:
                return NTXentLoss()

        return Own

    class Named(NTXentConfig):
        name: ClassVar[str] = "nt-xent"

    with pytest.raises(ConfigError, match="expected a frozen dataclass, a subclass of LossConfig"):
        registered("own")  # it has no name
    with pytest.raises(ConfigError, match="there is an objective called nt-xent already"):
        simclr.register_objective(Named)
    Named.name = "named"
    for _ in range(2):
        simclr.register_objective(Named)
    assert [one.name for one in OBJECTIVES].count("named") == 1

    def digits() -> None: ...

    for register, kind in ((simclr.register_source, "data source"), (simclr.register_preset, "preset")):
        with pytest.raises(ConfigError, match=f"there is a {kind} called digits already"):
            register(digits)


def test_a_source_or_preset_of_another_kind_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_word(config: DataConfig) -> None: ...

    with pytest.raises(ConfigError, match="one_word cannot be called with a config and a part: too many positional"):
        simclr.register_source(one_word)  # type: ignore[arg-type]
    monkeypatch.setitem(PRESETS, "three", lambda: 3)
    with pytest.raises(ConfigError, match="the preset three gives int; expected a TrainConfig"):
        simclr.preset("three")


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda config, split: None, "gives None for its training images"),
        (lambda config, split: [1, 2], "image 0 of own is 1; expected an image"),
    ],
)
def test_a_source_that_gives_no_images_is_a_line(gives: Callable[..., object], said: str) -> None:
    gives.__name__ = "own"
    simclr.register_source(gives)
    with pytest.raises(DataError, match=said):
        load_source(DataConfig(source="own"), "train")


def test_a_source_without_a_test_part_has_one_held_out_and_classes_keep_their_numbers() -> None:
    pixels = np.arange(40, dtype=np.uint8).repeat(64).reshape(40, 8, 8)

    @simclr.register_source
    def own(config: DataConfig, split: str) -> object:
        return (pixels, ["ab"[i % 2] for i in range(40)]) if split == "train" else None

    config = DataConfig(source="own", size=8, test_fraction=0.25)
    train, test = (load_source(config, part) for part in ("train", "test"))
    assert (len(train), len(test)) == (30, 10)
    assert {int(image.sum()) for image, _ in (*train, *test)} == {i * 3 * 64 for i in range(40)}

    @simclr.register_source
    def own_parts(config: DataConfig, split: str) -> object:
        return (pixels[:4], ["a", "b", "c", "a"]) if split == "train" else (pixels[:2], ["c", "b"])

    test = load_source(DataConfig(source="own_parts", size=8), "test")
    assert (test.labels.tolist(), test.classes) == ([2, 1], ("a", "b", "c"))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("pretrain", "export"), marks=pytest.mark.slow),
        pytest.param(("pretrain", "evaluate", "export", "embed"), marks=pytest.mark.long),
    ],
    ids=" ".join,
)
def test_the_page_on_ones_own_parts_taken_literally(names: tuple[str, ...], tmp_path: Path) -> None:
    """The module and the commands as they stand there, each command a process of its own; and the encoder in another one."""
    (tmp_path / "rings.py").write_text(RINGS)
    assert sum(bool(line.strip()) for line in RINGS.splitlines()) <= 35
    found = dict(re.findall(r"^    (?:accelerate launch|python) scripts/(\w+)\.py (.*)$", PAGE, re.MULTILINE))
    assert list(found) == ["pretrain", "evaluate", "export", "embed"]
    home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | home
    short = ["--train.epochs", "2", "--schedule.warmup-epochs", "0", "--train.batch-size", "50", "--train.no-evaluate"]

    def process(*command: str) -> str:
        python = [sys.executable, *command]
        done = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in names:
        process(str(ROOT / "scripts" / f"{name}.py"), *found[name].split(), *(short if name == "pretrain" else []))
    steps = [line for line in read_metrics(tmp_path / "runs" / "rings" / "metrics.jsonl") if line["kind"] == "step"]
    assert steps[-1]["step"] == 16
    code = (
        "import simclr, torch; encoder = simclr.load_encoder('runs/rings'); "
        "print(type(encoder.backbone[0]).__name__, tuple(encoder(torch.zeros(2, 3, 32, 32)).shape))"
    )
    assert process("-c", code) == "Conv2d (2, 32)\n"
    if "embed" in names:
        assert np.load(tmp_path / "rings.npz")["features"].shape == (800, 32)
    if "evaluate" in names:
        assert json.loads((tmp_path / "runs" / "rings" / "result.json").read_text())
