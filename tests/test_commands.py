"""Every command by one name, in a clone and where the package alone is installed."""

import importlib.machinery
import sys
from pathlib import Path

import pytest

from simclr import commands
from simclr.__main__ import main, overview

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``scripts/`` beside the package: they are the package ``simclr_commands``."""

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
            if name == "simclr_commands":
                spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [str(SCRIPTS)]
                return spec
            return None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    for module in ("simclr.commands", "simclr.__main__"):
        monkeypatch.setattr(f"{module}.folder", lambda: None)


def test_every_script_is_a_command() -> None:
    assert {f"{name}.py" for name in commands.NAMES} == {path.name for path in SCRIPTS.glob("*.py")}
    assert all(len(line) < 100 for line in overview().splitlines())
    assert [line.split()[0] for line in overview().splitlines()[2:-2]] == [n.replace("_", "-") for n in commands.NAMES]


def test_a_clone_calls_them_by_their_files() -> None:
    assert commands.command("evaluate") == "scripts/evaluate.py"
    assert commands.as_called("python scripts/replay.py DIR") == "python scripts/replay.py DIR"


@pytest.mark.usefixtures("installed")
def test_an_installed_package_calls_them_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.command("check_data") == "simclr check-data"
    text = "accelerate launch scripts/pretrain.py folder, then python scripts/check_data.py or scripts/embed.py RUN"
    called = "accelerate launch -m simclr pretrain folder, then simclr check-data or simclr embed RUN"
    assert commands.as_called(text) == called
    assert ".py" not in overview()

    monkeypatch.setattr(sys, "argv", ["simclr", "check-data", "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr().out
    assert (
        end.value.code == 0
        and "usage: simclr check-data [FILE.yaml]" in out
        and "  simclr check-data --data.path DIR\n" in out
    )


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_without_a_command_it_says_which_there_are(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["simclr", *words])
    assert main() == 0
    assert "Score an encoder on labelled images" in capsys.readouterr().out


def test_a_slip_of_the_pen_gets_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for word, said in (("pretrian", "did you mean pretrain?"), ("dance", "there are pretrain, evaluate, ")):
        monkeypatch.setattr(sys, "argv", ["simclr", word])
        assert main() == 2
        assert said in capsys.readouterr().err
