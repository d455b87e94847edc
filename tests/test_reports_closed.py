"""The whole evaluation on digits, its table, its files and its pictures."""

import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

from linear_eval import EvalConfig, encoder_digest, print_report, write_report, write_result
from linear_eval.protocol import evaluate
from linear_eval.reports import closed as report_module
from simclr.errors import CheckpointError, ConfigError, DataError

DIGITS = load_digits()


class Digits:
    """A labelled set as ``simclr.data`` gives it."""

    classes = tuple(f"digit {number}" for number in range(10))
    name = "digits"

    def __init__(self, rows: slice) -> None:
        self.pixels = torch.from_numpy(DIGITS.images[rows] * 15.9).to(torch.uint8).unsqueeze(1)
        self.labels = torch.from_numpy(DIGITS.target[rows]).long()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], int(self.labels[index])


class Encoder(nn.Module):
    """Random features; ``blind`` hides all but one corner of the image."""

    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.blind = blind
        self.layer = nn.Linear(64, 96)
        self.norm = nn.BatchNorm1d(96)

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        x = x.clone()
        if self.blind:
            x[:, :, 3:] = 0
        return self.norm(self.layer(x.flatten(1))).relu()


CONFIG = EvalConfig(labels_per_class=(1, 10), label_fractions=(0.1,), trials=3, strengths=(1e-3, 1e-2, 1e-1))
TRAIN, TEST = Digits(slice(0, 900)), Digits(slice(900, 1300))


@pytest.fixture(scope="module")
def encoders() -> tuple[Encoder, Encoder]:
    torch.manual_seed(0)
    return Encoder(blind=False), Encoder(blind=True)


@pytest.fixture(scope="module")
def result(encoders: tuple[Encoder, Encoder]) -> dict[str, Any]:
    return evaluate(*encoders, TRAIN, TEST, CONFIG, "cpu")


def test_every_score_stands_beside_the_untrained_encoder_and_raw_pixels(
    result: dict[str, Any], encoders: tuple[Encoder, Encoder]
) -> None:
    rows = result["rows"]
    assert list(rows) == ["encoder", "untrained", "raw pixels"]
    for row in rows.values():
        assert set(row["few_labels"]) == {"1 a class", "10 a class", "10 %"}
        assert row["linear"]["interval"][0] <= row["linear"]["accuracy"] <= row["linear"]["interval"][1]
        assert row["knn"]["interval"][0] <= row["knn"]["accuracy"] <= row["knn"]["interval"][1]
        assert len(row["linear"]["per_class"]) == 10
    # A third of the image says less than all of it, by every measure.
    assert rows["encoder"]["linear"]["accuracy"] > rows["untrained"]["linear"]["accuracy"] + 0.1
    assert rows["encoder"]["knn"]["accuracy"] > rows["untrained"]["knn"]["accuracy"] + 0.1
    pair = result["comparison"]["encoder - untrained"]
    gap = rows["encoder"]["linear"]["accuracy"] - rows["untrained"]["linear"]["accuracy"]
    assert pair["linear"]["difference"] == pytest.approx(gap)
    assert 0 < pair["linear"]["interval"][0] < gap < pair["linear"]["interval"][1]
    assert pair["10 a class"]["draws_won"] == 3
    assert result["encoder"]["sha256"] == encoder_digest(encoders[0])
    assert encoders[0].training and encoders[1].training
    assert result["data"]["train"]["images"] == 900 and result["data"]["test"]["images"] == 400


def test_all_labels_are_not_one_label_a_class(encoders: tuple[Encoder, Encoder]) -> None:
    config = EvalConfig(labels_per_class=(1,), label_fractions=(1.0,), trials=1, strengths=(1e-2,))
    few = evaluate(encoders[0], None, TRAIN, TEST, config, "cpu")["rows"]["encoder"]["few_labels"]
    assert {name: score["images"] for name, score in few.items()} == {"1 a class": 10, "100 %": 900}
    assert few["1 a class"]["mean"] < few["100 %"]["mean"] - 0.1


@pytest.mark.parametrize("probe", ["lbfgs", "sgd"])
def test_the_weights_are_read_for_a_proof_before_and_after_a_row(probe: Literal["lbfgs", "sgd"]) -> None:
    class Counted(Encoder):
        reads = 0

        def state_dict(self, *args: Any, **options: Any) -> Any:
            self.reads += 1
            return super().state_dict(*args, **options)

    torch.manual_seed(0)
    encoder = Counted(blind=False)
    config = EvalConfig(probe=probe, sgd_epochs=1, sgd_flip=0.0, trials=0, strengths=(1e-2,))
    result = evaluate(encoder, None, TRAIN, TEST, config, "cpu")
    assert encoder.reads == 2
    assert result["encoder"]["sha256"] == encoder_digest(encoder)


@pytest.mark.parametrize("image", [0, 1299])
def test_an_encoder_that_learns_from_an_image_is_refused(image: int) -> None:
    class Learning(Encoder):
        """Remembers one image, the first of training or the last of the test."""

        def forward(self, images: Tensor) -> Tensor:
            learned = images.float().flatten(1) == torch.from_numpy(DIGITS.images[image] * 15.9).byte().flatten()
            if learned.all(1).any():
                self.norm.running_mean += 1
            return super().forward(images)

    with pytest.raises(RuntimeError, match="changed while"):
        evaluate(Learning(blind=False), None, TRAIN, TEST, EvalConfig(trials=0, strengths=(1e-2,)), "cpu")


