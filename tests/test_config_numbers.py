"""Every number of every config: NaN, infinity and what float32 cannot hold are refused before anything is read or written."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

import simclr
from linear_eval.config import EvalConfig, EvaluationOptions
from linear_eval.embed import EmbedOptions
from simclr.command_line import parse_command, run_command
from simclr.config import TrainConfig
from simclr.config.yaml import from_dict
from simclr.errors import ConfigError, PipelineError, shown
from simclr.objectives import OBJECTIVES

NO_NUMBERS = (math.nan, math.inf, -math.inf, 1e39, -1e39, "nan", "inf", "-infinity", "1e400", 10**400)


def fields_of(cls: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths and types of the fields of a config and of those below it; every objective by its name."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if field.name == "objective":
            for kind in OBJECTIVES:
                yield from fields_of(kind, (*path, f"objective:{kind.name}"))
        elif dataclasses.is_dataclass(hint):
            yield from fields_of(hint, (*path, field.name))
        else:
            yield (*path, field.name), hint


def holds(hint: Any, kind: type) -> bool:
    return hint is kind or any(holds(inner, kind) for inner in typing.get_args(hint))


def filled(hint: Any, value: Any) -> Any:
    """``value`` wherever a float may stand in ``hint``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return next(filled(one, value) for one in inner if holds(one, float))
    if origin is tuple:
        return [filled(inner[0], value)] if inner[-1] is Ellipsis else [filled(one, value) for one in inner]
    return value if hint is float else 24


def content(path: tuple[str, ...], value: Any) -> Any:
    for name in reversed(path):
        group, _, chosen = name.partition(":")
        value = {group: {"name": chosen, **value} if chosen else value}
    return value


FLOATS = [
    (root, path, hint)
    for root in (TrainConfig, EvaluationOptions, EmbedOptions)
    for path, hint in fields_of(root)
    if holds(hint, float)
]


@pytest.mark.parametrize(("root", "path", "hint"), FLOATS, ids=[".".join([r.__name__, *p]) for r, p, _ in FLOATS])
def test_a_field_takes_no_number_that_is_none(root: Any, path: tuple[str, ...], hint: Any) -> None:
    for value in NO_NUMBERS:
        with pytest.raises(PipelineError) as error:
            from_dict(root, content(path, filled(hint, value)))
        assert "\n" not in str(error.value) and path[-1].partition(":")[0] in str(error.value)


def test_there_are_as_many_as_the_eye_finds() -> None:
    names = {".".join(path) for _, path, _ in FLOATS}
    some = {
        "optim.betas",
        "train.ema",
        "schedule.view_sizes",
        "objective:nt-xent.temperature",
        "eval.strengths",
        "augment.std",
    }
    assert some <= names and len(names) > 60


@pytest.mark.parametrize(
    "words",
    [
        "--optim.betas nan 0.9", "--optim.betas 0.9 2", "--optim.learning-rate inf", "--optim.learning-rate nan",
        "--optim.learning-rate 1e39", "--optim.learning-rate 0", "--optim.weight-decay nan", "--optim.weight-decay -1",
        "--optim.momentum 1", "--optim.momentum nan", "--optim.trust 0", "--optim.clip-norm inf", "--optim.clip-norm 0",
        "--train.ema 1", "--train.ema nan", "--objective.temperature inf", "--objective.temperature nan",
        "--objective.temperature 0", "--objective.temperature 1e-30", "--objective.temperature 1e9",
        "--schedule.warmup-epochs nan",
        "--schedule.final 2", "objective:triplet --objective.margin inf", "objective:margin --objective.beta nan",
        "objective:siamese --objective.threshold inf", "--encoder.patch-size 0", "--head.hidden-dim 0", "--sampler.per-class 0",
        "--sampler.classes 0", "--train.epochs 99999999999999999999", "--seed 99999999999999999999", "--data.size -5",
        "--augment.brightness 1e39", "--data.value-range 0 inf", "--data.value-range nan 1", "--mix.mixup inf",
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_one_line_and_nothing_is_written(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pretrain.py", "digits", *words.split()])
    code = run_command(lambda given: bool(simclr.pretrain(parse_command(given, "pretrain.py", ""))) and 0)
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    flag = next(word for word in words.split() if word.startswith("--"))
    assert flag.split(".")[-1].lstrip("-").replace("-", "_") in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["sgd_flip", "sgd_learning_rate", "knn_temperature", "few_label_c", "validation"])
def test_a_protocol_is_checked_wherever_it_is_made(field: str) -> None:
    for value in (math.nan, math.inf, -1.0):
        with pytest.raises(ConfigError, match=field):
            EvalConfig(**{field: value})


def test_any_value_is_shown_and_in_short() -> None:
    endless: list[Any] = []
    endless.append(endless)
    values = (endless, 1 << 100_000, "x" * 10**6, [[["y" * 1000] * 1000] * 1000], {"k": endless}, b"\0" * 5000)
    for value in values:
        assert 0 < len(shown(value)) <= 200
    for plain in (0.5, (1, 2), [1], None, "a", {"a": 1}, Path("x"), True):
        assert shown(plain) == repr(plain)
