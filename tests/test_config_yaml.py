"""Configs from words and files: strict types, unknown keys refused, everything written reads back."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import simclr
from augment import AugmentConfig
from simclr.command_line import parse_command
from simclr.config import DataConfig, EncoderConfig, TrainConfig
from simclr.config.marks import Rare, Runtime
from simclr.config.presets import PRESETS, preset
from simclr.config.yaml import differences, from_dict, load_config, save_config
from simclr.errors import ConfigError
from simclr.losses import CrossEntropyConfig, TripletConfig
from simclr.objectives import OBJECTIVES


def parse(*words: str) -> TrainConfig:
    return parse_command(words, "test", "a test")


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = simclr.preset(name)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_yaml_numbers_and_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: cifar10\noptim: {learning_rate: 1e-3}\naugment: {crop_scale: [0.2, 1]}\n")
    config = load_config(file)
    assert config.optim.learning_rate == 0.001  # YAML 1.1 reads 1e-3 as text
    assert config.augment.crop_scale == (0.2, 1.0)
    assert config.encoder == simclr.preset("cifar10").encoder
    assert config.name == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {learning_rat: 1}", "unknown key 'learning_rat'; did you mean learning_rate?"),
        ("train: {epochs: 1.5}", "train: epochs is 1.5; expected int"),
        ("train: {epochs: true}", "epochs is True; expected int"),
        ("train: {channels_last: 1}", "channels_last is 1; expected bool"),
        ("train: {precision: fp8}", "expected one of auto, fp32, bf16, fp16"),
        ("augment: {crop_scale: [0.2]}", "crop_scale has 1 values; expected 2"),
        ("augment: {size: 1}", "size is 1"),
        ("seed: one", "seed is 'one'; expected int"),
        ("preset: cifar", "unknown preset 'cifar', did you mean cifar10"),
        ("[1, 2]", "must hold keys and values"),
        ("", "is empty; it must hold keys and values"),
        ("name: 2026-99-99", "is not YAML"),
        ("[" * 3000, "is not YAML"),
        ("preset: [digits]", "preset is ['digits'], expected the name of a preset"),
        ("encoder: {layers: [0, 1, 1, 1]}", "encoder.layers is (0, 1, 1, 1)"),
        ("encoder: {layers: [1, 0, 1, 0]}", "encoder.layers is (1, 0, 1, 0)"),
        ("encoder: {layers: [0, 0, 0, 0]}", "encoder.layers is (0, 0, 0, 0)"),
        ("data: {source: digits, path: photos}", "data.source=digits does not read; add --data.source folder"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij")
)
MERGED = "a: &a {seed: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n" for before, name in zip("abcdefghi", "bcdefghij")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 3000, "is not YAML: it opens brackets or levels without end"),
        ("{" * 3000, "is not YAML: it opens brackets or levels without end"),
        ("\n".join(" " * i + "a:" for i in range(700)), "is not YAML: it opens brackets or levels without end"),
        ("\n".join(" " * i + "a:" for i in range(50)), "nests or repeats itself more than any config does"),
        ("data: &a\n  path: *a\n", "nests or repeats itself more than any config does"),
        ("&a\ndata: *a\n", "nests or repeats itself more than any config does"),
        ("augment:\n  extra: &x [*x]\n", "nests or repeats itself more than any config does"),
        (BOMB, "nests or repeats itself more than any config does"),
        (f"{BOMB}data: *j\n", "nests or repeats itself more than any config does"),
        (MERGED, "unknown key 'a'"),
        ("seed: 1\nname: x\nseed: 2\n", "is not YAML: the key 'seed' is there twice, at line 3"),
        ("data:\n  size: 8\n  size: 32\n", "is not YAML: the key 'size' is there twice, at line 3"),
        ("data: {size: 8, size: 32}\n", "is not YAML: the key 'size' is there twice, at line 1"),
        ("data: 0x" + "f" * 9000 + "\n", "data: expected keys and values, got a whole number of 36000 bits"),
        ("seed: '" + "9" * 6000 + "'\n", "seed is '999"),
        ("name: x\n" + "#" * (1 << 20), "is larger than any config"),
        ("!!timestamp x\n", "is not YAML: "),
        ("!!bool x\n", "is not YAML: "),
        ("seed: !!int ''\n", "is not YAML: "),
    ],
    ids=[
        "brackets", "braces", "700 levels", "50 levels", "in itself", "all in itself", "a list in itself", "a billion", "shown",
        "merged", "twice", "twice below", "twice in a row", "hexadecimal", "digits", "large", "timestamp", "bool", "int",
    ],
)  # fmt: skip
def test_a_file_without_end_or_with_a_key_twice_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert said in str(error.value) and str(file) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_mapping_may_take_the_keys_of_another_and_change_one(tmp_path: Path) -> None:
    (tmp_path / "merged.yaml").write_text("augment: &a {size: 16, jitter: 0.5}\ndata: {size: 16}\n")
    assert load_config(tmp_path / "merged.yaml").augment.jitter == 0.5
    (tmp_path / "merged.yaml").write_text("data: &a {size: 16}\naugment: {<<: *a, size: 24}\n")
    config = load_config(tmp_path / "merged.yaml")
    assert (config.data.size, config.augment.size) == (16, 24)


def test_a_file_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("preset: folder\nname: v\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml is not UTF-8 text"):
        load_config(tmp_path / "latin.yaml")


def test_command_line_overrides() -> None:
    config = parse("cifar10", "--encoder.name", "resnet50", "--train.batch-size=1024", "--objective.temperature", "0.1")
    assert config.encoder == replace(simclr.preset("cifar10").encoder, name="resnet50")
    assert config.train.batch_size == 1024
    assert config.objective.temperature == 0.1
    assert parse("--augment.crop-scale", "0.3", "0.9").augment.crop_scale == (0.3, 0.9)
    assert not parse("--train.no-evaluate").train.evaluate


def test_objectives_by_name() -> None:
    config = parse("cifar10", "objective:triplet", "--objective.mining", "distance-weighted", "--train.epochs", "20")
    assert config.objective == TripletConfig(mining="distance-weighted")
    assert config.train.epochs == 20
    assert parse("cifar10", "--train.epochs", "20", "objective:arcface").objective.name == "arcface"
    with pytest.raises(ConfigError, match=r"unknown 'objective:tripled'; did you mean objective:triplet\?"):
        parse("objective:tripled")
    with pytest.raises(ConfigError, match=r"unknown flag --objective.temperature"):
        parse("objective:triplet", "--objective.temperature", "3")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_every_objective_reads_back_from_yaml(objective: type, tmp_path: Path) -> None:
    config = replace(simclr.preset("digits"), objective=objective())
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digts"], "did you mean digits"),
        (["nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--train.epoch", "3"], "unknown flag --train.epoch; did you mean --train.epochs?"),
        (["--epochs", "3"], "did you mean --train.epochs?"),
        (["--train.epochs", "many"], "--train.epochs"),
        (["--train.epochs"], "--train.epochs"),
        (["digits", "cifar10"], "cifar10"),
        (["--augment.hue", "0.9"], "hue is 0.9"),
        (["--schedule.warmup-epochs", "400"], "longer than the run"),
        (["--objective.temperature", "0"], "objective.temperature is 0.0; it must be a number above 0"),
        (["--objective.temperature", "inf"], "objective.temperature is inf"),
        (["objective:moco", "--objective.temperature", "nan"], "objective.temperature is nan"),
        (["objective:supcon", "--objective.temperature", "inf"], "objective.temperature is inf"),
        (["objective:n-pair", "--objective.temperature", "inf"], "temperature is inf; it must be positive, or none"),
        (["objective:arcface", "--objective.lr-multiplier", "inf"], "lr_multiplier is inf"),
        (["--optim.betas", "nan", "0.9"], "optim.betas is (nan, 0.9)"),
        (["--optim.learning-rate", "1e39"], "optim.learning_rate is 1e+39"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(*words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_differences_name_what_matters() -> None:
    old = simclr.preset("digits")
    new = replace(old, seed=3, augment=AugmentConfig(size=32), train=replace(old.train, log_every=7))
    found = differences(old, new)
    assert "seed: 0 -> 3" in found
    assert "augment.size: 16 -> 32" in found
    assert not any("log_every" in line for line in found)  # the log does not change the weights


@dataclass(frozen=True)
class Oven:
    degrees: int = 180
    lamp: Runtime[bool] = True


@dataclass(frozen=True)
class Cake:
    eggs: int = 3
    nutmeg: Rare[float] = 0.1
    shelf: Runtime[Rare[int]] = 2
    oven: Oven = field(default_factory=Oven)
    kitchen: Runtime[Oven] = field(default_factory=Oven)


def test_differences_look_past_the_fields_that_are_marked_and_past_no_others() -> None:
    assert differences(Cake(), Cake(shelf=3, oven=Oven(lamp=False), kitchen=Oven(degrees=0))) == []
    assert differences(Cake(), Cake(eggs=4, nutmeg=0.2, shelf=3, oven=Oven(degrees=200, lamp=False))) == [
        "eggs: 3 -> 4",
        "nutmeg: 0.1 -> 0.2",
        "oven.degrees: 180 -> 200",
    ]


def test_from_dict_keeps_defaults_and_refuses_unknown_keys() -> None:
    assert from_dict(EncoderConfig, {"name": "resnet50", "channels": [1, 2]}).channels == (1, 2)
    with pytest.raises(ConfigError, match=r"stemm.*did you mean stem"):
        from_dict(EncoderConfig, {"stemm": "small"})


@pytest.mark.parametrize(
    ("words", "weights"),
    [(["balanced"], "balanced"), (["effective"], "effective"), (["none"], "none"), (["0.2", "0.8"], (0.2, 0.8)),
     (["1e-1", "2"], (0.1, 2.0))],
)  # fmt: skip
def test_class_weights_are_a_word_or_numbers(words: list[str], weights: object, tmp_path: Path) -> None:
    config = parse("digits", "objective:cross-entropy", "--objective.class-weights", *words, "--train.epochs", "20")
    assert config.objective == CrossEntropyConfig(class_weights=weights)
    assert config.train.epochs == 20
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert not differences(load_config(tmp_path / "config.yaml"), config)


@pytest.mark.parametrize("words", [["balancd"], ["0.2", "x"], ["-1", "2"], []])
def test_other_class_weights_are_refused_in_one_line(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"class.weights") as error:
        parse("digits", "objective:cross-entropy", "--objective.class-weights", *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("balancd", "class_weights is 'balancd'; expected one of none, balanced, effective, or a list"),
        (3, "class_weights is 3; expected a list"),
        ([0.1, "x"], r"class_weights\[1\] is 'x'; expected float"),
        (None, "class_weights is None; expected a list"),
    ],
)
def test_a_word_or_a_list_from_yaml(value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_dict(CrossEntropyConfig, {"class_weights": value})
    assert from_dict(CrossEntropyConfig, {"class_weights": ["1e-3", 1]}).class_weights == (0.001, 1.0)


def test_labels_are_a_word_or_a_file(tmp_path: Path) -> None:
    for word, expected in (("auto", "auto"), ("none", "none"), ("some/labels.csv", Path("some/labels.csv"))):
        config = parse("folder", "--data.path", "d", "--data.labels", word)
        assert config.data.labels == expected and type(config.data.labels) is type(expected)
        save_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match="labels is 3"):
        from_dict(DataConfig, {"source": "folder", "labels": 3})
    with pytest.raises(ConfigError, match=r"data\.labels=x\.csv names a file"):
        parse("digits", "--data.labels", "x.csv")


def test_a_setting_that_is_gone_may_stand_at_the_only_value_left(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("preset: digits\ndata:\n  decode: cpu\n")
    assert load_config(file).data == simclr.preset("digits").data
    file.write_text("preset: digits\ndata:\n  decode: gpu\n")
    with pytest.raises(ConfigError, match="data: decode is 'gpu', which this version no longer has; leave it out"):
        load_config(file)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--train.epochs", "20", "--data.path", "birds"], {"train": {"epochs": 20}, "data": {"path": Path("birds")}}),
        (["objective:triplet", "--objective.margin", "0.3"], {"objective": {"name": "triplet", "margin": 0.3}}),
        (["--optim.learning-rate", "1", "--name", "x"], {"optim": {"learning_rate": 1}, "name": "x"}),
    ],
)
def test_python_changes_a_config_as_the_command_line_does(words: list[str], changes: dict[str, object]) -> None:
    wanted = parse_command(["cifar10", *words], "pretrain.py", "")
    assert preset("cifar10", **changes) == preset("cifar10").but(**changes) == wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"epoch": 3}}, "train: unknown key 'epoch'; did you mean epochs?"),
        ({"tran": {"epochs": 3}}, "unknown key 'tran'; did you mean train?"),
        ({"train": {"epochs": "many"}}, "train.*epochs is 'many'; expected int"),
        ({"objective": "tripled"}, "objective names 'tripled'; did you mean triplet?"),
        ({"train": 3}, "train: expected keys and values, got 3"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")) as error:
        preset("cifar10", **changes)
    assert "\n" not in str(error.value)


def test_a_shortened_run_warms_up_for_a_tenth_of_it(tmp_path: Path) -> None:
    """Unless the warm-up is named, or the run can be made longer later, in all three ways to say it."""
    file = tmp_path / "short.yaml"

    def three(text: str, words: list[str], changes: dict[str, Any]) -> list[float]:
        file.write_text(f"preset: cifar10-lars\n{text}")
        found = [load_config(file), parse("cifar10-lars", *words), simclr.preset("cifar10-lars", **changes)]
        return [config.schedule.warmup_epochs for config in found]

    assert three("train: {epochs: 3}", ["--train.epochs=3"], {"train": {"epochs": 3}}) == [0.3] * 3
    assert three("train: {epochs: 2000}", ["--train.epochs", "2000"], {"train": {"epochs": 2000}}) == [10] * 3
    named = "train: {epochs: 20}\nschedule: {warmup_epochs: 5}"
    words = ["--train.epochs", "20", "--schedule.warmup-epochs", "5"]
    assert three(named, words, {"train": {"epochs": 20}, "schedule": {"warmup_epochs": 5}}) == [5] * 3
    steady = "train: {epochs: 20}\nschedule: {decay: wsd}"
    words = ["--train.epochs", "20", "--schedule.decay", "wsd"]
    assert three(steady, words, {"train": {"epochs": 20}, "schedule": {"decay": "wsd"}}) == [10] * 3
    assert simclr.preset("cifar10-lars").but(train={"epochs": 50}).schedule.warmup_epochs == 5
    with pytest.raises(ConfigError, match="together are longer than the run"):
        parse("adapt", "--data.path", "photos", "--encoder.name", "resnet18", "--train.epochs", "1")


def test_another_network_is_not_cut_as_the_presets_was(tmp_path: Path) -> None:
    """Its stages, stem and growing views were made for a small ResNet; what is named beside the new name stays."""
    (tmp_path / "net.yaml").write_text("preset: folder-small\nencoder: {name: resnet50}")
    by_words = parse("folder-small", "--encoder.name", "resnet50")
    for config in (
        load_config(tmp_path / "net.yaml"),
        by_words,
        simclr.preset("folder-small", encoder={"name": "resnet50"}),
    ):
        assert config.encoder == EncoderConfig(name="resnet50")
        assert config.schedule.view_sizes == ()
    small = simclr.preset("folder-small")
    assert parse("folder-small", "--encoder.name", small.encoder.name).encoder == small.encoder
    cut = parse(
        "folder-small", "--encoder.name", "resnet50", "--encoder.layers", "1", "1", "1", "1", "--encoder.stem", "small"
    )
    assert (cut.encoder.layers, cut.encoder.stem, cut.encoder.channels) == ((1, 1, 1, 1), "small", None)


def test_views_that_grow_grow_to_another_size() -> None:
    larger = parse("folder-small", "--augment.size", "96").schedule.view_sizes
    assert [px for _, px in larger] == [48, 72]
    assert [share for share, _ in larger] == [share for share, _ in simclr.preset("folder-small").schedule.view_sizes]
    assert simclr.preset("omniglot", augment={"size": 28}) == simclr.preset("omniglot")
    named = simclr.preset("folder-small", augment={"size": 96}, schedule={"view_sizes": [[0.5, 40]]})
    assert named.schedule.view_sizes == ((0.5, 40),)
