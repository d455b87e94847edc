"""Paths with ``~`` and variables mean what a shell would have made of them, wherever a path can be given."""

import dataclasses
import os
import subprocess
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import linear_eval.embed
import linear_eval.page.options
import simclr
import simclr.exchange.formats
from linear_eval.config import EvaluationOptions
from simclr.command_line import parse_command, parse_flags, run_and_flags
from simclr.config import DataConfig, EncoderConfig, TrainConfig
from simclr.config.yaml import config_fields, load_config, save_config
from simclr.errors import CheckpointError, ConfigError
from simclr.finetune import parse_finetuning
from simclr.paths import expanded

OPTIONS = (
    TrainConfig,
    EvaluationOptions,
    linear_eval.embed.EmbedOptions,
    linear_eval.page.options.PageOptions,
    simclr.exchange.formats.ExportOptions,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, a folder in it that $PHOTOS names, and two variables that are not set."""
    (tmp_path / "photos").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOTOS", str(tmp_path / "photos"))
    monkeypatch.setenv("SUB", "a/b")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "typed", ["~", "~/x/y", "$PHOTOS/x", "${PHOTOS}/x", "${PHOTOS}x", "x/$SUB/y", "plain/x", "/abs/~", "a~b"]
)
def test_a_path_is_what_a_shell_makes_of_it(typed: str) -> None:
    said = subprocess.run(["sh", "-c", f"printf %s {typed}"], capture_output=True, text=True, check=True).stdout
    assert expanded(Path(typed)) == Path(said)


@pytest.mark.parametrize("odd", ["$bad", "US$ and CA$", "$PHOTOS", "${SUB}", "a$SUB"])
def test_a_folder_that_has_a_dollar_in_its_name_is_taken_as_it_is(odd: str, home: Path) -> None:
    (home / odd).mkdir()
    for path in (Path(odd), home / odd, home / odd / "new"):
        assert expanded(path) == path
    assert DataConfig(source="folder", path=Path(odd)).path == Path(odd)
    assert parse_command(["folder", "--data.path", odd], "pretrain.py", "").data.path == Path(odd)


def path_flags(cls: Any, prefix: str = "--") -> Iterator[str]:
    for name, hint in config_fields(cls).items():
        members = [hint, *typing.get_args(hint)]
        flag = f"{prefix}{name}".replace("_", "-")
        if Path in members:
            yield flag
        for member in members:
            if dataclasses.is_dataclass(member) and member.__name__ in ("DataConfig", "EncoderConfig"):
                yield from path_flags(member, f"{flag}.")


@pytest.mark.parametrize("options", OPTIONS)
def test_every_flag_that_takes_a_path_takes_one_with_a_variable(options: Any, home: Path) -> None:
    flags = [*path_flags(options), *(["--encoder.init"] if options is TrainConfig else [])]
    assert flags
    for flag in flags:
        ending = ".html" if options is OPTIONS[3] else ".parquet" if options is OPTIONS[2] else ""
        source = ["--data.source", "folder"] if flag.startswith("--data") else []
        source = ["--protocol", "one-shot"] if flag == "--runs" else source

        def parse(path: str, flag: str = flag, source: list[str] = source) -> Any:
            config = parse_flags(options, [*source, flag, path], "a.py", "", default=options())
            for part in flag.removeprefix("--").split("."):
                config = getattr(config, part)
            return config[0] if isinstance(config, tuple) else config

        for typed in ("~/photos/x", "$PHOTOS/x", "${PHOTOS}/x"):
            assert str(parse(typed + ending)) == str(home / "photos" / f"x{ending}"), flag
        with pytest.raises(ConfigError, match=rf"{flag.removeprefix('--')} is .*the variable \$NOWHERE is not set"):
            parse(f"$NOWHERE/x{ending}")


def test_a_yaml_file_takes_them_too(home: Path) -> None:
    (home / "a.yaml").write_text("out: ~/runs\ndata: {source: folder, path: $PHOTOS, labels: '${PHOTOS}/l.csv'}\n")
    config = parse_command(["~/a.yaml"], "pretrain.py", "")
    assert (config.out, config.data.path) == (home / "runs", home / "photos")
    assert config.data.labels == home / "photos" / "l.csv"
    (home / "b.yaml").write_text("data: {source: folder, path: $NOWHERE/x}\n")
    with pytest.raises(ConfigError, match=r"data.path is .*NOWHERE is not set"):
        parse_command([str(home / "b.yaml")], "pretrain.py", "")


def test_the_run_of_a_command_may_be_in_the_home_folder() -> None:
    for word in ("~/none", "$HOME/none"):
        with pytest.raises(CheckpointError, match=rf"^the run is '{os.environ['HOME']}/none': there is no such file"):
            run_and_flags([word], "evaluate.py", "", "score", EvaluationOptions())
        with pytest.raises(CheckpointError, match=rf"^path is '{os.environ['HOME']}/none': there is no such file"):
            simclr.load_encoder(word)
    with pytest.raises(ConfigError, match=r"the run is .*NOWHERE is not set"):
        run_and_flags(["$NOWHERE/a"], "evaluate.py", "", "score", EvaluationOptions())


def test_weights_to_start_from_may_be_in_the_home_folder() -> None:
    with pytest.raises(ConfigError, match=f"encoder.init is '{os.environ['HOME']}/w.pth': there is no such file"):
        parse_finetuning(["--encoder.init", "~/w.pth"], "finetune.py", "")
    with pytest.raises(ConfigError, match=r"encoder.init is .*NOWHERE is not set"):
        parse_finetuning(["--encoder.init", "$NOWHERE/w.pth"], "finetune.py", "")
    assert EncoderConfig(init="resnet18.a1_in1k").init == "resnet18.a1_in1k"


def test_a_config_that_is_written_holds_the_whole_path_and_is_read_back_equal(home: Path) -> None:
    command = ["folder", "--data.path", "$PHOTOS", "--out", "~/runs", "--name", "a"]
    config = parse_command(command, "pretrain.py", "")
    save_config(config, home / "config.yaml")
    assert load_config(home / "config.yaml") == config == parse_command(command, "pretrain.py", "")
    assert str(home / "photos") in (home / "config.yaml").read_text() and "$" not in (home / "config.yaml").read_text()


def test_a_run_whose_folder_of_images_is_gone_is_still_read(home: Path) -> None:
    # Its config says of a folder with a dollar what was true when it was trained.
    (home / "$pics").mkdir()
    config = replace(TrainConfig(), data=DataConfig(source="folder", path=home / "$pics"))
    save_config(config, home / "config.yaml")
    (home / "$pics").rmdir()
    assert replace(load_config(home / "config.yaml"), name=config.name) == config