def test_the_protocol_says_in_words_what_was_done(result: dict[str, Any]) -> None:
    words = result["protocol"]
    for text in (
        "3 strengths from 0.001 to 0.1",
        "10 % of every training class",
        "900 training images",
        "400 test images",
    ):
        assert text in words["linear"]
    assert "20 nearest" in words["knn"] and "3 draws" in words["few labels"] and "C = 0.1" in words["few labels"]
    assert result["versions"]["torch"] == torch.__version__


def test_the_files_are_plain_json_and_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    paths = write_report(result, tmp_path / "run")
    assert sorted(path.name for path in paths) == ["confusion.png", "result.json", "scores.png"]
    assert sorted(tmp_path.glob("run/*")) == sorted(paths)  # nothing half-written is left behind

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=refuse)
    assert read == json.loads(json.dumps(result))
    for name in ("confusion.png", "scores.png"):
        with Image.open(tmp_path / "run" / name) as image:
            picture = np.asarray(image.convert("RGB"))
        assert min(picture.shape[:2]) > 400
        assert len(set(map(bytes, picture.reshape(-1, 3)[::7]))) > 50


def test_a_failed_write_leaves_the_old_result(result: dict[str, Any], tmp_path: Path, small_disk: Any) -> None:
    path = write_result(result, tmp_path / "result.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result({"accuracy": float("nan")}, path)

    with (
        small_disk(len(before) // 2),
        pytest.raises(CheckpointError, match=r"result\.json could not be written \(File too large\); free some space"),
    ):
        write_report(result, tmp_path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_table_shows_percent_with_intervals(result: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_report(result, console)
    text = console.file.getvalue()
    linear = result["rows"]["encoder"]["linear"]
    low, high = (100 * end for end in linear["interval"])
    assert f"{100 * linear['accuracy']:.1f} [{low:.1f}, {high:.1f}]" in text
    few = result["rows"]["raw pixels"]["few_labels"]["10 a class"]
    assert f"{100 * few['mean']:.1f} ± {100 * few['std']:.1f}" in text
    for word in ("encoder", "untrained", "raw pixels", "kNN (20)", "encoder - untrained: linear +"):
        assert word in text


def test_the_reader_is_told_of_the_end_of_a_sweep_and_of_images_left_out(encoders: tuple[Encoder, Encoder]) -> None:
    partly = Digits(slice(0, 300))
    partly.labels[::3] = -1
    config = EvalConfig(strengths=(1e-2, 1e3), trials=0)
    result = evaluate(encoders[0], None, partly, TEST, config, "cpu")
    assert list(result["rows"]) == ["encoder", "raw pixels"] and "few_labels" not in result["rows"]["encoder"]
    assert result["data"]["train"] == {"name": "digits", "images": 300, "without_label_left_out": 100}
    console = Console(file=io.StringIO(), width=200)
    print_report(result, console)
    text = console.file.getvalue()
    assert "chosen strength 0.01 is the end of the sweep" in text
    assert "100 images of the train set have no label" in text


def test_the_sgd_protocol_gives_the_same_kind_of_result(encoders: tuple[Encoder, Encoder], tmp_path: Path) -> None:
    config = EvalConfig(probe="sgd", sgd_epochs=10, sgd_flip=0.0, trials=0)
    result = evaluate(encoders[0], None, TRAIN, TEST, config, "cpu")
    assert "trained 10 epochs" in result["protocol"]["linear"] and "Nesterov" in result["protocol"]["linear"]
    assert result["rows"]["encoder"]["linear"]["strength"] is None
    assert result["rows"]["encoder"]["linear"]["accuracy"] > 0.3
    assert len(write_report(result, tmp_path)) == 3


def test_many_classes_still_make_a_legible_picture(result: dict[str, Any], tmp_path: Path) -> None:
    wide = json.loads(json.dumps(result))
    wide["rows"]["encoder"]["linear"]["confusion"] = np.eye(120, dtype=int).tolist()
    wide["rows"]["encoder"]["linear"]["classes"] = list(range(120))
    path = report_module.confusion_picture(wide, tmp_path / "confusion.png")
    with Image.open(path) as picture:
        assert max(picture.size) < 2500


def test_sets_without_labels_are_refused_before_any_work(encoders: tuple[Encoder, Encoder]) -> None:
    class NeverRun(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("features were taken of a set that cannot be scored")

    unlabelled = Digits(slice(0, 50))
    unlabelled.labels = None
    for pair, name in (((unlabelled, TEST), "training"), ((TRAIN, unlabelled), "test")):
        with pytest.raises(DataError, match=f"the {name} set has 50 images and no labels") as caught:
            evaluate(NeverRun(), None, *pair)
        assert "\n" not in str(caught.value)


def test_config_refuses_values_out_of_range() -> None:
    for options in (
        {"knn_k": 0},
        {"trials": -1},
        {"probe": "svm"},
        {"precision": "int8"},
        {"knn_temperature": 0.0},
        {"strengths": ()},
        {"validation": 0.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(options))):
            EvalConfig(**options)
